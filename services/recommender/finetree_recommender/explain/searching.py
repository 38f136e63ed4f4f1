# SPDX-License-Identifier: Apache-2.0
"""The search along a number for the values at which the verdict changes: exact, on the grid that the number is told on.

Between two change points no rule and no check has another outcome, so it is enough to look just before and at each.
"""

import math
from collections.abc import Callable, Hashable, Iterator
from functools import lru_cache
from typing import NamedTuple

from finetree_recommender.decision.stages import Verdict
from finetree_recommender.method import Method

Values = tuple[tuple[float, ...], tuple[float, ...]]
"""Values to look at above and below the present one, nearest first."""


class Number(NamedTuple):
    """A number of a request that a verdict can depend on."""

    field_path: str
    unit: str
    now: float
    values: Values
    """On each side of everything that matters the nearest value: within one, the verdict is the same."""
    words: Callable[[float], str]
    verdict: Callable[[float], Verdict]


class Change(NamedTuple):
    """The value nearest to the present one that has another verdict."""

    value: float
    verdict: Verdict


def search(number: Number, method: Method | None) -> Iterator[Change]:
    """For each direction and each other verdict the value that is nearest to the present one."""
    for values in number.values:
        seen = {method}
        for value in values:
            found = number.verdict(value)
            if found.method not in seen:
                seen.add(found.method)
                yield Change(value, found)


def values_of(points: tuple[float, ...], now: float, step: float, sides: Callable[[float], Hashable]) -> Values:
    """Where the outcome can change: at `points` or beside them, on a grid of `step`.

    `sides` tells on which side of everything that matters a value lies.
    """
    known, found = {sides(now)}, []
    for up in (True, False):
        new = []
        for value in _grid(points, now, step, up=up):
            side = sides(value)
            if side not in known:
                known.add(side)
                new.append(value)
        found.append(tuple(new))
    return found[0], found[1]


@lru_cache(maxsize=4096)
def _grid(points: tuple[float, ...], now: float, step: float, *, up: bool) -> tuple[float, ...]:
    """Where the outcome can change in one direction: of each point the first value at or past it, and the next."""
    digits, sign = (2 if step < 1 else 0), (1 if up else -1)
    values: set[float] = set()
    for point in points:
        if math.isfinite(point) and (point - now) * sign > -2 * step:
            place = round(point / step, 6)
            first = math.ceil(place) if up else math.floor(place)
            values.update(round(index * step, digits) for index in (first, first + sign) if index > 0)
    return tuple(sorted((value for value in values if (value - now) * sign > 0), reverse=not up))
