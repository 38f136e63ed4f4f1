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
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from finetree_api.types.v1 import evidence_pb2 as ev

from finetree_recommender.methods import Method

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


class _Span(NamedTuple):
    """An interval's numbers: they are compared dozens of times, and a message takes its time to tell each."""

    low: float
    expected: float
    high: float


class _Dimension(NamedTuple):
    """A figure that all methods have; `sign` is 1 where more is better and -1 where less is."""

    sign: int
    values: Mapping[Method, _Span]
    noise: float
    together: bool
    """Whether what leaves the figures open is the same for all methods."""

    def gain(self, one: Method, other: Method) -> float:
        """How much better one method is than another, in units of the noise; negative where it is worse."""
        ratio = self.values[one].expected / self.values[other].expected
        return self.sign * math.log(ratio) / self.noise

    def apart(self, one: Method, other: Method) -> bool:
        """Whether the figures of two methods can be told apart."""
        return not equal(self.values[one], self.values[other])

    def lower(self, one: Method, other: Method) -> bool:
        """Whether one method is below another whatever it is that leaves both open."""
        return self.together and below(self.values[one], self.values[other])


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


def equal(one: ev.Interval | _Span, other: ev.Interval | _Span) -> bool:
    """Whether each expected value lies inside the other's interval."""
    return other.low <= one.expected <= other.high and one.low <= other.expected <= one.high


def below(one: ev.Interval | _Span, other: ev.Interval | _Span) -> bool:
    """Whether one figure is less in the middle than another, and more at no end."""
    return one.low <= other.low and one.expected < other.expected and one.high <= other.high


def _dominates(dimensions: Sequence[_Dimension], one: Method, other: Method) -> bool:
    apart = [each for each in dimensions if each.apart(one, other)]
    if not apart or min(each.gain(one, other) for each in apart) <= 0:
        return False
    if any(each.lower(one, other) for each in dimensions):
        return False
    return sum(each.gain(one, other) for each in dimensions) > _ROUNDING


def _dimensions(figures: Mapping[Method, Figures]) -> list[_Dimension]:
    """Figures that every method has: comparing some by more than others would let them dominate in a circle."""
    columns: list[tuple[int, bool, dict[Method, ev.Interval | None]]] = [
        (1, True, {method: item.quality_percent for method, item in figures.items()}),
        (-1, False, {method: item.device_bytes for method, item in figures.items()}),
        (-1, False, {method: item.total_seconds for method, item in figures.items()}),
        (-1, False, {method: item.cost for method, item in figures.items()}),
    ]
    found = []
    for sign, together, column in columns:
        known = {method: value for method, value in column.items() if value is not None}
        if not known or len(known) < len(figures):
            continue
        values = {method: _Span(value.low, value.expected, value.high) for method, value in known.items()}
        if all(value.expected > 0 for value in values.values()):
            found.append(_Dimension(sign, values, _noise(values.values()), together))
    return found


def _noise(values: Iterable[_Span]) -> float:
    """Average relative half-width of intervals."""
    widths = [max((item.high - item.low) / (2 * item.expected), _LEAST_NOISE) for item in values]
    return sum(widths) / len(widths)
