# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest
from finetree_estimator.catalog.accelerators import accelerator
from finetree_estimator.catalog.devices import known
from finetree_estimator.catalog.models import model
from finetree_estimator.methods.full import Full
from finetree_estimator.methods.lora import Lora
from finetree_estimator.methods.qlora import Qlora
from finetree_estimator.programs import FINETREE, LITGPT, TRANSFORMERS, UNSLOTH
from finetree_estimator.shapes.parameters import active_parameters, count, routed_weights
from finetree_estimator.timing import mixtures, step_time

QWEN = model("qwen3-30b-a3b").shape
MIXTRAL = model("mixtral-8x7b").shape
Q = Lora(8, ("q_proj",))
EXPERTS = Lora(8, ("experts.gate_up_proj", "experts.down_proj"), 0.0)


def test_every_expert_is_chosen_by_some_of_many_tokens():
    """One token chooses 8 of 128; sixteen leave out each expert with a chance of (15/16)^16 = 0.356."""
    assert mixtures.chosen_experts(QWEN, 1) == pytest.approx(8)
    assert mixtures.chosen_experts(QWEN, 16) == pytest.approx(128 * (1 - 0.3561), rel=1e-3)
    assert mixtures.chosen_experts(QWEN, 8192) == pytest.approx(128)
    assert mixtures.chosen_experts(replace(QWEN, active_experts=128), 1) == 128
    assert mixtures.chosen_experts(model("llama-3.1-8b").shape, 8192) == 0


def test_few_tokens_wait_for_the_weights_of_their_experts(make_run, gpu):
    """One token's eight experts of 4.7 million weights in 48 layers: 3.6 GB in 16 bits, read forward and backward."""
    run = make_run(shape=QWEN, method=Q)
    read = 48 * 8 * 3 * 2048 * 768 * 2 / gpu.bandwidth
    products = 48 * 8 * 3 * 2048 * 768 * 2 / gpu.training_flops

    assert mixtures.grouped_seconds(run, 1) == pytest.approx(2 * (read - products))
    assert mixtures.grouped_seconds(replace(run, checkpointing=True), 1) == pytest.approx(3 * (read - products))
    assert mixtures.grouped_seconds(replace(run, method=Full()), 1) == pytest.approx(3 * (read - products))


def test_many_tokens_are_padded_to_tiles_and_come_at_a_lower_rate(make_run, gpu):
    """32,768 tokens are 2,048 rows for each of 128 experts; half a tile of 64 rows more is 1.6 % of them."""
    run = make_run(shape=QWEN, method=Q)
    products = 2 * 32_768 * 8 * 48 * 3 * 2048 * 768 / gpu.training_flops

    assert mixtures.grouped_seconds(run, 32_768) == pytest.approx(2 * products * ((1 + 32 / 2048) / (768 / 1184) - 1))


@pytest.mark.parametrize(("experts", "used", "width", "measured"), [(128, 8, 768, 10.2e-3), (512, 10, 512, 11.4e-3)])
def test_a_published_pass_of_grouped_experts_comes_out(make_run, experts, used, width, measured):
    """32,768 tokens of 2,048 features through one layer on an H100 (github:ByteDance-Seed/VeOmni pull 460, 2026-02)."""
    shape = replace(QWEN, layers=1, experts=experts, active_experts=used, intermediate=width)
    run = make_run(shape=shape, method=Q, device=known(accelerator("h100"), fp32=False))
    products = 2 * 32_768 * used * 3 * 2048 * width / run.device.training_flops
    # Forward alone is one of two equal passes. Sorting and putting back moves 8 numbers a feature, the activation 5.
    more = mixtures.grouped_seconds(run, 32_768) / 2
    moved = 32_768 * used * 2 * (8 * 2048 + 5 * width) / run.device.bandwidth

    assert products + more + moved == pytest.approx(measured, rel=0.06)


def test_experts_in_turn_take_a_layers_calls_each(make_run):
    turns = replace(TRANSFORMERS, experts_in_turn=True)
    runs = [make_run(shape=MIXTRAL, method=Q, program=program) for program in (turns, TRANSFORMERS, FINETREE)]

    calls = [step_time.overhead_seconds(run) / (3 * run.shape.layers) / run.program.layer_overhead for run in runs]
    assert calls == pytest.approx([9, 1.5, 1.5])
    assert mixtures.grouped_seconds(runs[0], 100) == 0
    assert LITGPT.experts_in_turn


def test_a_device_without_grouped_products_loops_over_the_experts(make_run, gpu):
    """torch has the kernel for capabilities 9 and 10; Unsloth brings one of its own."""
    plain = make_run(shape=QWEN, method=Q, device=replace(gpu, grouped_products=False))
    own = replace(plain, program=UNSLOTH)
    cards = {
        name: known(accelerator(name), fp32=False).grouped_products for name in ("h100", "b200", "a100-80gb", "l40s")
    }

    assert mixtures.expert_calls(plain) == pytest.approx(0.5 + 2 * 128 * 15e-6 / 0.4e-3)
    assert mixtures.expert_calls(own) == 0.5
    assert cards == {"h100": True, "b200": True, "a100-80gb": False, "l40s": False}


def test_adapted_experts_have_gradients_of_their_summed_weights(make_run):
    run = make_run(shape=QWEN, method=EXPERTS)
    routed = routed_weights(QWEN)
    outside = count(QWEN).embeddings + count(QWEN).lm_head
    share = routed / 16 / (active_parameters(QWEN) - outside)

    assert EXPERTS.backward_flops_factor(QWEN) == pytest.approx(1 + share)
    assert (EXPERTS.expert_backward_factor(QWEN), Q.expert_backward_factor(QWEN)) == (2, 1)
    assert run.method.decomposition_traffic(run) == 8 * routed
    assert Q.decomposition_traffic(run) == 0


def test_stacked_experts_are_neither_packed_nor_unpacked(make_run):
    run = make_run(shape=QWEN, method=Qlora.of(Q))
    turns = replace(run, program=replace(FINETREE, experts_in_turn=True))
    unpacked = [each.method.dequantization_traffic(each) / 4.5 for each in (run, turns)]

    assert unpacked[1] - unpacked[0] == routed_weights(QWEN)
