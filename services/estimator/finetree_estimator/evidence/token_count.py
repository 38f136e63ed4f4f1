# SPDX-License-Identifier: Apache-2.0
"""Widens peaks and times where the tokens of the rows are estimated rather than counted.

The formulas are asked three times: with the expected tokens, with the fewest and with the most. How far the tokens are
off has nothing to do with how far the formulas are, so both distances are sides of a right angle, in logarithms, since
both err by factors. An end is never farther than that of the run with the fewest or the most tokens itself.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from finetree_estimator.intervals import Interval, Kind, Source, together
from finetree_estimator.memory.peak import Component, Memory
from finetree_estimator.timing.phases import Phase, Times

TOKEN_COUNT = Source(Kind.COMPUTED, "token-count")
"""The range of the rows' tokens that their profile states."""
_NONE = Interval(0.0, 0.0, 0.0)
K = TypeVar("K", Component, Phase)


def widen_memory(expected: Memory, fewest: Memory, most: Memory) -> Memory:
    """Peaks of a run whose rows have from `fewest` to `most` tokens."""
    return Memory(
        components=_each(expected.components, dict(fewest.components), dict(most.components)),
        allocated=widened(expected.allocated, fewest.allocated, most.allocated),
        reserved=widened(expected.reserved, fewest.reserved, most.reserved),
        device=widened(expected.device, fewest.device, most.device),
        host=widened(expected.host, fewest.host, most.host),
    )


def widen_times(expected: Times, fewest: Times, most: Times) -> Times:
    """Times of a run whose rows have from `fewest` to `most` tokens."""
    return replace(
        expected,
        phases=_each(expected.phases, dict(fewest.phases), dict(most.phases)),
        total=widened(expected.total, fewest.total, most.total),
        step=widened(expected.step, fewest.step, most.step),
        tokens_per_second=widened(expected.tokens_per_second, fewest.tokens_per_second, most.tokens_per_second),
    )


def widened(expected: Interval, *others: Interval) -> Interval:
    """An interval of a quantity that is expected to be one of `others` where the rows have other tokens."""
    least = min(expected.expected, *(each.expected for each in others))
    most = max(expected.expected, *(each.expected for each in others))
    if expected.expected <= 0 or least == expected.expected == most:
        return expected
    low, high = min(expected.low, *(each.low for each in others)), max(expected.high, *(each.high for each in others))
    if expected.low > 0 and least > 0:
        low = max(low, expected.expected / _apart(expected.expected / expected.low, expected.expected / least))
    high = min(high, expected.expected * _apart(expected.high / expected.expected, most / expected.expected))
    return replace(expected, low=low, high=high, sources=together(expected.sources, (TOKEN_COUNT,)))


def _apart(one: float, other: float) -> float:
    """The factor of two that are independent of each other, both at least 1."""
    return math.exp(math.hypot(math.log(one), math.log(other)))


def _each(
    expected: tuple[tuple[K, Interval], ...], fewest: Mapping[K, Interval], most: Mapping[K, Interval]
) -> tuple[tuple[K, Interval], ...]:
    """Parts one by one: one that the fewest tokens do not have may be nothing."""
    return tuple((kind, widened(part, fewest.get(kind, _NONE), most.get(kind, part))) for kind, part in expected)
