# SPDX-License-Identifier: Apache-2.0
"""Gemma 4's two kinds of attention, layers without keys of their own, inputs of layers; convolutions; latents."""

from typing import Any

import pytest
from finetree_estimator.catalog.models import model
from finetree_estimator.shapes.architecture import LayerKind
from finetree_estimator.shapes.config_json import hf_config
from finetree_estimator.shapes.config_json.settings import ConfigError
from finetree_estimator.shapes.mixers import FullAttention

E2B: dict[str, Any] = {
    "model_type": "gemma4_text", "hidden_size": 1536, "intermediate_size": 6144, "num_hidden_layers": 35,
    "num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 256, "global_head_dim": 512,
    "num_global_key_value_heads": None, "attention_k_eq_v": False, "sliding_window": 512, "vocab_size": 262144,
    "vocab_size_per_layer_input": 262144, "hidden_size_per_layer_input": 256, "num_kv_shared_layers": 20,
    "use_double_wide_mlp": True, "enable_moe_block": False, "max_position_embeddings": 131072,
    "layer_types": (["sliding_attention"] * 4 + ["full_attention"]) * 7,
}  # fmt: skip
TOWERS = {"vision_config": {"model_type": "gemma4_vision"}, "audio_config": {"model_type": "gemma4_audio"}}
EXPERTS: dict[str, Any] = E2B | {
    "hidden_size": 2816, "intermediate_size": 2112, "num_hidden_layers": 30, "num_attention_heads": 16,
    "num_key_value_heads": 8, "num_global_key_value_heads": 2, "attention_k_eq_v": True, "sliding_window": 1024,
    "hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0, "use_double_wide_mlp": False,
    "enable_moe_block": True, "num_experts": 128, "top_k_experts": 8, "moe_intermediate_size": 704,
    "max_position_embeddings": 262144, "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 5,
}  # fmt: skip


def kind_of(layer: int, **changes: Any) -> LayerKind:
    kinds = hf_config.parse(E2B | changes).shape.layer_kinds
    return next(kind for kind in kinds if layer in kind.places)


def names(kind: LayerKind) -> list[str]:
    return [part.name.rpartition(".")[2] for part in kind.linears]


def test_a_model_for_images_and_audio_is_read_as_the_catalog_has_it():
    found = hf_config.parse({"model_type": "gemma4", "text_config": E2B} | TOWERS)

    assert found.shape == model("gemma-4-e2b").shape
    assert "vision and audio towers' 476 million parameters" in found.remarks[0].message


def test_experts_stand_beside_an_mlp_that_every_token_uses():
    vision = {
        "model_type": "gemma4_vision", "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27,
        "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 72,
    }  # fmt: skip
    found = hf_config.parse({"model_type": "gemma4", "text_config": EXPERTS, "vision_config": vision})

    assert found.shape == model("gemma-4-26b-a4b").shape
    assert found.shape.mean_mlp_width == 8 * 704 + 2112


def test_the_last_layers_have_no_keys_and_a_wider_mlp():
    own, shared, full = kind_of(0), kind_of(15), kind_of(19)

    assert names(own)[:4] == ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert names(shared)[:3] == names(full)[:3] == ["q_proj", "o_proj", "gate_proj"]
    assert (own.mlp_width, shared.mlp_width) == (6144, 12288)
    assert (own.kv_width, shared.kv_width, own.q_width, full.q_width) == (256, 0, 2048, 4096)
    assert len(hf_config.parse(E2B).shape.layer_kinds) == 4


def test_means_weigh_layers_by_their_number():
    shape = hf_config.parse(E2B).shape

    assert shape.mean_q_width == pytest.approx((28 * 2048 + 7 * 4096) / 35)
    assert shape.mean_kv_width == pytest.approx((12 * 256 + 3 * 512) / 35)
    assert shape.mean_mlp_width == pytest.approx((15 * 6144 + 20 * 12288) / 35)


def test_keys_are_the_values_of_full_attention_alone():
    alike = {"attention_k_eq_v": True, "num_kv_shared_layers": 0}

    assert "v_proj" in names(kind_of(0, **alike))
    assert "v_proj" not in names(kind_of(4, **alike))


@pytest.mark.parametrize(
    ("written", "full"),
    [
        ({"4": {"head_dim": 512}, "9": {"head_dim": 512}}, FullAttention(1, 512)),
        ({"4": {"head_dim": 128, "num_key_value_heads": 4}}, FullAttention(4, 128)),
        ({}, FullAttention(1, 256)),
    ],
)
def test_dimensions_are_read_layer_by_layer_as_transformers_writes_them(written, full):
    assert hf_config.parse(E2B | {"per_layer_config": written}).shape.full_attention == full


