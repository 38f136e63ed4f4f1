# SPDX-License-Identifier: Apache-2.0
"""Conversion of RunSpec.method to a method of `methods/`: one reader for each message of the oneof."""

from collections.abc import Callable

from finetree_api.types.v1 import method_pb2, run_spec_pb2
from finetree_runtime.errors import invalid_field

from finetree_estimator.methods.adapter import Adapter
from finetree_estimator.methods.base import Method
from finetree_estimator.methods.full import Full
from finetree_estimator.methods.lora import Lora
from finetree_estimator.methods.prefix import Prefix
from finetree_estimator.methods.qlora import Qlora
from finetree_estimator.methods.targets import UnknownTargetError, preset_targets, target_linears
from finetree_estimator.shapes.architecture import Shape

_PRESETS = {
    method_pb2.TARGET_PRESET_ALL_LINEAR: "all-linear",
    method_pb2.TARGET_PRESET_ATTENTION: "attention",
    method_pb2.TARGET_PRESET_QUERY_VALUE: "query-value",
    method_pb2.TARGET_PRESET_MLP: "mlp",
}


def read_method(spec: run_spec_pb2.RunSpec, shape: Shape) -> Method:
    """Read the method of a resolved spec and check it against the model's shape. Raises InvalidArgument."""
    return READERS[str(spec.WhichOneof("method"))](spec, shape)


def _full(spec: run_spec_pb2.RunSpec, shape: Shape) -> Full:
    if spec.full.frozen_layers >= shape.layers:
        text = f"must be less than {shape.layers}, the model's number of layers"
        raise invalid_field("spec.full.frozen_layers", text)
    return Full(spec.full.frozen_layers)


def _lora(spec: run_spec_pb2.RunSpec, shape: Shape) -> Lora:
    return _adapters(spec.lora, shape, "spec.lora")


def _qlora(spec: run_spec_pb2.RunSpec, shape: Shape) -> Qlora:
    stored = spec.qlora.quantization
    return Qlora.of(
        _adapters(spec.qlora.lora, shape, "spec.qlora.lora"),
        bits=8 if stored == method_pb2.QUANTIZATION_INT8 else 4,
        double_quantized=spec.qlora.double_quantization,
        gptq=stored == method_pb2.QUANTIZATION_GPTQ_INT4,
    )


def _prefix(spec: run_spec_pb2.RunSpec, shape: Shape) -> Prefix:  # noqa: ARG001
    return Prefix(spec.prefix.virtual_tokens)


def _adapter(spec: run_spec_pb2.RunSpec, shape: Shape) -> Adapter:  # noqa: ARG001
    places = 2 if spec.adapter.placement == method_pb2.ADAPTER_PLACEMENT_HOULSBY else 1
    return Adapter(spec.adapter.bottleneck_size, places)


READERS: dict[str, Callable[[run_spec_pb2.RunSpec, Shape], Method]] = {
    Full.name: _full,
    Lora.name: _lora,
    Qlora.name: _qlora,
    Prefix.name: _prefix,
    Adapter.name: _adapter,
}
"""Reader of each message of RunSpec.method, by its field."""


def _adapters(given: method_pb2.Lora, shape: Shape, path: str) -> Lora:
    targets = tuple(given.target_modules) or _preset(given, shape, path)
    try:
        found = target_linears(shape, targets)
    except UnknownTargetError as error:
        names = ", ".join(preset_targets(shape, "all-linear", experts=True))
        text = f"the model has no linear layer {error.name!r}; it has {names}"
        raise invalid_field(f"{path}.target_modules", text) from error
    if given.weight_decomposed and any(part.routed for part in found):
        text = "is not supported for adapters of experts, which are stacked parameters, not linear layers"
        raise invalid_field(f"{path}.weight_decomposed", text)
    return Lora(
        given.rank,
        targets,
        given.dropout,
        weight_decomposed=given.weight_decomposed,
        train_embeddings=given.train_embeddings,
        train_head=given.train_head,
    )


def _preset(given: method_pb2.Lora, shape: Shape, path: str) -> tuple[str, ...]:
    preset = _PRESETS[given.targets]
    targets = preset_targets(shape, preset, experts=given.include_experts)
    if not targets:
        text = f"the preset {preset} selects no module: "
        if preset == "query-value":
            text += "queries and values are made of latents here; use the preset attention"
        else:
            text += "the MLPs of this model are experts, or named so that peft takes them for such; set include_experts"
        raise invalid_field(f"{path}.targets", text)
    return targets
