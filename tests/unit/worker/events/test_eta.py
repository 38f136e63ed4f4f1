# SPDX-License-Identifier: Apache-2.0
"""What remains of a run: its steps, from those that were timed, and what it does besides."""

import random
from statistics import median

import pytest
from finetree_api.trainer.v1 import event_pb2
from finetree_worker.events.eta import RECENT_STEPS, Eta, Forecasts, Pace, Rows
from finetree_worker.plan import CheckpointPlan, EvaluationPlan, Metric, Price


def eta(held_out: int = 20, saves: int = 0, **evaluation: object) -> Eta:
    made = Eta(EvaluationPlan(**evaluation), CheckpointPlan(saves))
    made.rows(Rows(train=100, held_out=held_out, tokens=10_000, targets=2_000))
    return made


def test_a_run_without_evaluation_and_checkpoints_has_nothing_else_to_do():
    assert eta().others(20, 100, 0.01) == 0.0


def test_evaluations_to_come_cost_what_the_last_one_did():
    made = eta(every_steps=30)
    made.evaluation(30, 4.0, questions=0)
    # At 60 and 90; the one at 100 is the last step's, which is not made.
    assert made.others(35, 100, 0.01) == 8.0
    assert made.others(95, 100, 0.01) == 0.0


def test_an_evaluation_that_was_not_made_yet_costs_a_forward_pass_over_the_held_out_rows():
    # 20 rows of 100 tokens at 0.01 s a token, a third of it forward.
    assert eta(every_steps=50).others(20, 100, 0.01) == pytest.approx(20.0 / 3)


def test_without_held_out_rows_nothing_is_evaluated():
    assert eta(held_out=0, every_steps=10, metrics=(Metric.LOSS,)).others(20, 100, 0.01) == 0.0


def test_the_evaluation_after_training_answers_shorter_than_the_one_before():
    made = eta(metrics=(Metric.LOSS, Metric.EXACT_MATCH), max_new_tokens=62)
    made.evaluation(10, 2.0, questions=0)
    made.evaluation(0, 12.0, questions=20)
    # Answers of 20 tokens on average: the longest of a batch has 31 of the 62 that the untrained model used.
    assert made.others(99, 100, 0.01) == pytest.approx(2.0 + 10.0 / 2)


def test_checkpoints_and_the_artifact_cost_what_the_last_checkpoint_did():
    made = eta(saves=25)
    assert made.others(20, 100, 0.01) == 0.0
    made.checkpoint(3.0)
    assert made.others(30, 100, 0.01) == pytest.approx(2 * 3.0 + 1.0)


def test_evaluations_that_answer_cost_what_the_last_one_of_them_did():
    made = eta(metrics=(Metric.EXACT_MATCH,), max_new_tokens=62, every_steps=30, best_by=Metric.EXACT_MATCH)
    made.evaluation(30, 7.0, questions=20)
    # At 60 and 90, and after the last step.
    assert made.others(35, 100, 0.01) == 3 * 7.0


def test_what_remains_is_an_interval_as_wide_as_the_steps_differ():
    made = eta()
    for number, seconds in enumerate([1.0] * 8 + [2.0] * 3, start=1):
        made.step(seconds, 100)
        remaining = made.remaining(number, 100, tokens=(100 - number) * 100, rate=100.0)
        assert (remaining is not None) is (number >= 3)
    assert remaining is not None
    # The first decile of the steps is the median, the last one twice as long.
    assert 89.0 <= remaining.expected <= 178.0
    assert (remaining.low, remaining.high) == (remaining.expected, 2 * remaining.expected)


def test_what_remains_holds_evaluations_and_checkpoints_to_come():
    made = eta(saves=40, every_steps=30)
    for number in range(1, 46):
        made.step(1.0, 100)
        if number == 30:
            made.evaluation(30, 5.0, questions=0)
        if number == 40:
            made.checkpoint(3.0)
    remaining = made.remaining(45, 100, tokens=5500, rate=100.0)
    # 55 steps of a second, evaluations at 60 and 90, a checkpoint at 80 and the artifact, a third of one.
    others = 2 * 5.0 + 3.0 + 1.0
    assert remaining is not None
    assert remaining.expected == pytest.approx(55.0 + others)
    assert remaining.low == pytest.approx(55.0 + others / 2)
    assert remaining.high == pytest.approx(55.0 + others * 2)


def steps():
    """A hundred steps of a second, each after the other."""
    for number in range(1, 101):
        step = event_pb2.StepMetrics(step=number, total_steps=100)
        step.eta_seconds.expected = 100 - number
        yield step


def test_forecasts_come_once_a_tenth_with_the_cost():
    forecasts = Forecasts(Price(7.2, "EUR"))
    found = [forecasts.after(step, elapsed=float(step.step)) for step in steps()]
    made = [forecast for forecast in found if forecast is not None]
    assert len(made) == 10
    assert all(each.total_seconds.expected == pytest.approx(100.0) for each in made)
    assert {each.cost.currency_code for each in made} == {"EUR"}
    assert all(each.cost.amount.expected == pytest.approx(0.2) for each in made)


