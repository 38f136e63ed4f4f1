# SPDX-License-Identifier: Apache-2.0
"""Intervals against published numbers, and how often they err."""

import random

import pytest
from finetree_trainer.jobs.compare import intervals
from finetree_trainer.jobs.compare.intervals import Measured


def test_wilson_and_newcombe_are_those_of_the_paper():
    """Newcombe (1998), table II, method 10: 56/70 - 48/80 and 9/10 - 3/10."""
    for (a, m), (b, n), wanted in (
        ((56, 70), (48, 80), (0.0524, 0.2, 0.3339)),
        ((9, 10), (3, 10), (0.1705, 0.6, 0.8090)),
    ):
        found = intervals.advantage(intervals.share(a / m, m), intervals.share(b / n, n), comparisons=1, higher=True)
        assert found == pytest.approx(wanted, abs=1e-4)
    low, high = intervals.share(0.0, 20).ends()
    assert (low, high) == (0.0, pytest.approx(0.1611, abs=1e-4))


def test_less_is_better_turns_the_difference_and_its_ends_around():
    low, difference, high = intervals.advantage(Measured(1.0, 0.1), Measured(1.5, 0.2), comparisons=1, higher=False)
    assert difference == pytest.approx(0.5)
    assert (difference - low, high - difference) == (pytest.approx(1.96 * 0.05**0.5, abs=1e-3),) * 2
    assert intervals.advantage(Measured(1.0, None), Measured(1.5, 0.2), comparisons=1, higher=False) is None


def test_among_equals_a_winner_is_named_at_most_as_rarely_as_promised():
    """Sixteen jobs of one true loss: the luckiest must not be told apart in more than about 5 % of comparisons."""
    chance, wrong, trials = random.Random(4), 0, 600
    for _ in range(trials):
        values = [Measured(chance.gauss(1.0, 0.02), 0.02) for _ in range(16)]
        leader = min(values, key=lambda value: value.value)
        found = [
            intervals.advantage(leader, other, comparisons=15, higher=False) for other in values if other is not leader
        ]
        wrong += all(each is not None and each[0] > 0 for each in found)
    assert wrong / trials <= 0.05


def test_a_mean_has_the_error_of_its_values():
    found = intervals.mean([1.0, 2.0, 3.0, 4.0])
    assert (found.value, found.standard_error) == (2.5, pytest.approx((5 / 3 / 4) ** 0.5))
    assert intervals.mean([1.0]).standard_error is None
