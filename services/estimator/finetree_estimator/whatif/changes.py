# SPDX-License-Identifier: Apache-2.0
"""Single changes to a spec that lower memory, each with its harm; remedies combine them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from finetree_api.types.v1 import hardware_pb2, method_pb2, run_spec_pb2, training_pb2
from finetree_runtime.runspec.number_formats import MOST_TIMES_SLOWER, times_slower
from finetree_runtime.runspec.paths import canonical
from finetree_runtime.runspec.resolve import resolve_spec
from google.protobuf import json_format

from finetree_estimator.programs import FINETREE
from finetree_estimator.spec.parse import ParsedRequest

SHORTEST = 128
"""Shortest sequence length in tokens that is proposed."""
STEPS = 3
"""Halvings of a sequence length that are proposed; of a micro-batch, besides one row."""
MAX_DEVICES = 8
"""Most devices that are proposed: one machine's."""
LARGE_STATES = 0.02
"""Share of device memory that optimizer states must have for 8-bit states to be proposed."""

_MICRO_BATCH, _SHARDING, _IN_BACKWARD = "training.micro_batch_size", "hardware.sharding", "optimizer_in_backward"
_CHECKPOINTING, _LEARNING_RATE = "gradient_checkpointing", "training.learning_rate"
MAJOR = ("method", "devices")
"""Groups whose changes are proposed only where all others together do not suffice."""


@dataclass(frozen=True, slots=True)
class Patch:
    """A new value of one field of a RunSpec."""

    path: str
    """RunSpec path, such as training.micro_batch_size."""
    value: Any
    """In the form of json_format: number, boolean, string, an enum's name, or a dictionary for a message."""
    summary: str
    """One line of text; empty where another patch of the change has it."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change of one setting, made by one or more patches.

    At most one change of a `group` is made; a higher `level` saves more memory. `excludes` names groups that have no
    effect, or the opposite one, together with this change. `harm` orders changes (own judgement): below 10 they cost
    only speed, below 20 perhaps quality, below 30 rows or hardware, and from 30 on they replace the method.
    """

    group: str
    level: int
    harm: int
    summary: str
    patches: tuple[Patch, ...] = field(hash=False)  # values may be dictionaries
    excludes: frozenset[str] = frozenset()

    def goes_with(self, others: Iterable["Change"]) -> bool:
        """Whether this change can be combined with others."""
        return all(
            self.group != other.group and self.group not in other.excludes and other.group not in self.excludes
            for other in others
        )


def applicable(parsed: ParsedRequest) -> list[Change]:
    """List the changes that may lower a run's memory, unordered."""
    spec = parsed.spec
    found = [*_kernels(spec), *_micro_batch(spec), *_checkpointing(parsed), *_sequence(spec), *_base(spec)]
    found += [*_optimizer(parsed), *_in_backward(parsed), *_precision(parsed)]
    found += [*_sharding(parsed), *_devices(parsed), *_method(parsed)]
    return found


def apply_patches(spec: run_spec_pb2.RunSpec, patches: Iterable[Patch]) -> run_spec_pb2.RunSpec:
    """Copy a spec and apply patches to it in order; setting a member of a oneof clears the others."""
    changed = run_spec_pb2.RunSpec()
    changed.CopyFrom(spec)
    for patch in patches:
        value = patch.value
        for name in reversed(patch.path.split(".")):
            value = {name: value}
        json_format.ParseDict(value, changed)
    return changed


def _kernels(spec: run_spec_pb2.RunSpec) -> Iterator[Change]:
    if spec.attention == training_pb2.ATTENTION_KERNEL_EAGER:
        yield _one("attention", "ATTENTION_KERNEL_SDPA", "attention without stored scores (SDPA)", harm=1)
    if spec.loss_kernel == training_pb2.LOSS_KERNEL_FULL_LOGITS:
        text = "logits of target tokens only"
        yield _one("loss_kernel", "LOSS_KERNEL_COMPLETION_ONLY", text, harm=1)
    if spec.loss_kernel != training_pb2.LOSS_KERNEL_FUSED:
        yield _one("loss_kernel", "LOSS_KERNEL_FUSED", "a fused loss kernel", level=2, harm=5)