def test_the_last_layer_has_no_window_whatever_the_list_says():
    listed = ["sliding_attention", "full_attention", "sliding_attention"]
    shape = hf_config.parse(E2B | {"num_hidden_layers": 3, "num_kv_shared_layers": 0, "layer_types": listed}).shape

    assert shape.full_attention_layers == 2


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"num_kv_shared_layers": 35}, "num_kv_shared_layers must be less than the 35 layers"),
        ({"num_global_key_value_heads": 3, "attention_k_eq_v": True}, "num_global_key_value_heads does not divide 8"),
        ({"vocab_size_per_layer_input": 1000}, "vocab_size_per_layer_input"),
        ({"per_layer_config": {"4": {"head_dim": 512}, "9": {"head_dim": 64}}}, "layers of more than two kinds"),
        ({"per_layer_config": {"4": {"intermediate_size": 64}}}, "only head_dim and num_key_value_heads"),
        ({"per_layer_config": {"4": 3}}, "layers of more than two kinds"),
        ({"layer_types": ["full_attention"] * 35}, "without layers that have a sliding window"),
        ({"global_head_dim": "512"}, "global_head_dim is '512'"),
    ],
)
def test_what_cannot_be_is_refused_by_its_name(changes, complaint):
    with pytest.raises(ConfigError, match=complaint):
        hf_config.parse(E2B | changes)


def test_other_families_with_layers_of_different_dimensions_are_refused():
    with pytest.raises(ConfigError, match="per_layer_config"):
        hf_config.parse(E2B | {"model_type": "llama", "hidden_size_per_layer_input": 0, "per_layer_config": {"1": {}}})


# ----------------------------------------------------------------------------------------- convolutions and latents

LFM2: dict[str, Any] = {
    "model_type": "lfm2", "hidden_size": 1024, "num_hidden_layers": 16, "num_attention_heads": 16,
    "num_key_value_heads": 8, "vocab_size": 65536, "block_ff_dim": 6656, "intermediate_size": 6000,
    "block_multiple_of": 256, "block_ffn_dim_multiplier": 1.0, "conv_L_cache": 3, "tie_embedding": True,
    "max_position_embeddings": 128000, "full_attn_idxs": [2, 5, 8, 10, 12, 14],
}  # fmt: skip
V2_LITE: dict[str, Any] = {
    "model_type": "deepseek_v2", "hidden_size": 2048, "num_hidden_layers": 27, "num_attention_heads": 16,
    "num_key_value_heads": 16, "intermediate_size": 10944, "moe_intermediate_size": 1408, "n_routed_experts": 64,
    "num_experts_per_tok": 6, "n_shared_experts": 2, "first_k_dense_replace": 1, "vocab_size": 102400,
    "q_lora_rank": None, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "max_position_embeddings": 163840,
}  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"full_attn_idxs": None, "layer_types": ["conv"] * 10 + ["full_attention"] * 6},
        {"block_ff_dim": None, "intermediate_size": 4608, "block_auto_adjust_ff_dim": False},
    ],
)
def test_convolutions_are_read_as_the_catalog_has_them(changes):
    shape = hf_config.parse(LFM2 | changes).shape

    assert shape == model("lfm2-350m").shape
    attending = [kind for kind in shape.layer_kinds if kind.q_width]
    assert [kind.layers for kind in attending] == [6]


def test_latent_attention_is_read_as_the_catalog_has_it():
    shape = hf_config.parse(V2_LITE).shape

    assert shape == model("deepseek-v2-lite").shape
    assert [part.name.rpartition(".")[2] for part in shape.layer_kinds[0].linears][:4] == [
        *("q_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"),
    ]


def test_queries_of_a_latent_have_two_projections():
    shape = hf_config.parse(V2_LITE | {"q_lora_rank": 1536}).shape
    widths = {part.name.rpartition(".")[2]: (part.d_in, part.d_out) for part in shape.layer_kinds[0].linears}

    assert (widths["q_a_proj"], widths["q_b_proj"]) == ((2048, 1536), (1536, 16 * 192))
    assert "q_proj" not in widths


@pytest.mark.parametrize(
    ("config", "changes", "complaint"),
    [
        (LFM2, {"full_attn_idxs": []}, "layer_types must be less than the 16 layers"),
        (LFM2, {"conv_L_cache": 100}, "conv_L_cache is 100"),
        (LFM2, {"block_ffn_dim_multiplier": "much"}, "block_ffn_dim_multiplier"),
        (V2_LITE, {"kv_lora_rank": -1}, "kv_lora_rank is -1"),
        (V2_LITE, {"mlp_layer_types": ["sparse", "dense"] + ["sparse"] * 25}, "mlp_layer_types"),
        (V2_LITE, {"sliding_window": 64, "model_type": "mistral"}, "latent attention"),
    ],
)
def test_convolutions_and_latents_that_cannot_be_are_refused_by_their_names(config, changes, complaint):
    with pytest.raises(ConfigError, match=complaint):
        hf_config.parse(config | changes)


def test_dense_layers_are_those_that_the_configuration_lists():
    lite = V2_LITE | {"model_type": "glm4_moe_lite", "first_k_dense_replace": None}

    assert hf_config.parse(lite).shape.dense_layers == 1
    assert hf_config.parse(lite | {"mlp_layer_types": ["dense"] * 3 + ["sparse"] * 24}).shape.dense_layers == 3
    assert hf_config.parse(V2_LITE | {"first_k_dense_replace": 0}).shape.dense_layers == 0
