# SPDX-License-Identifier: Apache-2.0
"""The fingerprint of a base tells its dimensions and tensors apart, and no more than those."""

import hashlib
import json

from finetree_data.weights.fingerprint import fingerprint
from weight_files import LAYER, base_model, safetensors


def test_it_is_that_of_dimensions_names_and_shapes(tmp_path):
    folder = base_model(tmp_path / "m", vocab_size=272)
    first = fingerprint(folder)
    # The value is in manifests of artifacts that exist: it must never change.
    dimensions = {"model_type": "llama", "vocab_size": 272, "hidden_size": 6}
    absent = ("intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim")
    text = dimensions | dict.fromkeys((*absent, "tie_word_embeddings", "rope_parameters"))
    expected = json.dumps([text, [[LAYER, [4, 6]]]], sort_keys=True)
    assert first == hashlib.sha256(expected.encode()).hexdigest()
    (folder / "model.safetensors").write_bytes(safetensors({LAYER: (4, 6)}, fill=9))
    assert fingerprint(folder) == first
    (folder / "model.safetensors").write_bytes(safetensors({LAYER: (4, 7)}))
    assert fingerprint(folder) != first
    assert fingerprint(base_model(tmp_path / "other", vocab_size=300)) != first