def test_a_run_without_a_price_forecasts_no_cost():
    first = Forecasts(None).after(next(steps()), 1.0)
    assert first is not None
    assert not first.HasField("cost")


def test_nothing_is_forecast_before_it_is_known_what_remains():
    assert Forecasts(None).after(event_pb2.StepMetrics(step=1, total_steps=100), 1.0) is None


def run(times: list[float], work: list[int]) -> Pace:
    pace = Pace()
    for seconds, tokens in zip(times, work, strict=True):
        pace.add(seconds, tokens)
    return pace


def test_nothing_is_predicted_from_nothing():
    assert Pace().remaining(10, 1000) == 0.0


def test_after_the_last_step_nothing_remains():
    assert run([1.0, 1.0], [100, 100]).remaining(0, 0) == 0.0


def test_equal_steps_go_on_as_they_were():
    assert run([0.5] * 20, [100] * 20).remaining(30, 3000) == pytest.approx(15.0)


def test_longer_rows_to_come_take_longer():
    work = [100 + 10 * n for n in range(20)]
    pace = run([0.2 + 0.001 * tokens for tokens in work], work)
    # An a of 0.2 s and a b of 1 ms a token, found from the steps alone.
    assert pace.remaining(10, 5000) == pytest.approx(10 * 0.2 + 5.0)


def test_a_slow_start_is_forgotten_once_there_are_other_steps():
    times = [30.0, 10.0, *[1.0] * 18]
    assert run(times, [100] * 20).remaining(10, 1000) == pytest.approx(10.0)


def test_a_moment_in_which_something_else_had_the_machine_counts_little():
    times = [1.0 + 0.01 * (n % 3) for n in range(20)]
    times[12] = 40.0
    assert run(times, [100] * 20).remaining(10, 1000) == pytest.approx(10.1, rel=0.02)


def test_a_steady_share_of_slow_steps_is_not_cut_away():
    """Every other step is slow: the mean is what it will be, not the median."""
    times = [1.0, 3.0] * 10
    assert run(times, [100] * 20).remaining(10, 1000) == pytest.approx(20.0, rel=0.01)


def test_time_that_shrinks_with_tokens_is_taken_as_independent_of_them():
    work = [100 + 10 * n for n in range(20)]
    times = [2.0 - 0.001 * tokens for tokens in work]
    remaining = run(times, work).remaining(10, 100)
    assert remaining == pytest.approx(10 * sum(times[2:]) / 18)


def test_a_machine_that_became_slower_is_followed():
    pace = run([1.0] * 100 + [2.0] * RECENT_STEPS, [100] * (100 + RECENT_STEPS))
    assert pace.remaining(10, 1000) == pytest.approx(20.0)


def test_after_twenty_steps_the_forecast_of_uneven_steps_is_within_five_percent_in_the_median():
    """Log-normal row lengths, a constant share of each step, and 5 % noise, over 200 invented runs."""
    errors = []
    for seed in range(200):
        dice = random.Random(seed)
        work = [sum(int(dice.lognormvariate(4.0, 0.8)) + 8 for _ in range(8)) for _ in range(120)]
        times = [(0.15 + 0.002 * tokens) * dice.lognormvariate(0.0, 0.05) for tokens in work]
        predicted = run(times[:20], work[:20]).remaining(100, sum(work[20:]))
        errors.append(abs(predicted / sum(times[20:]) - 1))
    assert median(errors) < 0.02
    assert sorted(errors)[int(0.95 * len(errors))] < 0.05


def test_after_a_change_only_the_last_steps_say_what_remains():
    made = eta(held_out=0)
    for seconds in [1.0] * 60 + [3.0] * 8:
        made.step(seconds, 100)
    before = made.remaining(68, 168, tokens=10_000, rate=50.0)
    made.forget_before(8)
    after = made.remaining(68, 168, tokens=10_000, rate=50.0)
    assert before is not None
    assert after is not None
    assert before.expected < 150
    assert (after.low, after.expected, after.high) == pytest.approx((300.0, 300.0, 300.0))


def test_a_forecast_that_is_known_to_be_wrong_is_made_anew_at_the_next_step():
    forecasts = Forecasts(None)

    def step(number: int) -> event_pb2.StepMetrics:
        made = event_pb2.StepMetrics(step=number, total_steps=100)
        made.eta_seconds.expected = 5.0
        return made

    assert forecasts.after(step(10), 1.0) is not None
    assert forecasts.after(step(11), 1.1) is None
    forecasts.renew()
    assert forecasts.after(step(12), 1.2) is not None
    assert forecasts.after(step(13), 1.3) is None
