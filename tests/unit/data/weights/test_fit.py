# SPDX-License-Identifier: Apache-2.0
"""Whether an adapter fits a base is told by dimensions, and only where they are known."""

import json

import pytest
from finetree_data.weights.adapter import read_adapter
from finetree_data.weights.fit import misfit
from weight_files import base_model, peft_adapter, safetensors


def test_low_rank_matrices_must_have_the_width_of_their_layer(tmp_path):
    adapter = read_adapter(peft_adapter(tmp_path / "a"))
    assert misfit(adapter, base_model(tmp_path / "same")) == ""
    assert misfit(adapter, base_model(tmp_path / "gpt2", inputs=4, outputs=6)) == "", "its layers are transposed"
    assert "q_proj has a width of 6, the model's is 4 by 8" in misfit(adapter, base_model(tmp_path / "other", inputs=8))
    assert "q_proj has a width of 4" in misfit(adapter, base_model(tmp_path / "long", outputs=9))


def test_what_is_not_known_is_left_to_loading(tmp_path):
    adapter = read_adapter(peft_adapter(tmp_path / "a"))
    folder = base_model(tmp_path / "m")
    (folder / "model.safetensors").write_bytes(safetensors({"transformer.h.0.weight": (1, 1)}))
    assert misfit(adapter, folder) == ""
    (folder / "model.safetensors").write_bytes(b"damaged")
    assert misfit(adapter, folder) == ""
    assert misfit(adapter, tmp_path / "nothing") == ""


@pytest.mark.parametrize(("numbers", "fits"), [(2 * 2 * 2 * 3, True), (48, False)])
def test_a_prefix_has_keys_and_values_for_every_layer(tmp_path, numbers, fits):
    folder = peft_adapter(tmp_path / "a", peft_type="PREFIX_TUNING")
    (folder / "adapter_model.safetensors").write_bytes(safetensors({"prompt_embeddings": (5, numbers)}))
    shape = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = base_model(tmp_path / "m", inputs=12, **shape)
    assert (misfit(read_adapter(folder), model) == "") is fits


@pytest.mark.parametrize(("vocabulary", "said"), [(300, "vocab_size 300, the model has 272"), (272, ""), (None, "")])
def test_bottleneck_layers_state_the_shape_of_their_base(tmp_path, vocabulary, said):
    folder = tmp_path / "a"
    folder.mkdir()
    config = {"format": "finetree-bottleneck-1", "base": {"hub_id": "org/m", "vocab_size": vocabulary}}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter.safetensors").write_bytes(safetensors({"layers.0.mlp.up.bias": (6,)}))
    adapter = read_adapter(folder)
    assert (adapter.method, adapter.base.hub_id) == ("adapter", "org/m")
    found = misfit(adapter, base_model(tmp_path / "m", vocab_size=272))
    assert (said in found) if said else found == ""
