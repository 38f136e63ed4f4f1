# SPDX-License-Identifier: Apache-2.0
"""Predicted numbers: a range, how often the truth should be inside, and what the number rests on."""

import math
from collections.abc import Callable, Iterable
from enum import Enum
from functools import cache, lru_cache, partial
from statistics import NormalDist
from typing import NamedTuple

COVERAGE = 0.9
"""Share of cases that every interval of the estimator is meant to cover (reference goal: held-out rows, 90 %)."""

LIMIT = 2.0**53
"""Largest number of an answer (bytes, tokens, seconds, currency units): beyond it JSON readers lose digits."""

MOST_TOGETHER = 4096
"""Pairs of tuples of sources that are kept; there are some ten for each device: a megabyte."""


class BeyondLimitError(ValueError):
    """A run has numbers that exceed LIMIT; the text says of what."""


class Kind(Enum):
    """Kind of source; the names are those of the contract's ProvenanceKind."""

    # Enum's own hashes the name, in Python; members are single, so their identity will do.
    __hash__ = object.__hash__

    MEASURED = "measured"
    PUBLISHED = "published"
    PLAYBOOK = "playbook"
    COMPUTED = "computed"


class Source(NamedTuple):
    """Where a number comes from. A tuple, since sources are keys at every turn and tuples hash without Python."""

    kind: Kind
    name: str
    locator: str = ""
    date: str = ""


class Interval(NamedTuple):
    """low <= expected <= high in one unit; the field that holds it names the unit.

    A tuple, since an answer makes some eighty of them: a frozen dataclass takes three times as long to make.
    """

    low: float
    expected: float
    high: float
    sources: tuple[Source, ...] = ()
    coverage: float = COVERAGE

    def scaled(self, factor: float, sources: tuple[Source, ...] = ()) -> "Interval":
        """The interval times a known, non-negative factor that rests on `sources`."""
        low, expected, high, own, coverage = self
        merged = together(own, sources) if sources else own
        return made((low * factor, expected * factor, high * factor, merged, coverage))


made: Callable[[tuple[float, float, float, tuple[Source, ...], float]], Interval] = partial(tuple.__new__, Interval)
"""The interval with these fields, in a third of the time that its own constructor takes, which is written in Python."""


def around(expected: float, *, below: float, above: float, sources: tuple[Source, ...] = ()) -> Interval:
    """An interval that reaches the share `below` under and the share `above` over the expected value."""
    return made((expected * (1 - below), expected, expected * (1 + above), sources, COVERAGE))


def exact(value: float, *sources: Source) -> Interval:
    """A number that is known, such as a parameter count."""
    return Interval(value, value, value, sources)


def total(parts: Iterable[Interval]) -> Interval:
    """Sum of intervals whose errors go together: ends add up to ends (the cautious case)."""
    parts = tuple(parts)
    seen: tuple[Source, ...] = ()
    merged: tuple[Source, ...] = ()
    for _, _, _, sources, _ in parts:
        # Neighbours mostly share one and the same tuple.
        if sources is not seen:
            seen = sources
            merged = together(merged, sources)
    return summed(parts, merged)


def summed(parts: Iterable[Interval], sources: tuple[Source, ...]) -> Interval:
    """The `total` of parts, where it is known what they rest on together."""
    low = expected = high = 0.0
    for part_low, part_expected, part_high, _, _ in parts:
        low += part_low
        expected += part_expected
        high += part_high
    return made((low, expected, high, sources, COVERAGE))


def probability_below(interval: Interval, limit: float) -> float:
    """Probability, 0 to 1, that the truth is at most `limit`.

    The logarithm of the truth is taken as normal around that of the expected value, on either side as wide as makes the
    end of the interval leave out half of what the coverage does. Peaks and times err by factors: hence logarithms.
    """
    if limit <= 0:
        return 0.0
    if interval.expected <= 0:
        return 1.0
    end = interval.high if limit >= interval.expected else interval.low
    distance = math.log(limit) - math.log(interval.expected)
    if end <= 0:
        # The interval reaches down to nothing: its lower side has no width in logarithms.
        return 0.5 * limit / interval.expected
    width = abs(math.log(end) - math.log(interval.expected)) / _deviations(interval.coverage)
    if width == 0:
        return float(distance >= 0)
    return 0.5 * (1 + math.erf(distance / width / math.sqrt(2)))


@cache
def _deviations(coverage: float) -> float:
    """Standard deviations from the middle to either end of the share `coverage` of a normal distribution."""
    return NormalDist().inv_cdf((1 + coverage) / 2)


def together(sources: tuple[Source, ...], more: tuple[Source, ...]) -> tuple[Source, ...]:
    """The sources of both without repetition, in order.

    An answer asks for ten of them, mostly of the very tuples that the last one had: so they are looked up by identity,
    which costs a fraction of their hash.
    """
    found = _TOGETHER.get((id(sources), id(more)))
    return found[2] if found is not None else _put_together(sources, more)


def _put_together(sources: tuple[Source, ...], more: tuple[Source, ...]) -> tuple[Source, ...]:
    """The same, kept: with the two, so that no others can have their identities."""
    if len(_TOGETHER) >= MOST_TOGETHER:
        _TOGETHER.clear()
    joined = _joined(sources, more)
    _TOGETHER[id(sources), id(more)] = sources, more, joined
    return joined


_TOGETHER: dict[tuple[int, int], tuple[tuple[Source, ...], tuple[Source, ...], tuple[Source, ...]]] = {}


@lru_cache(maxsize=4096)
def _joined(sources: tuple[Source, ...], more: tuple[Source, ...]) -> tuple[Source, ...]:
    """The same by value: whoever makes the same tuples again gets one and the same back."""
    return tuple(dict.fromkeys((*sources, *more)))
