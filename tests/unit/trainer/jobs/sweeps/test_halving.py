# SPDX-License-Identifier: Apache-2.0
import random

import pytest
from finetree_trainer.jobs.sweeps.halving import Halving, share_of_steps

RULE = Halving(factor=3, min_steps=10, lowest=True)


def curve(*values: float) -> list[tuple[int, float]]:
    return [(10 * (i + 1), value) for i, value in enumerate(values)]


def test_rungs_grow_by_the_factor_and_end_before_the_run():
    assert RULE.rungs(300) == [10, 30, 90, 270]
    assert RULE.rungs(90) == [10, 30]
    assert RULE.rungs(10) == []


def test_the_first_goes_on_and_a_worse_second_stops():
    curves = {1: curve(2.0, 1.9), 2: curve(2.1)}
    assert RULE.fallen(1, curves, 100) is None
    fallen = RULE.fallen(2, curves, 100)
    assert fallen is not None
    assert (fallen.rung, fallen.value, fallen.kept, fallen.reached) == (10, 2.1, 1, 2)
    assert RULE.fallen(2, {1: curve(2.0), 2: curve(1.5)}, 100) is None


def test_a_trial_that_has_not_reached_a_rung_is_never_judged_there():
    assert RULE.fallen(2, {1: curve(1.0), 2: []}, 100) is None


def test_one_in_three_goes_on_and_equal_values_do_not_stop_each_other():
    curves = {n: curve(float(n)) for n in range(1, 10)}
    assert [n for n in curves if RULE.fallen(n, curves, 100) is None] == [1, 2, 3]
    same = {n: curve(1.0) for n in range(1, 4)}
    assert [n for n in same if RULE.fallen(n, same, 100) is None] == [1]


def test_highest_is_best_where_it_is_and_what_is_not_finite_is_worst():
    rule = Halving(factor=2, min_steps=10, lowest=False)
    assert rule.fallen(1, {1: curve(0.9), 2: curve(0.1)}, 100) is None
    assert rule.fallen(2, {1: curve(0.9), 2: curve(0.1)}, 100) is not None
    assert RULE.fallen(1, {1: curve(float("nan")), 2: curve(9.0)}, 100) is not None


def test_the_share_of_steps_is_what_a_synchronous_halving_leaves():
    # 9 trials of 90 steps: 9 x 10 + 3 x 20 + 1 x 60 of 810.
    assert share_of_steps(9, 90, [10, 30], 3) == pytest.approx((90 + 60 + 60) / 810)
    assert share_of_steps(5, 100, [], 3) == 1.0
    assert share_of_steps(0, 0, [10], 3) == 1.0


def test_it_keeps_the_best_of_many_and_spends_a_fraction():
    """Trials whose order at the rungs is the order at the end, one after another in any order: the best one ends."""
    spent, whole, kept_best = 0, 0, 0
    for seed in range(50):
        generator, curves = random.Random(seed), {}
        finals = {n: generator.random() for n in range(1, 28)}
        finished = []
        for n in generator.sample(sorted(finals), len(finals)):
            curves[n] = []
            for step in range(10, 271, 10):
                curves[n].append((step, finals[n] + 1 / step))
                spent += 10
                if RULE.fallen(n, curves, 270) is not None:
                    break
            else:
                finished.append(n)
            whole += 270
        kept_best += min(finals, key=finals.__getitem__) in finished
    assert kept_best == 50
    assert spent / whole < 0.4
