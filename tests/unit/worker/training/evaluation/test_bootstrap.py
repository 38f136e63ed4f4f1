# SPDX-License-Identifier: Apache-2.0
"""Intervals against closed forms: their ends where theory gives them, and how often they hold the truth."""

import math

import numpy as np
import pytest
from finetree_worker.training.evaluation.bootstrap import Bootstrap, Ratio

ONES = np.ones


def mean_of(values: np.ndarray) -> Ratio:
    return Ratio(values, ONES(len(values)))


def paired(a: np.ndarray, b: np.ndarray, seed: int = 0, resamples: int = 10_000) -> Bootstrap:
    return Bootstrap({"a": mean_of(a), "b": mean_of(b)}, seed=seed, resamples=resamples)


def test_the_interval_of_a_mean_is_that_of_the_central_limit_theorem() -> None:
    random = np.random.default_rng(1)
    b = random.normal(0, 3, 500)
    a = b + random.normal(0.2, 1, 500)
    found = paired(a, b).interval("a", "b")
    differences = a - b
    error = differences.std() / math.sqrt(500)
    assert found.value == pytest.approx(differences.mean())
    # With 10,000 resamples a quantile of 2.5 % is known to some 3 % of the standard error.
    assert found.low == pytest.approx(differences.mean() - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(differences.mean() + 1.96 * error, abs=0.1 * error)
    # What both have in common cancels: alone, each is three times as uncertain.
    alone = paired(a, b).interval("a")
    assert alone.high - alone.low > 2.5 * (found.high - found.low)


@pytest.mark.parametrize("kind", ["losses", "answers"])
def test_of_simulated_pairs_95_percent_of_the_intervals_hold_the_truth(kind: str) -> None:
    """Skewed losses, and right or wrong answers; within the error of a binomial share of the number of simulations."""
    random, simulations, rows = np.random.default_rng(7), 200, 120
    held = 0
    for simulation in range(simulations):
        if kind == "losses":
            common = random.exponential(1.0, rows)
            a, b, truth = common * random.exponential(0.8, rows), common, -0.2
        else:
            a, b, truth = random.random(rows) < 0.7, random.random(rows) < 0.5, 0.2
        found = paired(a.astype(float), b.astype(float), seed=simulation, resamples=1_000).interval("a", "b")
        held += found.low <= truth <= found.high
    error = math.sqrt(0.95 * 0.05 / simulations)
    # BCa from 120 rows is itself right to about a percent (Efron 1987: an error of the order of 1 / rows).
    assert abs(held / simulations - 0.95) < 2.58 * error + 0.01


def test_an_interval_of_skewed_values_leans_to_the_long_tail() -> None:
    """Of a mean of exponential values the percentile interval lies too far to the left (Efron 1987, section 4)."""
    values = np.random.default_rng(3).exponential(1.0, 60)
    found = paired(values, values * 0).interval("a")
    error = values.std() / math.sqrt(60)
    assert found.high - found.value > 1.05 * (found.value - found.low)
    assert found.low > found.value - 1.96 * error


def test_a_loss_is_drawn_by_rows_as_a_ratio_of_sums() -> None:
    """A row of a hundred tokens weighs a hundred times as much as a row of one, in every resample."""
    nats, tokens = np.array([100.0, 1.0, 3.0, 2.0] * 30), np.array([100.0, 1.0, 1.0, 1.0] * 30)
    found = Bootstrap({"loss": Ratio(nats, tokens)}, seed=0).interval("loss")
    assert found.value == pytest.approx(nats.sum() / tokens.sum())
    # The linearized standard error of a ratio of means (Cochran 1977, Sampling Techniques, section 6.4).
    residuals = nats - found.value * tokens
    error = math.sqrt((residuals**2).sum() / len(nats)) / math.sqrt(len(nats)) / tokens.mean()
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.2)


def test_a_perplexity_has_the_ends_of_its_loss() -> None:
    """BCa respects a monotone transformation but for the jackknife's small change (Efron 1987, section 3)."""
    nats, tokens = np.random.default_rng(4).exponential(3.0, 200), ONES(200)
    both = {"loss": Ratio(nats, tokens), "perplexity": Ratio(nats, tokens, np.exp)}
    drawn = Bootstrap(both, seed=0)
    loss, perplexity = drawn.interval("loss"), drawn.interval("perplexity")
    assert perplexity.value == pytest.approx(math.exp(loss.value))
    assert math.log(perplexity.low) == pytest.approx(loss.low, abs=0.03)
    assert math.log(perplexity.high) == pytest.approx(loss.high, abs=0.03)


def test_equal_models_differ_by_exactly_nothing() -> None:
    values = np.random.default_rng(5).exponential(1.0, 50)
    found = paired(values, values.copy()).interval("a", "b")
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


def test_the_same_seed_gives_the_same_interval_whatever_is_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(6)
    a, b = random.normal(size=40), random.normal(size=40)
    first = paired(a, b, seed=3).interval("a", "b")
    assert paired(a, b, seed=3).interval("a", "b") == first
    assert paired(a, b, seed=4).interval("a", "b") != first
    monkeypatch.setattr("finetree_worker.training.evaluation.bootstrap.CHUNK", 40 * 1000)
    assert paired(a, b, seed=3).interval("a", "b").low == pytest.approx(first.low)


def test_one_row_and_values_that_are_not_finite_have_no_interval() -> None:
    assert paired(np.array([1.0]), np.array([0.0])).interval("a", "b").low is None
    found = paired(np.array([1.0, math.inf]), np.array([0.0, 0.0])).interval("a", "b")
    assert found.low is None
    assert found.high is None


def test_rows_that_count_for_nothing_change_nothing() -> None:
    """Rows without an answer have no part in a share of right answers, though they are drawn with the others."""
    right = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0] * 5)
    padded = Ratio(np.concatenate([right, ONES(60) * 0]), np.concatenate([ONES(40), ONES(60) * 0]))
    found = Bootstrap({"some": padded}, seed=0).interval("some")
    whole = Bootstrap({"all": mean_of(right)}, seed=0).interval("all")
    assert found.value == whole.value
    assert found.low == pytest.approx(whole.low, abs=0.05)
    assert found.high == pytest.approx(whole.high, abs=0.05)


def test_a_stop_is_noticed_between_two_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetree_worker.training.evaluation.bootstrap.CHUNK", 40)

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Bootstrap({"a": mean_of(ONES(40))}, seed=0, stop_here=stop)
