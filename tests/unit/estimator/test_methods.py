# SPDX-License-Identifier: Apache-2.0
import pytest
from finetree_estimator.methods import (
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
from finetree_estimator.models import model
from finetree_estimator.shapes import Shape, count

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


def test_fused_and_foreign_module_names_count_as_their_parts():
    fused = trainable_parameters(LoraAdapters(4, ("qkv_proj",)), LLAMA)
    apart = trainable_parameters(LoraAdapters(4, ("q_proj", "k_proj", "v_proj")), LLAMA)

    assert fused == apart
    assert trainable_parameters(LoraAdapters(4, ("fc1", "dense")), PHI) == 32 * 4 * (2560 + 10240 + 2 * 2560)


def test_a_plain_mlp_has_no_gate():
    assert "gate_proj" not in preset_targets(PHI, "all-linear")
    with pytest.raises(UnknownTargetError, match="gate_proj"):
        trainable_parameters(LoraAdapters(4, ("gate_proj",)), PHI)


def test_experts_each_have_an_adapter():
    shape = Shape(64, 2, 128, 4, 4, 16, 1000, experts=8, active_experts=2)

    assert trainable_parameters(LoraAdapters(2, ("up_proj",)), shape) == 2 * 8 * 2 * (64 + 128)
