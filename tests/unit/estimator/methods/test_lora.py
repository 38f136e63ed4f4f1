# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest
from finetree_estimator.catalog.models import model
from finetree_estimator.memory.activations import layer_activations
from finetree_estimator.memory.model_states import model_states
from finetree_estimator.memory.step_peak import step_peak
from finetree_estimator.methods.full import Full
from finetree_estimator.methods.lora import Lora
from finetree_estimator.methods.qlora import Qlora
from finetree_estimator.methods.targets import PRESETS
from finetree_estimator.programs import TRANSFORMERS, UNSLOTH
from finetree_estimator.shapes.parameters import routed_weights
from finetree_estimator.timing import step_time
from finetree_estimator.timing.memory_traffic import update_traffic

LORA = Lora(8, PRESETS["all-linear"], 0.1)
LLAMA = model("llama-3.2-3b").shape


def test_adapters_of_peft_move_many_bytes_around_two_thin_products(make_run):
    """A projection of 3072 on 3072 under dropout, 16-bit stream and float32 adapters: 19 + 29 in, 28 + 22 out."""
    method = Lora(8, ("q_proj",), 0.1)
    run = make_run(method=method, program=TRANSFORMERS)
    moved = [
        each.method.adapter_traffic(each) / (28 * 3072)
        for each in (
            run,
            replace(run, checkpointing=True),
            replace(run, method=Lora(64, ("q_proj",))),
            replace(run, devices=2, sharding="full"),
        )
    ]
    full = make_run(method=Full())

    assert moved == [19 + 29 + 28 + 22, 2 * 19 + 29 + 2 * 28 + 22, 10 + 20 + 28 + 22, 7 + 15 + 12 + 8]
    assert full.method.adapter_traffic(full) == 0


def test_adapters_in_functions_of_unsloths_cast_nothing(make_run):
    """Input read for both factors (2 + 2) and its gradient added to (8); output added to (8) and read back (4)."""
    plain = make_run(method=Lora(8, ("q_proj",)), program=UNSLOTH)
    moved = [each.method.adapter_traffic(each) / (28 * 3072) for each in (plain, replace(plain, checkpointing=True))]

    assert moved == [12 + 12, 14 + 20]
    # Dropout is left to PEFT's own layers.
    dropped = replace(plain, method=Lora(8, ("q_proj",), 0.1))
    assert dropped.method.adapter_traffic(dropped) == 28 * 3072 * (2 + 5 + 4 + 5 + 6 + 10 + 2 + 8)


def test_dora_goes_over_the_adapted_weights_in_each_forward_pass(make_run):
    plain = make_run(method=Lora(8, ("q_proj",)), program=TRANSFORMERS)
    dora = replace(plain, method=replace(plain.method, weight_decomposed=True))
    weights, numbers = 28 * 3072 * 3072, 28 * 3072

    assert dora.method.decomposition_traffic(dora) == 18 * weights
    assert plain.method.decomposition_traffic(plain) == 0
    assert dora.method.adapter_traffic(dora) - plain.method.adapter_traffic(plain) == 2 * 16 * numbers
    extra = step_time.overhead_seconds(dora) - step_time.overhead_seconds(plain)
    again = replace(dora, checkpointing=True), replace(plain, checkpointing=True)
    assert extra * plain.device.bandwidth == pytest.approx(18 * weights)
    assert step_time.overhead_seconds(again[0]) - step_time.overhead_seconds(again[1]) == pytest.approx(2 * extra)


def test_adapters_of_experts_keep_a_second_copy_of_the_experts(make_run):
    """Of all layers until the backward pass, or of one layer that is computed again; its gradient is as large."""
    shape = model("mixtral-8x7b").shape
    one = make_run(shape=shape, method=Lora(8, ("q_proj",), 0.0))
    both = replace(one, method=Lora(8, ("q_proj", "experts.gate_up_proj", "experts.down_proj"), 0.0))
    experts = 2 * routed_weights(shape)

    more = step_peak(both).total - step_peak(one).total
    assert experts < more < 1.1 * experts
    again = [replace(run, checkpointing=True) for run in (one, both)]
    more = step_peak(again[1]).total - step_peak(again[0]).total
    assert 2 * experts / shape.layers < more < 3 * experts / shape.layers


