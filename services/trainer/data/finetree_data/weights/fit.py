# SPDX-License-Identifier: Apache-2.0
"""Whether an adapter fits a base model, by dimensions alone, before either is loaded."""

import json
from pathlib import Path
from typing import Any

from finetree_data.weights.adapter import AdapterFolder
from finetree_data.weights.errors import WeightsError
from finetree_data.weights.safetensors_file import StoredTensor, read_header

_PEFT_PREFIX = "base_model.model."
_LOW_RANK = {".lora_A.weight": 1, ".lora_B.weight": 0}
"""Ends of the names of LoRA's matrices, and which of their dimensions is one of the layer's."""
_PREFIX = "prompt_embeddings"
_SHAPE = ("num_hidden_layers", "num_attention_heads", "hidden_size")


def misfit(adapter: AdapterFolder, model: Path) -> str:
    """Return why an adapter cannot belong to the model in a folder, as a sentence's end; empty where nothing is wrong.

    What is not found by name or not stated is not compared: loading decides about it. Files of the model that cannot
    be read are left to loading too.
    """
    try:
        config = json.loads((model / "config.json").read_bytes())
        if adapter.method == "lora":
            return _low_rank_misfit(adapter, _tensors(model))
    except (OSError, ValueError, RecursionError, WeightsError):
        return ""
    if not isinstance(config, dict):
        return ""
    return _prefix_misfit(adapter, config) if adapter.method == "prefix" else _bottleneck_misfit(adapter, config)


def _tensors(model: Path) -> dict[str, StoredTensor]:
    found: dict[str, StoredTensor] = {}
    for file in sorted(model.glob("*.safetensors")):
        found |= read_header(file)
    return found


def _low_rank_misfit(adapter: AdapterFolder, base: dict[str, StoredTensor]) -> str:
    for name, tensor in sorted(adapter.tensors.items()):
        for end, own in _LOW_RANK.items():
            module = name.removeprefix(_PEFT_PREFIX).removesuffix(end)
            layer = base.get(f"{module}.weight")
            if not name.endswith(end) or layer is None or len(layer.shape) != 2 or len(tensor.shape) != 2:
                continue
            # Either dimension: GPT-2 stores its layers transposed.
            if tensor.shape[own] not in layer.shape:
                return f"its {module} has a width of {tensor.shape[own]}, the model's is {_by(layer.shape)}"
    return ""


def _prefix_misfit(adapter: AdapterFolder, config: dict[str, Any]) -> str:
    tensor = adapter.tensors.get(_PREFIX)
    layers, heads, hidden = (_count(config, name) for name in _SHAPE)
    if tensor is None or len(tensor.shape) != 2 or not (layers and heads and hidden):
        return ""
    kv_heads, head = _count(config, "num_key_value_heads") or heads, _count(config, "head_dim") or hidden // heads
    needed = layers * 2 * kv_heads * head
    if tensor.shape[1] == needed:
        return ""
    return f"its keys and values have {tensor.shape[1]} numbers a token, the model needs {needed}"


def _bottleneck_misfit(adapter: AdapterFolder, config: dict[str, Any]) -> str:
    stated = adapter.config.get("base")
    for name in ("model_type", "vocab_size", "hidden_size", "num_hidden_layers"):
        wanted = stated.get(name) if isinstance(stated, dict) else None
        if wanted is not None and config.get(name) is not None and wanted != config[name]:
            return f"it was trained with {name} {str(wanted)[:40]}, the model has {str(config[name])[:40]}"
    return ""


def _count(config: dict[str, Any], name: str) -> int:
    value = config.get(name)
    return value if type(value) is int and value > 0 else 0


def _by(shape: tuple[int, ...]) -> str:
    return " by ".join(map(str, shape))
