# SPDX-License-Identifier: Apache-2.0
"""A LoRA adapter as GGUF file, which llama.cpp adds to the unchanged base while it runs.

A file has one alpha for all layers, and llama.cpp scales each product by alpha / rank: where that is not a layer's own
scale (rank stabilization, alphas of their own), the rest of it is multiplied into its B.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import torch
from gguf.constants import Keys
from peft import PeftModel
from peft.tuners.lora import LoraLayer, ParamWrapper
from torch import Tensor
from transformers import PreTrainedModel

from finetree_worker.errors import PlanError
from finetree_worker.export.gguf import architectures
from finetree_worker.export.gguf.model_file import About, describe
from finetree_worker.export.gguf.weights import FILE_TYPES, WeightType, stored, tensor_type

_ADAPTER = "default"


def write(
    file: Path,
    adapted: PreTrainedModel | PeftModel,
    *,
    about: About,
    weights: WeightType,
    on_fraction: Callable[[float], None],
) -> None:
    """Write the adapter of a model. `on_fraction` gets 0..1 and may raise to stop.

    Raises PlanError: EXPORT_FORMAT_UNSUPPORTED for what is no plain LoRA, EXPORT_ARCHITECTURE_UNSUPPORTED.
    """
    base, layers = plain_layers(adapted)
    found = architectures.architecture_of(base.config)
    name_of = architectures.tensor_names(base.config, found)
    first = next(iter(layers.values()))
    alpha = first.scaling[_ADAPTER] * first.r[_ADAPTER]
    writer = gguf.GGUFWriter(file, found.name)
    try:
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(Keys.Adapter.TYPE, "lora")
        writer.add_float32(Keys.Adapter.LORA_ALPHA, float(alpha))
        writer.add_file_type(FILE_TYPES[weights])
        describe(writer, about)
        for done, (name, layer) in enumerate(layers.items(), start=1):
            down, up = _matrices(layer, float(alpha))
            heads = architectures.row_order(f"{name}.weight", base.config, found)
            target = name_of(f"{name}.weight")
            for part, values in (("lora_a", down), ("lora_b", architectures.paired(up, heads) if heads else up)):
                stored_name = f"{target}.{part}"
                kind = tensor_type(stored_name, tuple(values.shape), weights)
                writer.add_tensor(stored_name, stored(values, kind, name), raw_dtype=kind)
            on_fraction(done / len(layers))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def plain_layers(adapted: PreTrainedModel | PeftModel) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Return the base of a model and its LoRA layers by their name in it.

    Raises PlanError EXPORT_FORMAT_UNSUPPORTED for what such a file cannot hold.
    """
    if not isinstance(adapted, PeftModel):
        raise _unsupported("The weights are no LoRA adapter, and only such a one can be a GGUF adapter file.")
    (settings,) = adapted.peft_config.values()
    base: Any = adapted.get_base_model()
    layers = {name: module for name, module in base.named_modules() if isinstance(module, LoraLayer)}
    if getattr(settings, "use_dora", False) or any(layer.use_dora.get(_ADAPTER) for layer in layers.values()):
        raise _unsupported("A GGUF adapter file cannot hold DoRA's magnitudes.")
    plain = all(_ADAPTER in layer.lora_A and not isinstance(layer, ParamWrapper) for layer in layers.values())
    if not layers or not plain or getattr(settings, "modules_to_save", None):
        raise _unsupported("A GGUF adapter file holds low-rank matrices of linear layers, and this adapter has others.")
    return base, layers


def _unsupported(text: str) -> PlanError:
    remedy = "Merge it: export with the format gguf or transformers."
    return PlanError("EXPORT_FORMAT_UNSUPPORTED", text, field="export.format", remedy=remedy)


def _matrices(layer: Any, alpha: float) -> tuple[Tensor, Tensor]:
    """Return A (rank, in) and B (out, rank) of a layer, B times what alpha / rank leaves of the layer's scale."""
    down, up = layer.lora_A[_ADAPTER].weight, layer.lora_B[_ADAPTER].weight
    rest = layer.scaling[_ADAPTER] * layer.r[_ADAPTER] / alpha
    return down.detach(), up.detach() * rest


def add_to(model: PreTrainedModel, file: Path) -> None:
    """Add the adapter in a file to the float32 weights of its base, in place, as llama.cpp adds it to the layers."""
    reader = gguf.GGUFReader(file)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    field = reader.get_field(Keys.Adapter.LORA_ALPHA)
    alpha = float(field.contents()) if field is not None else 0.0
    found = architectures.architecture_of(model.config)
    name_of = architectures.tensor_names(model.config, found)
    for name, parameter in model.named_parameters():
        if parameter.ndim != 2 or f"{name_of(name)}.lora_a" not in tensors:
            continue
        down, up = (_values(tensors[f"{name_of(name)}.{part}"]) for part in ("lora_a", "lora_b"))
        heads = architectures.row_order(name, model.config, found)
        up = architectures.halved(up, heads) if heads else up
        with torch.no_grad():
            parameter.add_(up @ down, alpha=alpha / up.shape[1])


def _values(held: Any) -> Tensor:
    return torch.from_numpy(gguf.quants.dequantize(held.data, held.tensor_type).copy())
