# SPDX-License-Identifier: Apache-2.0
import pytest
from finetree_estimator import constants as c
from finetree_estimator.methods.full import Full
from finetree_estimator.run import EvaluationPlan, Rows
from finetree_estimator.timing import phases, step_time
from finetree_estimator.timing.phases import Phase


def test_phases_add_up_and_steps_make_the_training(make_run):
    times = phases.estimate(make_run())
    found = dict(times.phases)

    assert times.total.expected == pytest.approx(sum(phase.expected for phase in found.values()))
    assert found[Phase.TRAIN].expected == pytest.approx(189 * times.step.expected)
    assert times.processed_tokens == 189 * 3200
    assert times.tokens_per_second.expected == pytest.approx(3200 / times.step.expected)


@pytest.mark.parametrize(("optimizer", "times"), [("adamw", 3.0), ("adamw-8bit", 2.0), ("sgd", 1.0)])
def test_a_checkpoint_holds_the_optimizers_states_as_they_are(make_run, optimizer, times):
    """States of AdamW are two numbers of the weights' format, or two bytes; plain SGD has none."""
    run = make_run(method=Full(), master_bytes=2, optimizer=optimizer, checkpoints=4)
    artifact = 2 * 3_212_749_824

    written = phases.save_seconds(run) * c.DISK_BYTES_PER_SECOND
    assert written == pytest.approx((4 * times + 1) * artifact, rel=0.03)


def test_without_rows_there_is_no_time(make_run):
    assert phases.estimate(make_run(rows=None, steps=0)) is None


HELD_OUT = Rows(count=100, mean=200.0, mean_square=45_000.0, longest=512, target_fraction=0.1)


def evaluation(run, **changes: object) -> float:
    return phases.evaluation_seconds(run, EvaluationPlan(rows=HELD_OUT, **changes))


def test_each_look_at_the_loss_costs_the_same(make_run):
    run = make_run()

    assert evaluation(run, before=1, during=3, after=1) == pytest.approx(5 * evaluation(run, after=1))
    assert evaluation(run) == 0
    assert phases.evaluation_seconds(run, EvaluationPlan()) == 0


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


def test_a_time_is_as_wide_as_the_rate_and_what_may_hold_a_micro_batch_up(make_run):
    run = make_run()
    again = make_run(checkpointing=True)
    step, (delay, longer) = (
        phases.estimate(run).step,
        (step_time.delay_seconds(each, each.rows, step_time.step_of(each, each.rows)) for each in (run, again)),
    )

    assert step.low / step.expected == pytest.approx(1 / 1.25)
    assert step.high == pytest.approx(step.expected / 0.7 + 4 * delay)
    assert 0 < 4 * delay < 0.3 * step.expected
    assert longer == pytest.approx(4 / 3 * delay)
