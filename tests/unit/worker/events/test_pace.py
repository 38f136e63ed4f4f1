# SPDX-License-Identifier: Apache-2.0
"""What remains of a run, from steps that were timed and tokens that are known."""

import random
from statistics import median

import pytest
from finetree_worker.events.pace import RECENT, Pace


def run(times: list[float], work: list[int]) -> Pace:
    pace = Pace()
    for seconds, tokens in zip(times, work, strict=True):
        pace.add(seconds, tokens)
    return pace


def test_nothing_is_foretold_from_nothing():
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
    pace = run([1.0] * 100 + [2.0] * RECENT, [100] * (100 + RECENT))
    assert pace.remaining(10, 1000) == pytest.approx(20.0)


def test_after_twenty_steps_the_forecast_of_uneven_steps_is_within_five_percent_in_the_median():
    """Log-normal row lengths, a constant share of each step, and 5 % noise, over 200 invented runs."""
    errors = []
    for seed in range(200):
        dice = random.Random(seed)
        work = [sum(int(dice.lognormvariate(4.0, 0.8)) + 8 for _ in range(8)) for _ in range(120)]
        times = [(0.15 + 0.002 * tokens) * dice.lognormvariate(0.0, 0.05) for tokens in work]
        foretold = run(times[:20], work[:20]).remaining(100, sum(work[20:]))
        errors.append(abs(foretold / sum(times[20:]) - 1))
    assert median(errors) < 0.02
    assert sorted(errors)[int(0.95 * len(errors))] < 0.05
