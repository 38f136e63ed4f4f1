# SPDX-License-Identifier: Apache-2.0
import pytest
from finetree_estimator import durations
from finetree_estimator.durations import Phase, Step
from finetree_estimator.methods import PRESETS, Full, LoraAdapters, Prefix, QuantizedLora
from finetree_estimator.run import EvaluationPlan, Rows
from finetree_estimator.shapes import linear_weights

ROWS = Rows(1000, 200.0, 45_000.0, 512, 0.5)
QV = LoraAdapters(8, PRESETS["query-value"])


def flops(run):
    return durations.training_flops(run, ROWS, Step(4, 800.0), durations.work_of(run.recipe))


def forward(run, rows):
    return durations.forward_flops(run, rows, durations.work_of(run.recipe))


def elementwise(run):
    return durations.elementwise_seconds(run, ROWS, durations.work_of(run.recipe))


def matrix_part(run):
    """FLOPs of the layers' weights per token, in units of the weights of their projections."""
    dense, _, _ = forward(run, ROWS)
    return dense / linear_weights(run.shape)


def test_a_forward_pass_costs_two_flops_per_weight(make_run):
    assert matrix_part(make_run()) == pytest.approx(2.0, rel=1e-3)


def test_lora_skips_the_gradients_of_frozen_weights(make_run):
    """LoRA 4N, full 6N, checkpointing 2N on top (reference, section 4)."""
    lora, full = flops(make_run(method=QV)), flops(make_run(method=Full()))

    assert full / lora == pytest.approx(1.5, rel=0.01)
    assert flops(make_run(method=QV, checkpointing=True)) / lora == pytest.approx(1.5, rel=0.1)
    assert flops(make_run(method=Full(), checkpointing=True)) / full == pytest.approx(8 / 6, rel=0.1)


def test_attention_grows_with_the_row_not_with_the_packed_sequence(make_run):
    short, long = (forward(make_run(), Rows(10, n, n * n, int(n), 1.0))[1] for n in (100.0, 1100.0))

    assert long - short == 28 * 3072 * 2 * 1000


def test_the_head_is_computed_where_something_is_learned(make_run):
    everywhere = forward(make_run(loss="full-logits"), ROWS)[2]

    assert forward(make_run(), ROWS)[2] == everywhere / 2


def test_rows_of_a_batch_fall_into_micro_batches(make_run):
    padded = durations.step_of(make_run(), ROWS)
    packed = durations.step_of(make_run(packing=True), ROWS)

    assert (padded.micro_batches, padded.tokens) == (4, 800.0)
    assert (packed.micro_batches, packed.tokens) == (2, 1600.0)


def test_unpacking_a_quantised_base_costs_the_same_for_few_and_many_tokens(make_run):
    plain, quantized = make_run(), make_run(method=QuantizedLora(make_run().method))
    extra = durations.overhead_seconds(quantized) - durations.overhead_seconds(plain)

    assert extra > 0
    assert flops(quantized) == flops(plain)


def test_phases_add_up_and_steps_make_the_training(make_run):
    times = durations.estimate(make_run())
    phases = dict(times.phases)

    assert times.total.expected == pytest.approx(sum(phase.expected for phase in phases.values()))
    assert phases[Phase.TRAIN].expected == pytest.approx(189 * times.step.expected)
    assert times.processed_tokens == 189 * 3200
    assert times.tokens_per_second.expected == pytest.approx(3200 / times.step.expected)


def test_without_rows_there_is_no_time(make_run):
    assert durations.estimate(make_run(rows=None, steps=0)) is None


HELD_OUT = Rows(100, 200.0, 45_000.0, 512, 0.1)


def evaluation(run, **changes: object) -> float:
    return durations.evaluation_seconds(run, EvaluationPlan(HELD_OUT, **changes))


def test_each_look_at_the_loss_costs_the_same(make_run):
    run = make_run()

    assert evaluation(run, before=1, during=3, after=1) == pytest.approx(5 * evaluation(run, after=1))
    assert evaluation(run) == 0
    assert durations.evaluation_seconds(run, EvaluationPlan()) == 0


def test_answers_that_tell_the_best_evaluation_cost_at_each_look(make_run):
    run = make_run()
    asked = {"generate": True, "max_new_tokens": 64}
    one = evaluation(run, after=1, **asked)

    assert evaluation(run, during=3, after=1, generate_during=True, **asked) == pytest.approx(4 * one)
    assert evaluation(run, during=3, after=1, **asked) < 2 * one


def test_an_untrained_model_answers_to_the_limit_and_a_trained_one_stops(make_run):
    run = make_run()
    before = [evaluation(run, generate=True, before=1, max_new_tokens=n) for n in (8, 512)]
    after = [evaluation(run, generate=True, after=1, max_new_tokens=n) for n in (8, 512)]

    assert before[0] == after[0]
    assert before[1] > 10 * before[0]
    assert after[1] < before[1] / 8


def test_on_a_cpu_weights_and_activations_take_their_own_time(make_run, cpu, gpu):
    run = make_run(device=cpu)

    assert durations.repack_seconds(run) == pytest.approx(linear_weights(run.shape) / (1.0e9 * cpu.cores))
    assert elementwise(run) > elementwise(make_run()) > 0
    assert durations.repack_seconds(make_run()) == 0


def test_a_fused_loss_moves_no_logits(make_run):
    plain, fused = (elementwise(make_run(loss=loss)) for loss in ("full-logits", "fused"))

    assert (plain - fused) * make_run().device.bandwidth == pytest.approx(3.6 * 14 * 128_256)


def test_virtual_tokens_cost_attention(make_run):
    few, many = (forward(make_run(method=Prefix(n)), ROWS)[1] for n in (10, 110))

    assert many - few == 28 * 3072 * 4 * 100


def test_two_devices_are_less_than_twice_as_fast(make_run):
    one, two = (durations.estimate(make_run(devices=n, method=Full())).step.expected for n in (1, 2))

    assert 1.5 < one / two < 2


def test_sharded_weights_are_gathered_for_every_micro_batch(make_run):
    """Llama-3.1-8B in full on 8 A100: a step takes 0.4 s more than its tokens explain (IBM rows)."""
    copied, sharded = (
        durations.estimate(make_run(devices=8, batch=128, method=Full(), sharding=sharding)).step.expected
        for sharding in ("replicated", "full")
    )

    assert sharded > copied


def test_a_faster_device_narrows_nothing(make_run):
    times = durations.estimate(make_run())

    assert times.step.low / times.step.expected == pytest.approx(1 / 1.25)
    assert times.step.high / times.step.expected == pytest.approx(1 / 0.7)
