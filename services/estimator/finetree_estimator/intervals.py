# SPDX-License-Identifier: Apache-2.0
"""Predicted numbers: a range, how often the truth should be inside, and what the number rests on."""

import math
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from enum import Enum
from statistics import NormalDist

COVERAGE = 0.9
"""Share of cases that every interval of the estimator is meant to cover (reference goal: held-out rows, 90 %)."""

LIMIT = 2.0**53
"""Largest number of an answer (bytes, tokens, seconds, currency units): beyond it JSON readers lose digits."""


class BeyondLimitError(ValueError):
    """A run has numbers that exceed LIMIT; the text says of what."""


class Kind(Enum):
    """Kind of source; the names are those of the contract's ProvenanceKind."""

    MEASURED = "measured"
    PUBLISHED = "published"
    PLAYBOOK = "playbook"
    COMPUTED = "computed"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a number comes from."""

    kind: Kind
    name: str
    locator: str = ""
    """Where in it: a table, a row, a field."""
    _: KW_ONLY
    date: str = ""
    """ISO 8601, of a day, a month or a year; empty when unknown."""


@dataclass(frozen=True, slots=True)
class Interval:
    """low <= expected <= high in one unit; the field that holds it names the unit."""

    low: float
    expected: float
    high: float
    _: KW_ONLY
    sources: tuple[Source, ...] = ()
    coverage: float = COVERAGE
    """Share of cases in which the truth should be inside."""

    def scaled(self, factor: float, sources: tuple[Source, ...] = ()) -> "Interval":
        """The interval times a known, non-negative factor that rests on `sources`."""
        return Interval(
            self.low * factor,
            self.expected * factor,
            self.high * factor,
            sources=together(self.sources, sources),
            coverage=self.coverage,
        )


def around(expected: float, *, below: float, above: float, sources: tuple[Source, ...] = ()) -> Interval:
    """An interval that reaches the share `below` under and the share `above` over the expected value."""
    return Interval(expected * (1 - below), expected, expected * (1 + above), sources=sources)


def exact(value: float, *sources: Source) -> Interval:
    """A number that is known, such as a parameter count."""
    return Interval(value, value, value, sources=sources)


def total(parts: Iterable[Interval]) -> Interval:
    """Sum of intervals whose errors go together: ends add up to ends (the cautious case)."""
    low = expected = high = 0.0
    sources: tuple[Source, ...] = ()
    for part in parts:
        low, expected, high = low + part.low, expected + part.expected, high + part.high
        sources = together(sources, part.sources)
    return Interval(low, expected, high, sources=sources)


def together(sources: tuple[Source, ...], more: tuple[Source, ...]) -> tuple[Source, ...]:
    """The sources of both without repetition, in order."""
    return tuple(dict.fromkeys((*sources, *more)))


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
    # Standard deviations from the middle to either end of the share `coverage` of a normal distribution.
    deviations = NormalDist().inv_cdf((1 + interval.coverage) / 2)
    width = abs(math.log(end) - math.log(interval.expected)) / deviations
    if width == 0:
        return float(distance >= 0)
    return 0.5 * (1 + math.erf(distance / width / math.sqrt(2)))
