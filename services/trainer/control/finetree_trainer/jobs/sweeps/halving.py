# SPDX-License-Identifier: Apache-2.0
"""Asynchronous successive halving (Li et al. 2020, arXiv:1810.05934), as a rule that stops running trials.

A rung is a number of optimizer steps: min_steps, min_steps * factor, and so on below the end of the run. A trial that
reaches a rung goes on if its value is among the best 1/factor of those that have reached it so far; while they are
fewer than `factor`, only the best of them goes on. So the first trial to reach a rung goes on.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

DEFAULT_FACTOR = 3
"""Reduction factor of a sweep that states none (Li et al. use 4, Optuna 4, Ray 4; 3 is Hyperband's, Li et al. 2018)."""

Curve = Sequence[tuple[int, float]]
"""(optimizer step, value) of a trial's evaluations, by step."""


@dataclass(frozen=True, slots=True)
class Fallen:
    """A trial that must stop: where, with which value, and how many of how many may go on."""

    rung: int
    value: float
    kept: int
    reached: int


@dataclass(frozen=True, slots=True)
class Halving:
    """The rule. `lowest` is whether the lowest value is the best."""

    factor: int
    min_steps: int
    lowest: bool

    def rungs(self, total_steps: int) -> list[int]:
        """Return the steps at which trials are compared, ascending: those before the end of the run."""
        found, step = [], self.min_steps
        while step < total_steps:
            found.append(step)
            step *= self.factor
        return found

    def fallen(self, number: int, curves: Mapping[int, Curve], total_steps: int) -> Fallen | None:
        """Return where trial `number` falls behind, by the curves of all trials; None while it keeps up."""
        for rung in self.rungs(total_steps):
            reached = {key: value for key, curve in curves.items() if (value := _at(curve, rung)) is not None}
            if number not in reached:
                return None
            kept = max(1, len(reached) // self.factor)
            # Of equal values the earlier trial is the better one: otherwise two alike would stop each other.
            order = sorted(reached, key=lambda key: (self._rank(reached[key]), key))
            if number not in order[:kept]:
                return Fallen(rung, reached[number], kept, len(reached))
        return None

    def _rank(self, value: float) -> float:
        if not math.isfinite(value):
            return math.inf
        return value if self.lowest else -value


def _at(curve: Curve, rung: int) -> float | None:
    """Return the value of the first evaluation at or after a rung."""
    return next((value for step, value in curve if step >= rung), None)


def share_of_steps(trials: int, total_steps: int, rungs: Sequence[int], factor: int) -> float:
    """Return the share of all trials' steps that halving leaves, if at every rung one in `factor` goes on."""
    if not rungs or not trials or not total_steps:
        return 1.0
    ends = [*rungs, total_steps]
    steps, left, before = 0.0, float(trials), 0
    for end in ends:
        steps += left * (end - before)
        left, before = max(1.0, left / factor), end
    return min(1.0, steps / (trials * total_steps))
