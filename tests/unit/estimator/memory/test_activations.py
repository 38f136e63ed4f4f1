# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest
from finetree_estimator.catalog.models import model
from finetree_estimator.memory.activations import layer_activations
from finetree_estimator.methods.full import Full
from finetree_estimator.methods.lora import Lora
from finetree_estimator.methods.prefix import Prefix
from finetree_estimator.methods.targets import preset_targets
from finetree_estimator.programs import FINETREE, TRANSFORMERS, UNSLOTH, variant

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LLAMA = model("llama-3.1-8b").shape
WIDE = 2 * LLAMA.intermediate


def test_activations_of_a_layer_are_what_a_traced_step_keeps(make_run):
    """transformers 5.24, peft 0.21, Llama-3.2-3B's layers, traced: norms 8h, two adapter inputs 8h, attention, MLP 6i.

    About 114 kB per token and layer are backed out of PEFT's published peak (reference, 3.4).
    """
    run = make_run(method=Lora(4, ("q_proj", "v_proj")), program=TRANSFORMERS)

    assert layer_activations(run).saved == 8 * 3072 + 8 * 3072 + 2 * 2 * (3072 + 1024) + 4 * 24 + 6 * 8192


def test_full_fine_tuning_keeps_the_inputs_of_every_linear_layer(make_run):
    frozen = layer_activations(make_run(method=Prefix(1), program=TRANSFORMERS)).saved - 2 * 2 * 1024
    trained = layer_activations(make_run(method=Full(), master_bytes=2, program=TRANSFORMERS)).saved

    # The inputs of attention and MLP, the MLP's wide tensor, and two normalized inputs for the norms' own scales.
    assert trained - frozen == 2 * (2 * 3072 + 8192 + 2 * 3072)


def test_experts_in_turn_are_differentiated_with_the_tokens_that_chose_them(make_run):
    run = make_run(shape=model("mixtral-8x7b").shape, method=Lora(8, ("q_proj",)))
    turns = replace(FINETREE, experts_in_turn=True)
    layers = [layer_activations(replace(run, program=program)) for program in (FINETREE, turns)]
    together, in_turn = (layer.gradients / 2 - 4 * 4096 for layer in layers)

    assert (together, in_turn) == (3 * 14336 * 2, 3 * 14336 * 2 / 8)


def test_grouped_experts_keep_what_a_traced_step_keeps(make_run):
    """transformers 5.24's Qwen3-MoE, eight experts of width 768 for each token, a stream of 2,048 features.

    Traced with stacked weights frozen: 6 bytes for each feature of a chosen expert and 2 for each of its output; with
    all weights trained 2 more for each expert's feature (counted with the inputs) and 2 for each of its input.
    """
    run = make_run(shape=model("qwen3-30b-a3b").shape, method=Lora(8, ("q_proj",)), program=TRANSFORMERS)
    full = replace(run, method=Full(), master_bytes=2)

    assert layer_activations(run).mlp == 8 * (6 * 768 + 2 * 2048)
    assert layer_activations(full).mlp == 8 * (6 * 768 + 4 * 2048)
    # Rows of the stream's width, one for each expert, are put back into the tokens' order: they are the wide ones.
    assert layer_activations(run).gradients == 2 * (3 * 8 * 2048 + 4 * 2048)


@pytest.mark.parametrize(("name", "norms"), [("phi-3.5-mini", 2), ("pythia-1b", 1)])
def test_joined_projections_leave_queries_and_keys_beside_the_turned_ones(make_run, name, norms):
    """As traced steps of both families show (trace_memory.json). GPT-NeoX's two norms read one tensor."""
    shape = model(name).shape
    width = shape.q_width
    whole = make_run(shape=shape, program=TRANSFORMERS, method=Full(), master_bytes=2, rows=None)
    lora = Lora(8, preset_targets(shape, "all-linear"))
    adapted = make_run(shape=shape, program=TRANSFORMERS, method=lora, rows=None)

    normalizer = 4 * shape.heads
    assert layer_activations(adapted).attention - normalizer == 2 * (4 + 2) * width
    assert layer_activations(whole).attention - normalizer == 2 * (4 + 2 + 1) * width
    kept = layer_activations(adapted).norms / shape.hidden
    assert kept == (4 if norms == 2 else 2) * norms


@pytest.mark.parametrize(
    ("targets", "dropout", "fused"),
    [(ALL, 0.0, True), (ALL, 0.05, False), (ALL[:-1], 0.0, False)],
    ids=["fused", "dropout", "down_proj is not adapted"],
)
def test_a_fused_mlp_keeps_the_halves_before_its_gate_and_overwrites_them(make_run, targets, dropout, fused):
    """LoRA_MLP saves its input, e and g (Unsloth's kernels/fast_lora.py) and computes the rest again, in place."""
    layer = layer_activations(make_run(shape=LLAMA, method=Lora(16, targets, dropout), program=UNSLOTH))

    assert layer.mlp == (2 if fused else 3) * WIDE
    assert layer.gradients == (1 if fused else 3) * WIDE + 4 * 2 * LLAMA.hidden


def test_a_fused_mlp_keeps_no_input_of_its_last_adapter(make_run):
    with_it, without = (
        layer_activations(make_run(shape=LLAMA, method=Lora(16, targets), program=UNSLOTH))
        for targets in (ALL, ALL[:-1])
    )

    assert with_it.trained_inputs == without.trained_inputs


def test_ligers_layers_keep_no_float32_norms_and_no_gated_product(make_run):
    """Its RMS norm keeps its input as it is, its SwiGLU the two halves, whose gradients take their place."""
    liger = variant(TRANSFORMERS, compiled=False, frozen_kept=True, layers="all")
    runs = [make_run(method=Full(), master_bytes=2, program=program) for program in (TRANSFORMERS, liger)]
    plain, fused = (layer_activations(run) for run in runs)

    # Two norms of 3,072 features: a float32 copy and the normalized 16-bit one each, or the 16-bit input.
    assert (plain.norms, fused.norms) == (2 * 3072 * 6, 2 * 3072 * 2)
    assert (plain.mlp, fused.mlp) == (3 * 2 * 8192, 2 * 2 * 8192)
    assert (plain.gradients - fused.gradients) == 2 * 2 * 8192
    assert plain.trained_inputs == fused.trained_inputs
