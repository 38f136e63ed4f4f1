# SPDX-License-Identifier: Apache-2.0
"""Curves of several jobs on one axis: their points stand for the same intervals, so that they can be laid together.

Widths of intervals are powers of two, so that those of one job become those of another by joining neighbours.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from finetree_api.trainer.v1 import comparison_pb2

FINEST = {
    comparison_pb2.CURVE_AXIS_STEP: 1.0,
    comparison_pb2.CURVE_AXIS_EPOCH: 2.0**-20,
    comparison_pb2.CURVE_AXIS_TOKENS: 1.0,
}
"""Width from which intervals grow, in units of the axis."""


@dataclass(slots=True)
class _Bin:
    """The values of an interval."""

    step: int
    low: float
    high: float
    total: float
    count: int = 1

    def join(self, other: "_Bin") -> None:
        self.step = max(self.step, other.step)
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.total += other.total
        self.count += other.count


@dataclass(slots=True)
class Curve:
    """The values of a metric of one job, in at most `limit` intervals of `width` units of the axis.

    Intervals are numbered from 1 by their upper ends; 0 is the base model's, before the first step.
    """

    width: float
    limit: int
    _bins: dict[int, _Bin] = field(default_factory=dict)

    def add(self, position: float, step: int, value: float) -> None:
        """Add the value at a position; the order does not matter."""
        self._put(math.ceil(position / self.width), _Bin(step, value, value, value))
        while len(self._bins) > self.limit + 1:
            self.widen(2 * self.width)

    def widen(self, width: float) -> None:
        """Make intervals wider; `width` is the present one times a power of two."""
        factor = round(width / self.width)
        if factor <= 1:
            return
        old, self._bins, self.width = self._bins, {}, width
        for number, values in old.items():
            self._put(-(-number // factor), values)

    def points(self) -> Iterable[comparison_pb2.CurvePoint]:
        """The points in their order."""
        for number, values in sorted(self._bins.items()):
            yield comparison_pb2.CurvePoint(
                position=number * self.width,
                step=values.step,
                # Rounding must not put the mean of equal values beside them.
                mean=min(max(values.total / values.count, values.low), values.high),
                min=values.low,
                max=values.high,
                count=values.count,
            )

    def _put(self, number: int, values: _Bin) -> None:
        present = self._bins.get(number)
        if present is None:
            self._bins[number] = values
        else:
            present.join(values)


def common_width(curves: Iterable[Curve], spacings: Iterable[float]) -> float:
    """Width of intervals that all curves can have: at least the widest of theirs, and as wide as steps are apart.

    `spacings` are the distances of neighbouring steps of each job, in units of the axis: narrower intervals would leave
    those of the job with large batches empty between its steps.
    """
    wide = max((curve.width for curve in curves), default=0.0)
    return max([wide, *(2.0 ** math.ceil(math.log2(spacing)) for spacing in spacings if spacing > 0)])
