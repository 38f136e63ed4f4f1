# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest
from finetree_estimator.catalog.models import model
from finetree_estimator.methods.lora import Lora
from finetree_estimator.methods.targets import UnknownTargetError, preset_targets

LLAMA = model("llama-3.2-3b").shape
PHI = model("phi-2").shape


def test_a_fused_projection_has_one_adapter_and_not_one_for_each_part():
    phi3 = model("phi-3-mini").shape

    assert preset_targets(phi3, "all-linear") == ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
    assert Lora(4, ("qkv_proj",)).trainable_parameters(phi3) == 32 * 4 * (3072 + 3 * 3072)
    with pytest.raises(UnknownTargetError, match="q_proj"):
        Lora(4, ("q_proj",)).trainable_parameters(phi3)


def test_names_of_any_family_are_understood_where_the_family_is_unknown():
    unknown = replace(LLAMA, family="")

    assert Lora(4, ("query_key_value",)).trainable_parameters(unknown) == 28 * 4 * (3072 + 5120)
    assert Lora(4, ("fc1", "dense")).trainable_parameters(unknown) == 28 * 4 * (3072 + 8192 + 2 * 3072)
    with pytest.raises(UnknownTargetError, match="nope"):
        Lora(4, ("nope",)).trainable_parameters(unknown)


def test_modules_of_one_name_are_told_apart_by_their_parent():
    gpt2 = model("gpt2").shape

    assert preset_targets(gpt2, "attention") == ("c_attn", "attn.c_proj")
    assert preset_targets(gpt2, "mlp") == ("c_fc", "mlp.c_proj")
    both = Lora(1, ("c_proj",)).trainable_parameters(gpt2)
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
    assert Lora(1, (target,)).trainable_parameters(LLAMA) == parameters


def test_two_names_of_one_module_count_once():
    once = Lora(1, ("q_proj",)).trainable_parameters(LLAMA)

    assert Lora(1, ("q_proj", "self_attn.q_proj", "layers.3.self_attn.q_proj")).trainable_parameters(LLAMA) == once


@pytest.mark.parametrize("target", ["model.layers.28.self_attn.q_proj", "experts.0.up_proj", "proj", "lm_head", ""])
def test_a_target_that_no_module_has_is_refused(target):
    with pytest.raises(UnknownTargetError):
        Lora(1, (target,)).trainable_parameters(LLAMA)


def test_a_plain_mlp_has_no_gate():
    assert preset_targets(PHI, "mlp") == ("fc1", "fc2")
    with pytest.raises(UnknownTargetError, match="gate_proj"):
        Lora(4, ("gate_proj",)).trainable_parameters(PHI)


def test_experts_have_adapters_only_when_asked_for_and_routers_never():
    mixtral, qwen = model("mixtral-8x7b").shape, model("qwen1.5-moe-a2.7b").shape

    assert preset_targets(mixtral, "mlp") == ()
    assert preset_targets(mixtral, "all-linear") == ("q_proj", "k_proj", "v_proj", "o_proj")
    experts = preset_targets(mixtral, "mlp", experts=True)
    assert experts == ("experts.gate_up_proj", "experts.down_proj")
    each = 2 * (4096 + 2 * 14336 + 14336 + 4096)
    assert Lora(2, experts).trainable_parameters(mixtral) == 32 * 8 * each
    # The expert that every token uses is an MLP like any other; a bare name never means stacked parameters.
    assert preset_targets(qwen, "mlp") == ("gate_proj", "up_proj", "down_proj")
    assert Lora(1, ("down_proj",)).trainable_parameters(qwen) == 24 * (5632 + 2048)
