# SPDX-License-Identifier: Apache-2.0
"""How far a measured value may be off by chance, and whether two values differ by more than that."""

import math
from dataclasses import dataclass
from statistics import NormalDist

COVERAGE = 0.95
"""Share of cases that an interval is meant to hold."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A value with its standard error; `trials` is set for a share of so many prompts. None: no error is known."""

    value: float
    standard_error: float | None
    trials: int = 0

    def ends(self, coverage: float = COVERAGE) -> tuple[float, float] | None:
        """Ends of the interval: of a share by Wilson's score, else normal.

        E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927): unlike the
        normal interval it has a width where all answers, or none, are right.
        """
        z = NormalDist().inv_cdf((1 + coverage) / 2)
        if self.trials:
            n, p = self.trials, self.value
            center = (p + z * z / (2 * n)) / (1 + z * z / n)
            half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
            return max(0.0, min(center - half, p)), min(1.0, max(center + half, p))
        if self.standard_error is None:
            return None
        return self.value - z * self.standard_error, self.value + z * self.standard_error


def mean(values: list[float]) -> Measured:
    """The mean of values with its standard error, as if they were drawn independently."""
    center = math.fsum(values) / len(values)
    if len(values) < 2:
        return Measured(center, None)
    variance = math.fsum((value - center) ** 2 for value in values) / (len(values) - 1)
    return Measured(center, math.sqrt(variance / len(values)))


def share(value: float, trials: int) -> Measured:
    """A share of so many prompts that were answered rightly."""
    error = math.sqrt(value * (1 - value) / trials) if trials else None
    return Measured(value, error, trials)


def advantage(best: Measured, other: Measured, *, comparisons: int, higher: bool) -> tuple[float, float, float] | None:
    """By how much `best` is better than `other`, and the ends of that; None where an error is unknown.

    The ends hold for `comparisons` of them together (Bonferroni). They are those of independent samples, by R. G.
    Newcombe, Interval estimation for the difference between independent proportions, Statistics in Medicine 17 (1998),
    method 10, which for normal intervals is the usual root of the sum of squares.
    """
    coverage = 1 - (1 - COVERAGE) / comparisons
    of_best, of_other = best.ends(coverage), other.ends(coverage)
    if of_best is None or of_other is None:
        return None
    if not higher:
        best, other, of_best, of_other = other, best, of_other, of_best
    difference = best.value - other.value
    low = difference - math.hypot(best.value - of_best[0], of_other[1] - other.value)
    high = difference + math.hypot(of_best[1] - best.value, other.value - of_other[0])
    return low, difference, high
