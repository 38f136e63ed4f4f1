# SPDX-License-Identifier: Apache-2.0
"""Which methods another one beats, over quality, memory, time and cost, with intervals in place of points.

Two figures of which each expected value lies inside the other's interval are equal: neither source can tell them
apart. A quality that is lower in the middle and higher at neither end is worse all the same: what leaves qualities
open, the task and its data, is the same for all methods, so that their intervals move together. A method dominates
another when it is worse in nothing, better in something, and its gains outweigh its losses, each in units of what the
intervals of that figure leave open on average. The last condition only weighs figures that count as equal; it keeps
three methods from dominating each other in a circle, so that the frontier is never empty.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from finetree_api.types.v1 import evidence_pb2 as ev

from finetree_recommender.method import Method

_LEAST_NOISE = 0.01
"""Relative half-width that an interval counts with at least: a bare number is no more exact than that."""
_ROUNDING = 1e-9
"""Balance of gains and losses below which two methods are the same."""


class Figures(NamedTuple):
    """What a method is compared by; None where there is no figure."""

    quality_percent: ev.Interval
    device_bytes: ev.Interval | None = None
    total_seconds: ev.Interval | None = None
    cost: ev.Interval | None = None


_Span = tuple[float, float, float]
"""Lower end, expected value and upper end: they are compared dozens of times, and a message takes its time to tell."""
_SIDES = ((1, True), (-1, False), (-1, False), (-1, False))
"""Of each of the `Figures`: 1 where more is better and -1 where less is, and whether what leaves it open is the same
for all methods."""


class _Dimension(NamedTuple):
    """A figure that all methods have; its sides are those of `_SIDES`."""

    sign: int
    together: bool
    values: Mapping[Method, _Span]
    noise: float

    def gain(self, one: Method, other: Method) -> float:
        """How much better one method is than another, in units of the noise; negative where it is worse."""
        ratio = self.values[one][1] / self.values[other][1]
        return self.sign * math.log(ratio) / self.noise


def dominators(figures: Mapping[Method, Figures], order: Sequence[Method]) -> dict[Method, Method]:
    """For each method that is dominated, the method that dominates it, first in `order`."""
    dimensions = _dimensions(figures)
    found = {}
    for method in figures:
        rivals = (rival for rival in order if rival in figures and rival is not method)
        better = next((rival for rival in rivals if _dominates(dimensions, rival, method)), None)
        if better is not None:
            found[method] = better
    return found


def equal(one: _Span, other: _Span) -> bool:
    """Whether each expected value lies inside the other's interval."""
    return other[0] <= one[1] <= other[2] and one[0] <= other[1] <= one[2]


def _below(one: _Span, other: _Span) -> bool:
    """Whether one figure is less in the middle than another, and more at no end."""
    return one[0] <= other[0] and one[1] < other[1] and one[2] <= other[2]


def _dominates(dimensions: Sequence[_Dimension], one: Method, other: Method) -> bool:
    apart = False
    for sign, _, values, _ in dimensions:
        ours, theirs = values[one], values[other]
        if not equal(ours, theirs):
            ratio = ours[1] / theirs[1]
            # No gain: without its logarithm, for most pairs end here.
            if ratio <= 1 if sign > 0 else ratio >= 1:
                return False
            apart = True
    if not apart or any(each.together and _below(each.values[one], each.values[other]) for each in dimensions):
        return False
    return sum(each.gain(one, other) for each in dimensions) > _ROUNDING


def _dimensions(figures: Mapping[Method, Figures]) -> list[_Dimension]:
    """Figures that every method has: comparing some by more than others would let them dominate in a circle."""
    found = []
    for place, (sign, together) in enumerate(_SIDES):
        values = {method: _span(item[place]) for method, item in figures.items()}
        known = {method: span for method, span in values.items() if span is not None and span[1] > 0}
        if known and len(known) == len(figures):
            found.append(_Dimension(sign, together, known, _noise(known.values())))
    return found


def _span(interval: ev.Interval | None) -> _Span | None:
    return (interval.low, interval.expected, interval.high) if interval is not None else None


def _noise(values: Collection[_Span]) -> float:
    """Average relative half-width of intervals."""
    widths = [max(_LEAST_NOISE, (high - low) / (2 * expected)) for low, expected, high in values]
    return sum(widths) / len(widths)