def _micro_batch(spec: run_spec_pb2.RunSpec) -> Iterator[Change]:
    """Propose halved micro-batches and one row: more micro-steps, each less efficient."""
    size = spec.training.micro_batch_size
    smaller = sorted({size >> step for step in range(1, STEPS + 1)} - {0} | {1} - {size}, reverse=True)
    for level, rows in enumerate(smaller, start=1):
        text = f"micro-batch {rows}"
        yield _one(_MICRO_BATCH, rows, text, level=level, harm=1 + level)


def _checkpointing(parsed: ParsedRequest) -> Iterator[Change]:
    spec, path = parsed.spec, _CHECKPOINTING
    now = spec.gradient_checkpointing
    if not parsed.run.method.allows_checkpointing or now == training_pb2.GRADIENT_CHECKPOINTING_OFFLOADED:
        return
    if now == training_pb2.GRADIENT_CHECKPOINTING_OFF:
        yield _one(path, "GRADIENT_CHECKPOINTING_FULL", "recompute activations", harm=6)
    if not _on_cpu(spec):
        text = "recompute activations, layer inputs in host memory"
        yield _one(path, "GRADIENT_CHECKPOINTING_OFFLOADED", text, level=2, harm=9)


def _sequence(spec: run_spec_pb2.RunSpec) -> Iterator[Change]:
    for level in range(1, STEPS + 1):
        length = spec.training.sequence_length >> level
        if length < SHORTEST:
            return
        text = f"rows truncated at {length} tokens"
        yield _one("training.sequence_length", length, text, level=level, harm=20 + 3 * (level - 1))


def _base(spec: run_spec_pb2.RunSpec) -> Iterator[Change]:
    """Propose a smaller quantization of a quantized base."""
    if not spec.HasField("qlora"):
        return
    if spec.qlora.quantization == method_pb2.QUANTIZATION_INT8:
        values = {"qlora.quantization": "QUANTIZATION_NF4", "qlora.double_quantization": True}
        yield _change("qlora.quantization", values, "4-bit instead of 8-bit base", harm=10)
    elif not spec.qlora.double_quantization and spec.qlora.quantization != method_pb2.QUANTIZATION_GPTQ_INT4:
        yield _one("qlora.double_quantization", value=True, summary="double quantization", harm=1)


def _optimizer(parsed: ParsedRequest) -> Iterator[Change]:
    """Propose 8-bit optimizer states where the states are large; CPUs have no kernels for them."""
    run, spec = parsed.run, parsed.spec
    states = 2 * run.master_bytes * run.method.trainable_parameters(run.shape)
    if _on_cpu(spec) or states < LARGE_STATES * run.device.usable_bytes:
        return
    if spec.optimizer == training_pb2.OPTIMIZER_ADAMW:
        yield _one("optimizer", "OPTIMIZER_ADAMW_8BIT", "8-bit optimizer states", harm=7)
    if spec.optimizer in (training_pb2.OPTIMIZER_ADAMW, training_pb2.OPTIMIZER_ADAMW_8BIT):
        text = "paged 8-bit optimizer states"
        yield _one("optimizer", "OPTIMIZER_PAGED_ADAMW_8BIT", text, level=2, harm=8)


def _in_backward(parsed: ParsedRequest) -> Iterator[Change]:
    """Propose updates in the backward pass: the batch is then one micro-batch, and gradients are not clipped."""
    run, spec = parsed.run, parsed.spec
    if not run.method.trains_base or spec.optimizer_in_backward:
        return
    for level, rows in enumerate(sorted({run.micro_batch, 1}, reverse=True), start=1):
        values: dict[str, Any] = {_IN_BACKWARD: True}
        batch = rows * run.devices
        # Where the request has no micro-batch, its default follows the batch: set both.
        if rows != run.micro_batch or batch != run.batch:
            values[_MICRO_BATCH] = rows
        if batch != run.batch:
            values["training.effective_batch_size"] = batch
        if spec.training.max_grad_norm:
            values["training.max_grad_norm"] = 0
        text = f"weights updated during the backward pass, batches of {batch}"
        excludes = frozenset({_MICRO_BATCH, "devices"})
        yield _change(_IN_BACKWARD, values, text, level=level, harm=9 + 3 * level, excludes=excludes)


