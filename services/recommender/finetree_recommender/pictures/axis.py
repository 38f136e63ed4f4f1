# SPDX-License-Identifier: Apache-2.0
"""Axis of a chart: positions of values, and round numbers along it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

_LOGARITHMIC_FROM = 12.0
"""Ratio of the largest to the smallest value from which an axis is logarithmic."""
_MOST_TICKS = 5


@dataclass(frozen=True, slots=True)
class Axis:
    """Axis from `low` to `high` in the chart's unit, drawn from `left` to `right` in px."""

    low: float
    high: float
    left: float
    right: float
    logarithmic: bool

    def at(self, value: float) -> float:
        """Position of a value in px."""
        if self.logarithmic:
            share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.left + (self.right - self.left) * min(1.0, max(0.0, share))

    def ticks(self) -> list[float]:
        """At most five round numbers, ascending."""
        if self.logarithmic:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            found = [factor * 10.0**power for power in decades for factor in (1, 2, 5)]
        else:
            step = _round_step((self.high - self.low) / (_MOST_TICKS - 1))
            found = [step * index for index in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        inside = [value for value in found if self.low <= value <= self.high * (1 + 1e-9)]
        return inside[:: math.ceil(len(inside) / _MOST_TICKS)] if inside else []


def axis(values: Sequence[float], left: float, right: float, *, from_zero: bool = True) -> Axis:
    """Choose an axis for the values: from zero, or logarithmic where they differ a lot, else just around them."""
    low, high = min(values), max(values)
    if from_zero and low > 0 and high / low >= _LOGARITHMIC_FROM:
        return Axis(low / 1.25, high * 1.25, left, right, logarithmic=True)
    if from_zero:
        return Axis(0.0, high * 1.1 or 1.0, left, right, logarithmic=False)
    room = max((high - low) * 0.1, 1.0)
    return Axis(low - room, high + room, left, right, logarithmic=False)


def _round_step(least: float) -> float:
    """Smallest of 1, 2, 5, 10, 20 … that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= least * (1 - 1e-9))