def test_adapters_that_are_gathered_from_shards_need_no_float32_inputs(make_run):
    one = make_run(program=TRANSFORMERS, method=LORA)
    sharded, replicated = (replace(one, devices=2, sharding=kind) for kind in ("full", "replicated"))
    inputs = 5 * 3072 + 3072 + 8192

    kept = [layer_activations(run).saved for run in (one, sharded, replicated)]
    assert kept[0] - kept[1] == (4 - 2) * inputs
    assert kept[0] == kept[2]


def test_autocast_takes_the_float32_input_of_each_adapter_down(make_run):
    plain = make_run(program=TRANSFORMERS, method=Qlora.of(LORA))
    autocast = replace(plain, weight_bytes=4)
    attention = [layer_activations(run).attention for run in (plain, autocast)]

    kept = layer_activations(plain).saved - layer_activations(autocast).saved
    assert kept - (attention[0] - attention[1]) == (4 - 2) * (6 * 3072 + 8192)


def test_dora_adds_one_magnitude_per_output():
    plain = Lora(8, ("q_proj",)).trainable_parameters(LLAMA)

    assert Lora(8, ("q_proj",), weight_decomposed=True).trainable_parameters(LLAMA) == plain + 28 * 3072


def test_embeddings_and_head_are_trained_as_copies_of_their_own_type(make_run):
    """Llama-3.1-8B: tables of 128,256 x 4,096 in 16 bits, their gradients, two moments; adapters are float32."""
    shape = model("llama-3.1-8b").shape
    table = 128_256 * 4096
    plain = make_run(shape=shape, method=Lora(8, ("q_proj",)), program=TRANSFORMERS)
    one = replace(plain, method=replace(plain.method, train_embeddings=True))
    both = replace(plain, method=replace(one.method, train_head=True))
    trained = [run.trainable_parameters for run in (plain, one, both)]
    states = [model_states(run) for run in (plain, one, both)]

    assert [more - trained[0] for more in trained] == [0, table, 2 * table]
    for count, state in enumerate(states):
        assert state.base_weights == states[0].base_weights
        assert state.trainable_weights - states[0].trainable_weights == 2 * count * table
        assert state.gradients - states[0].gradients == 2 * count * table
        assert state.optimizer_states - states[0].optimizer_states == 4 * count * table
    assert [state.head_gradient for state in states] == [0, 0, 2 * table]


def test_a_table_that_is_embeddings_and_head_is_trained_once(make_run):
    method = Lora(8, ("q_proj",), train_embeddings=True, train_head=True)

    assert method.whole_parameters(LLAMA) == 128_256 * 3072
    assert replace(method, train_embeddings=False).whole_parameters(LLAMA) == 128_256 * 3072
    assert Lora(8, ("q_proj",)).whole_parameters(LLAMA) == 0
    assert Qlora.of(method).whole_parameters(LLAMA) == 128_256 * 3072


def test_a_trained_head_has_the_products_of_its_gradient_and_the_update_of_its_numbers(make_run):
    plain = make_run(method=Lora(8, ("q_proj",)), program=TRANSFORMERS, loss="full-logits")
    trained = replace(plain, method=replace(plain.method, train_head=True))
    step = step_time.step_of(plain, plain.rows)
    flops = [step_time.training_flops(run, run.rows, step) for run in (plain, trained)]
    moved = [update_traffic(run) for run in (plain, trained)]

    assert flops[1] - flops[0] == pytest.approx(2 * 128_256 * 3072)
    # 20 numbers of AdamW's steps and 3 of clipping, of two bytes each.
    assert moved[1] - moved[0] == pytest.approx(23 * 2 * 128_256 * 3072)
