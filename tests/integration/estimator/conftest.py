# SPDX-License-Identifier: Apache-2.0
"""Models of transformers built on the meta device from the estimator's shapes: no weights, no network."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from finetree_estimator.shapes.architecture import Shape
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

WIDTHS = {"gpt2": "n_inner", "gpt_bigcode": "n_inner", "gptj": "n_inner", "opt": "ffn_dim", "falcon": "ffn_hidden_size"}
"""Configuration's name of the MLP's width, where it is not `intermediate_size`."""
UNDECLARED_HEAD_DIM = frozenset({"qwen3_moe", "glm4_moe"})
"""Families whose models heed `head_dim`, though their configuration class does not declare it."""


def config_of(shape: Shape) -> PretrainedConfig:
    """The configuration of a shape's family with the shape's dimensions, as its publisher would write it."""
    settings: dict[str, Any] = {
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocab,
        "tie_word_embeddings": shape.tied,
        "max_position_embeddings": shape.max_positions or 2048,
        "sliding_window": shape.window or None,
        WIDTHS.get(shape.family, "intermediate_size"): shape.dense_intermediate or shape.intermediate,
        # Token ids beyond a tiny vocabulary are refused.
        "pad_token_id": 0,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    settings |= _switches(shape) | _experts(shape) | _linear_attention(shape) | _two_attentions(shape)
    settings |= _convolution(shape) | _latent_attention(shape)
    if shape.family == "falcon":
        newer = shape.norms_per_layer == 2
        settings |= {"new_decoder_architecture": newer, "num_kv_heads": shape.kv_heads, "multi_query": not newer}
    if shape.family == "gpt_bigcode":
        settings["multi_query"] = shape.kv_heads == 1
    known = CONFIG_MAPPING[shape.family]()
    names = known.to_dict().keys() | known.attribute_map.keys()
    if shape.family in UNDECLARED_HEAD_DIM:
        names |= {"head_dim"}
    if shape.latent:
        # GLM's name for the width that is turned.
        names -= {"head_dim"}
    if shape.full_attention:
        names |= {"global_head_dim", "num_global_key_value_heads"}
    return CONFIG_MAPPING[shape.family](**{name: value for name, value in settings.items() if name in names})


def _switches(shape: Shape) -> dict[str, Any]:
    wide = shape.extra == shape.layers * (shape.q_width + shape.kv_width)
    return {
        "attention_bias": shape.qkv_bias,
        "qkv_bias": shape.qkv_bias,
        "use_qkv_bias": shape.qkv_bias,
        "attention_out_bias": shape.output_bias,
        "bias": shape.mlp_bias,
        "use_bias": shape.mlp_bias,
        "enable_bias": shape.mlp_bias,
        "mlp_bias": shape.mlp_bias,
        "lm_head_bias": shape.lm_head_bias,
        "use_qk_norm": wide if shape.family == "cohere" else shape.head_norms,
    }


def _experts(shape: Shape) -> dict[str, Any]:
    if not shape.experts:
        return {}
    names = dict.fromkeys(("num_local_experts", "num_experts", "n_routed_experts"), shape.experts)
    shared = shape.shared_expert // shape.intermediate
    return names | {
        "num_experts_per_tok": shape.active_experts,
        "moe_intermediate_size": shape.intermediate,
        "shared_expert_intermediate_size": shape.shared_expert,
        "n_shared_experts": shared,
        "first_k_dense_replace": shape.dense_layers,
        "interleave_moe_layer_step": 1,
    }


def _linear_attention(shape: Shape) -> dict[str, Any]:
    linear = shape.linear
    if linear is None:
        return {}
    kinds = {place: kind for kind in shape.layer_kinds for place in kind.places}
    names = [kinds[place].linears[0].name for place in range(shape.layers)]
    return {
        "layer_types": ["linear_attention" if "linear" in name else "full_attention" for name in names],
        "linear_num_key_heads": linear.key_heads,
        "linear_key_head_dim": linear.key_head_dim,
        "linear_num_value_heads": linear.value_heads,
        "linear_value_head_dim": linear.value_head_dim,
        "linear_conv_kernel_dim": linear.conv_kernel,
    }


def _convolution(shape: Shape) -> dict[str, Any]:
    convolution = shape.convolution
    if convolution is None:
        return {}
    kinds = {place: kind for kind in shape.layer_kinds for place in kind.places}
    return {
        "layer_types": ["full_attention" if kinds[place].q_width else "conv" for place in range(shape.layers)],
        "conv_L_cache": convolution.kernel,
        "conv_bias": convolution.bias,
        "block_auto_adjust_ff_dim": False,
        "num_dense_layers": shape.dense_layers,
    }


def _latent_attention(shape: Shape) -> dict[str, Any]:
    latent = shape.latent
    if latent is None:
        return {}
    return {
        "q_lora_rank": latent.query_rank or None,
        "kv_lora_rank": latent.key_value_rank,
        "qk_nope_head_dim": latent.plain_head_dim,
        "qk_rope_head_dim": latent.rotary_head_dim,
        "v_head_dim": latent.value_head_dim,
        "mlp_layer_types": ["dense" if place < shape.dense_layers else "sparse" for place in range(shape.layers)],
    }


def _two_attentions(shape: Shape) -> dict[str, Any]:
    full = shape.full_attention
    if full is None:
        return {}
    every = shape.layers // shape.full_attention_layers
    return {
        "layer_types": [
            "sliding_attention" if (place + 1) % every else "full_attention" for place in range(shape.layers)
        ],
        "global_head_dim": full.head_dim,
        "num_global_key_value_heads": full.kv_heads,
        "attention_k_eq_v": full.keys_as_values,
        "num_kv_shared_layers": shape.kv_shared_layers,
        "use_double_wide_mlp": shape.wide_shared_mlp,
        "hidden_size_per_layer_input": shape.layer_inputs,
        "vocab_size_per_layer_input": shape.vocab,
        "enable_moe_block": bool(shape.experts),
        "num_experts": shape.experts or None,
        "top_k_experts": shape.active_experts or None,
        "moe_intermediate_size": shape.intermediate if shape.experts else None,
    } | ({"intermediate_size": shape.shared_expert} if shape.experts else {})


@pytest.fixture(scope="session")
def as_config() -> Callable[[Shape], PretrainedConfig]:
    return config_of


@pytest.fixture(scope="session")
def build() -> Callable[[Shape], PreTrainedModel]:
    """The causal language model of a shape, its parameters without storage."""

    def make(shape: Shape) -> PreTrainedModel:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config_of(shape))

    return make
