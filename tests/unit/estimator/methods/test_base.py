# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest
from finetree_estimator.catalog.architecture import Shape
from finetree_estimator.catalog.models import model
from finetree_estimator.catalog.parameters import active_parameters, count, linear_weights
from finetree_estimator.methods.base import (
    PRESETS,
    Bottleneck,
    Full,
    LoraAdapters,
    Prefix,
    QuantizedLora,
    UnknownTargetError,
    preset_targets,
    trainable_parameters,
)

LLAMA = model("llama-3.2-3b").shape
SMOL = model("smollm2-135m-instruct").shape
PHI = model("phi-2").shape


@pytest.mark.parametrize(
    ("shape", "method", "parameters"),
    [
        # As PEFT's method comparison reports them for Llama-3.2-3B.
        (LLAMA, LoraAdapters(32, PRESETS["query-value"]), 9_175_040),
        (LLAMA, LoraAdapters(64, PRESETS["query-value"]), 18_350_080),
        (LLAMA, LoraAdapters(10, PRESETS["mlp"]), 9_461_760),
        (LLAMA, Prefix(200), 11_468_800),
        (LLAMA, Prefix(50), 2_867_200),
        # By hand: 30 layers x 8 x (1152 + 768 + 768 + 1152 + 3 x 2112).
        (SMOL, LoraAdapters(8, PRESETS["all-linear"]), 2_442_240),
        (SMOL, QuantizedLora(LoraAdapters(8, PRESETS["all-linear"])), 2_442_240),
        (SMOL, Full(), 134_515_008),
        # By hand: 30 layers x (2 x 576 x 64 + 64 + 576).
        (SMOL, Bottleneck(64), 2_231_040),
        (SMOL, Bottleneck(64, places=2), 4_462_080),
    ],
)
def test_trainable_parameters_are_exact(shape, method, parameters):
    assert trainable_parameters(method, shape) == parameters


def test_dora_adds_one_magnitude_per_output():
    plain = trainable_parameters(LoraAdapters(8, ("q_proj",)), LLAMA)

    assert trainable_parameters(LoraAdapters(8, ("q_proj",), weight_decomposed=True), LLAMA) == plain + 28 * 3072


def test_frozen_layers_freeze_the_embeddings_below_them():
    whole, counted = count(SMOL).total, count(SMOL)
    layer = (whole - counted.embeddings - 576) // 30

    assert trainable_parameters(Full(frozen_layers=10), SMOL) == 20 * layer + 576


def test_a_fused_projection_has_one_adapter_and_not_one_for_each_part():
    phi3 = model("phi-3-mini").shape

    assert preset_targets(phi3, "all-linear") == ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
    assert trainable_parameters(LoraAdapters(4, ("qkv_proj",)), phi3) == 32 * 4 * (3072 + 3 * 3072)
    with pytest.raises(UnknownTargetError, match="q_proj"):
        trainable_parameters(LoraAdapters(4, ("q_proj",)), phi3)


def test_names_of_any_family_are_understood_where_the_family_is_unknown():
    unknown = replace(LLAMA, family="")

    assert trainable_parameters(LoraAdapters(4, ("query_key_value",)), unknown) == 28 * 4 * (3072 + 5120)
    assert trainable_parameters(LoraAdapters(4, ("fc1", "dense")), unknown) == 28 * 4 * (3072 + 8192 + 2 * 3072)
    with pytest.raises(UnknownTargetError, match="nope"):
        trainable_parameters(LoraAdapters(4, ("nope",)), unknown)


def test_modules_of_one_name_are_told_apart_by_their_parent():
    gpt2 = model("gpt2").shape

    assert preset_targets(gpt2, "attention") == ("c_attn", "attn.c_proj")
    assert preset_targets(gpt2, "mlp") == ("c_fc", "mlp.c_proj")
    both = trainable_parameters(LoraAdapters(1, ("c_proj",)), gpt2)
    assert both == 12 * (768 + 768 + 3072 + 768)


@pytest.mark.parametrize(
    ("target", "parameters"),
    [
        ("model.layers.3.self_attn.q_proj", 3072 + 3072),
        ("layers.3.self_attn.q_proj", 3072 + 3072),
        ("self_attn.q_proj", 28 * (3072 + 3072)),
    ],
)
def test_a_target_may_name_one_layer(target, parameters):
    assert trainable_parameters(LoraAdapters(1, (target,)), LLAMA) == parameters


def test_two_names_of_one_module_count_once():
    once = trainable_parameters(LoraAdapters(1, ("q_proj",)), LLAMA)

    assert (
        trainable_parameters(LoraAdapters(1, ("q_proj", "self_attn.q_proj", "layers.3.self_attn.q_proj")), LLAMA)
        == once
    )


@pytest.mark.parametrize("target", ["model.layers.28.self_attn.q_proj", "experts.0.up_proj", "proj", "lm_head", ""])
def test_a_target_that_no_module_has_is_refused(target):
    with pytest.raises(UnknownTargetError):
        trainable_parameters(LoraAdapters(1, (target,)), LLAMA)


def test_a_plain_mlp_has_no_gate():
    assert preset_targets(PHI, "mlp") == ("fc1", "fc2")
    with pytest.raises(UnknownTargetError, match="gate_proj"):
        trainable_parameters(LoraAdapters(4, ("gate_proj",)), PHI)


def test_experts_have_adapters_only_when_asked_for_and_routers_never():
    mixtral, qwen = model("mixtral-8x7b").shape, model("qwen1.5-moe-a2.7b").shape

    assert preset_targets(mixtral, "mlp") == ()
    assert preset_targets(mixtral, "all-linear") == ("q_proj", "k_proj", "v_proj", "o_proj")
    experts = preset_targets(mixtral, "mlp", experts=True)
    assert experts == ("experts.gate_up_proj", "experts.down_proj")
    each = 2 * (4096 + 2 * 14336 + 14336 + 4096)
    assert trainable_parameters(LoraAdapters(2, experts), mixtral) == 32 * 8 * each
    # The expert that every token uses is an MLP like any other; a bare name never means stacked parameters.
    assert preset_targets(qwen, "mlp") == ("gate_proj", "up_proj", "down_proj")
    assert trainable_parameters(LoraAdapters(1, ("down_proj",)), qwen) == 24 * (5632 + 2048)


def test_the_dense_layers_of_a_mixture_are_counted_apart():
    shape = Shape(
        64, 5, 32, 4, 4, 16, 1000, experts=8, active_experts=2, dense_layers=2, dense_intermediate=128, shared_expert=48
    )
    attention, norms = 4 * 64 * 64, 2 * 64
    dense = attention + norms + 3 * 64 * 128
    mixture = attention + norms + 8 * 3 * 64 * 32 + 3 * 64 * 48 + 64 * 8

    assert count(shape).total == 2 * 1000 * 64 + 64 + 2 * dense + 3 * mixture
    assert active_parameters(shape) == count(shape).total - 3 * 6 * 3 * 64 * 32
    assert linear_weights(shape) == 2 * (dense - norms) + 3 * (mixture - norms - 64 * 8)
    assert trainable_parameters(Full(frozen_layers=3), shape) == 1000 * 64 + 64 + 2 * mixture
    mlps = trainable_parameters(LoraAdapters(1, preset_targets(shape, "mlp")), shape)
    assert mlps == 3 * (2 * (64 + 128) + 3 * (64 + 48))