def _precision(parsed: ParsedRequest) -> Iterator[Change]:
    spec = parsed.spec
    if spec.precision == training_pb2.PRECISION_FP32:
        if times_slower(parsed.request.matrix_rates, spec.WhichOneof("method")) <= MOST_TIMES_SLOWER:
            yield _one("precision", "PRECISION_BF16", "16-bit weights and compute", harm=10)
    elif spec.precision == training_pb2.PRECISION_BF16_MIXED and parsed.run.method.trains_base:
        yield _one("precision", "PRECISION_BF16", "no float32 master weights", harm=13)


def _sharding(parsed: ParsedRequest) -> Iterator[Change]:
    if parsed.run.devices == 1:
        return
    kinds = (
        (hardware_pb2.SHARDING_OPTIMIZER, 2, "optimizer states sharded over the devices (ZeRO-1)"),
        (hardware_pb2.SHARDING_GRADIENTS, 3, "gradients and optimizer states sharded over the devices (ZeRO-2)"),
        (
            hardware_pb2.SHARDING_FULL,
            6,
            "parameters, gradients and optimizer states sharded over the devices (FSDP, ZeRO-3)",
        ),
    )
    # The suite's worker copies all or shards all.
    whole = parsed.run.program.name == FINETREE.name
    for kind, harm, text in kinds:
        if kind > parsed.spec.hardware.sharding and not (whole and kind != hardware_pb2.SHARDING_FULL):
            yield _one(_SHARDING, hardware_pb2.Sharding.Name(kind), text, level=kind, harm=harm)


def _devices(parsed: ParsedRequest) -> Iterator[Change]:
    if _on_cpu(parsed.spec):
        return
    count, level = 2 * parsed.run.devices, 1
    while count <= MAX_DEVICES:
        values = {"hardware.count": count, _SHARDING: "SHARDING_FULL"}
        text = f"{count} devices with full sharding (FSDP, ZeRO-3)"
        excludes = frozenset({_SHARDING})
        yield _change("devices", values, text, level=level, harm=20 + 2 * level, excludes=excludes)
        count, level = 2 * count, level + 1


def _method(parsed: ParsedRequest) -> Iterator[Change]:
    """Propose a quantized base for LoRA, else another method with its default learning rate."""
    spec, method = parsed.spec, parsed.run.method
    if spec.HasField("lora") and not _on_cpu(spec):
        yield _one("qlora", {"lora": canonical(spec.lora)}, "a 4-bit base (QLoRA)", group="method", harm=10)
    if spec.HasField("lora") or spec.HasField("qlora"):
        return
    reset = {_IN_BACKWARD: False} if spec.optimizer_in_backward else {}
    silent = frozenset({_IN_BACKWARD, "precision"})
    if method.trains_base:
        values: dict[str, Any] = {"lora": {}, _LEARNING_RATE: _learning_rate("lora"), **reset}
        yield _change("method", values, f"LoRA instead of {method.described}", harm=30, excludes=silent)
    if not _on_cpu(spec):
        # A method without checkpointing is replaced by one that has it by default.
        recompute = {} if method.allows_checkpointing else {_CHECKPOINTING: "GRADIENT_CHECKPOINTING_FULL"}
        values = {"qlora": {}, _LEARNING_RATE: _learning_rate("qlora"), **recompute, **reset}
        yield _change("method", values, f"QLoRA instead of {method.described}", level=2, harm=34, excludes=silent)


def _learning_rate(method: str) -> float:
    """Default learning rate of a method; full fine-tuning's is ten times too low for adapters."""
    spec = run_spec_pb2.RunSpec()
    getattr(spec, method).SetInParent()
    return resolve_spec(spec).spec.training.learning_rate


def _one(path: str, value: Any, summary: str, *, group: str = "", level: int = 1, harm: int) -> Change:
    """Build a change of one field; its group defaults to the field's path."""
    return _change(group or path, {path: value}, summary, level=level, harm=harm)


def _change(
    group: str,
    values: Mapping[str, Any],
    summary: str,
    *,
    level: int = 1,
    harm: int,
    excludes: frozenset[str] = frozenset(),
) -> Change:
    """Build a change of several fields from values by RunSpec path."""
    patches = tuple(Patch(path, value, summary) for path, value in values.items())
    return Change(group, level=level, harm=harm, summary=summary, patches=patches, excludes=excludes)


def _on_cpu(spec: run_spec_pb2.RunSpec) -> bool:
    return spec.hardware.WhichOneof("device") == "cpu"
