# SPDX-License-Identifier: Apache-2.0
"""Estimates of rows whose tokens are estimated."""

import math
from dataclasses import replace

import pytest
from finetree_estimator.estimate import estimate, fit_of
from finetree_estimator.evidence.corrections import UNCORRECTED, Correction, Factor
from finetree_estimator.evidence.token_count import TOKEN_COUNT, widened
from finetree_estimator.intervals import Interval
from finetree_estimator.run import EvaluationPlan, Rows, Run

LEARNED = Correction(memory=Factor(value=0.8, weight=0.9, spread=0.05, observations=20))


def times(factor: float) -> Rows:
    """Rows so many times as long as 200 tokens in the mean."""
    mean = 200.0 * factor
    return Rows(count=1000, mean=mean, mean_square=1.1 * mean**2, longest=int(400 * factor), target_fraction=0.5)


@pytest.fixture
def counted(make_run) -> Run:
    return make_run(rows=times(1), sequence_length=1024)


@pytest.fixture
def estimated(counted) -> Run:
    return replace(counted, rows=replace(times(1), ends=(times(0.5), times(1.5))))


def test_two_errors_are_sides_of_a_right_angle():
    found = widened(Interval(50.0, 100.0, 200.0), Interval(25.0, 50.0, 100.0), Interval(100.0, 200.0, 400.0))
    factor = math.exp(math.hypot(math.log(2), math.log(2)))
    assert (found.low, found.expected, found.high) == pytest.approx((100 / factor, 100, 100 * factor))
    assert found.sources == (TOKEN_COUNT,)


def test_no_end_is_farther_than_that_of_the_other_run():
    found = widened(Interval(90.0, 100.0, 110.0), Interval(94.0, 99.0, 104.0), Interval(100.0, 101.0, 102.0))
    assert (found.low, found.high) == (90.0, 110.0)
    assert widened(Interval(0.0, 100.0, 150.0), Interval(0.0, 0.0, 0.0)).low == 0.0


def test_what_does_not_depend_on_the_tokens_stays():
    weights = Interval(100.0, 100.0, 100.0)
    assert widened(weights, weights, weights) is weights


def test_memory_time_and_cost_are_wider_around_the_same_expected_values(counted, estimated):
    plain, wide = estimate(counted), estimate(estimated)
    fewest, most = (estimate(replace(counted, rows=times(factor))) for factor in (0.5, 1.5))
    for part in ("device", "reserved", "allocated"):
        narrow, found = getattr(plain.memory, part), getattr(wide.memory, part)
        assert getattr(fewest.memory, part).low <= found.low < narrow.low
        assert narrow.high < found.high <= getattr(most.memory, part).high
        assert found.expected == narrow.expected
    assert plain.times is not None
    assert wide.times is not None
    assert most.times is not None
    assert plain.times.total.high < wide.times.total.high <= most.times.total.high
    assert wide.times.total.expected == plain.times.total.expected
    assert wide.times.step.low < plain.times.step.low
    assert wide.cost is not None
    assert wide.optimizer_steps == plain.optimizer_steps
    assert "TOKENS_ESTIMATED" in {remark.code for remark in wide.remarks}
    assert "TOKENS_ESTIMATED" not in {remark.code for remark in plain.remarks}


def test_parts_stay_within_the_whole(estimated):
    memory, fit = fit_of(estimated)
    assert sum(part.expected for _, part in memory.components) == pytest.approx(memory.device.expected)
    assert fit.peak == memory.device
    for _, part in memory.components:
        assert part.low <= part.expected <= part.high


def test_held_out_rows_may_be_the_ones_that_are_estimated(counted):
    held_out = EvaluationPlan(rows=times(1), after=1)
    wide = EvaluationPlan(rows=replace(times(1), ends=(times(0.5), times(1.5))), after=1)
    plain, found = (estimate(replace(counted, evaluation=plan)).times for plan in (held_out, wide))
    assert plain is not None
    assert found is not None
    assert found.total.high > plain.total.high
    assert found.step == plain.step


def test_a_run_of_unknown_rows_is_as_before(make_run):
    run = make_run(rows=None, steps=0)
    assert run.counts_tokens
    assert estimate(run).times is None


def test_observed_runs_lower_no_upper_end(estimated):
    plain, corrected = (estimate(estimated, correction).memory for correction in (UNCORRECTED, LEARNED))
    assert corrected.device.expected < plain.device.expected
    for part in ("device", "reserved", "allocated", "host"):
        assert getattr(corrected, part).high >= getattr(plain, part).high
    assert fit_of(estimated, LEARNED)[1].peak.high >= fit_of(estimated)[1].peak.high
