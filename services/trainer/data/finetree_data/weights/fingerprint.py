# SPDX-License-Identifier: Apache-2.0
"""The fingerprint of a base model, which its adapters must fit."""

import hashlib
import json
from pathlib import Path

from finetree_data.weights.safetensors_file import read_header

_DIMENSIONS = (
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "tie_word_embeddings",
    "rope_parameters",
)


def fingerprint(folder: Path) -> str:
    """Return the sha256 (hex) of a model's dimensions, tensor names and shapes, which adapters must fit.

    Raises OSError and ValueError for a config.json that cannot be read, WeightsError for a damaged safetensors file.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    decisive = {key: config.get(key) for key in _DIMENSIONS}
    tensors: list[tuple[str, list[int]]] = []
    for file in sorted(folder.glob("*.safetensors")):
        tensors += [(name, list(tensor.shape)) for name, tensor in read_header(file).items()]
    text = json.dumps([decisive, sorted(tensors)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
