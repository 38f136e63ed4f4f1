# SPDX-License-Identifier: Apache-2.0
"""Pareto dominance over quality, memory, time and cost, between intervals.

Two figures of which each expected value lies inside the other's interval are equal: neither source can tell them
apart. A quality that is lower in the middle and higher at neither end is worse all the same: what leaves qualities
open, the task and its data, is the same for all methods, so that their intervals move together. A method dominates
another when it is worse in nothing, better in something, and its gains outweigh its losses, each in units of what the
intervals of that figure leave open on average. The last condition only weighs figures that count as equal; it keeps
three methods from dominating each other in a circle, so that the frontier is never empty.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from finetree_api.types.v1 import evidence_pb2

from finetree_recommender.method import Method

_LEAST_NOISE = 0.01
"""Smallest relative half-width of an interval, also for a number without one."""
_ROUNDING = 1e-9
"""Balance of gains and losses below which two methods are equal."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures of a method that are compared; None where there is none."""

    quality_percent: evidence_pb2.Interval
    device_bytes: evidence_pb2.Interval | None = None
    total_seconds: evidence_pb2.Interval | None = None
    cost: evidence_pb2.MoneyInterval | None = None


@dataclass(frozen=True, slots=True)
class _Dimension:
    """Figure that all methods have."""

    more_is_better: bool
    together: bool
    """Whether its uncertainty is common to all methods."""
    values: Mapping[Method, evidence_pb2.Interval]
    noise: float

    def gain(self, one: Method, other: Method) -> float:
        """Advantage of one method over another in units of the noise; negative where it is worse."""
        ratio = self.values[one].expected / self.values[other].expected
        return (1 if self.more_is_better else -1) * math.log(ratio) / self.noise


def dominators(figures: Mapping[Method, Figures], order: Sequence[Method]) -> dict[Method, Method]:
    """Find for each dominated method the first in `order` that dominates it; none where one figure alone is known."""
    dimensions, found = _dimensions(figures), {}
    # By quality alone the best would dominate every other method, whatever it takes.
    if len(dimensions) < 2:
        return {}
    for method in figures:
        rivals = (rival for rival in order if rival in figures and rival is not method)
        better = next((rival for rival in rivals if _dominates(dimensions, rival, method)), None)
        if better is not None:
            found[method] = better
    return found


def equal(one: evidence_pb2.Interval, other: evidence_pb2.Interval) -> bool:
    """Whether each expected value lies inside the other's interval."""
    return other.low <= one.expected <= other.high and one.low <= other.expected <= one.high


def _below(one: evidence_pb2.Interval, other: evidence_pb2.Interval) -> bool:
    """Whether a figure is lower than another in the middle, and higher at neither end."""
    return one.low <= other.low and one.expected < other.expected and one.high <= other.high


def _dominates(dimensions: Sequence[_Dimension], one: Method, other: Method) -> bool:
    apart = [each for each in dimensions if not equal(each.values[one], each.values[other])]
    if not apart or any(each.gain(one, other) <= 0 for each in apart):
        return False
    if any(each.together and _below(each.values[one], each.values[other]) for each in dimensions):
        return False
    return sum(each.gain(one, other) for each in dimensions) > _ROUNDING


def _dimensions(figures: Mapping[Method, Figures]) -> list[_Dimension]:
    """Figures that every method has; with others, methods could dominate each other in a circle."""
    currencies = {item.cost.currency_code for item in figures.values() if item.cost is not None}

    def cost(item: Figures) -> evidence_pb2.Interval | None:
        # Amounts in different currencies cannot be compared.
        return item.cost.amount if item.cost is not None and len(currencies) == 1 else None

    columns: tuple[tuple[bool, bool, Callable[[Figures], evidence_pb2.Interval | None]], ...] = (
        (True, True, lambda item: item.quality_percent),
        (False, False, lambda item: item.device_bytes),
        (False, False, lambda item: item.total_seconds),
        (False, False, cost),
    )
    found = []
    for more_is_better, together, read in columns:
        values = {method: read(item) for method, item in figures.items()}
        known = {method: each for method, each in values.items() if each is not None and each.expected > 0}
        if known and len(known) == len(figures):
            found.append(_Dimension(more_is_better, together, known, _noise(known.values())))
    return found


def _noise(values: Collection[evidence_pb2.Interval]) -> float:
    """Average relative half-width of intervals."""
    widths = [max(_LEAST_NOISE, (each.high - each.low) / (2 * each.expected)) for each in values]
    return sum(widths) / len(widths)
