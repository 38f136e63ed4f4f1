# SPDX-License-Identifier: Apache-2.0
"""Predicted memory, time and cost as a person would say them: "about 17 to 21 GiB", "about 2 h", "about $1.60"."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from finetree_api.types.v1 import evidence_pb2

Words = Callable[[float], tuple[str, str]]
"""A function that rounds a number, and returns it with its unit."""
_GIB = 1 << 30
_MIB = 1 << 20
_WIDE = 3.0
"""Quotient of a range's ends from which the expected value is said too: the middle of such a range says little."""
_TIMES = (
    (10.0, 1.0, 1.0, "s"),
    (90.0, 1.0, 5.0, "s"),
    (600.0, 60.0, 0.5, "min"),
    (1200.0, 60.0, 1.0, "min"),
    (5400.0, 60.0, 5.0, "min"),
    (36000.0, 3600.0, 0.5, "h"),
    (172800.0, 3600.0, 1.0, "h"),
    (864000.0, 86400.0, 0.5, "days"),
    (8640000.0, 86400.0, 1.0, "days"),
    (63072000.0, 86400.0, 10.0, "days"),
)
"""Seconds up to which a row holds, seconds of its unit, the step to which it rounds, and the unit."""
_YEAR = 365 * 86400.0
_CENT = 0.01
_SIGNS = {"USD": "$", "EUR": "€", "GBP": "£"}


def memory_words(interval: evidence_pb2.Interval, usable_bytes: int = 0) -> str:
    """Say a peak of memory: "about 17 to 21 GiB of 24".

    Args:
        interval: bytes.
        usable_bytes: what the device has; 0 leaves it out.
    """
    text = _range(interval, _memory)
    if not usable_bytes:
        return text
    number, unit = _memory(usable_bytes)
    return f"{text} of {number}" if text.endswith(unit) else f"{text} of {number} {unit}"


def duration_words(interval: evidence_pb2.Interval, *, low_if: str = "") -> str:
    """Say a time: "about 1.5 to 2.5 h"; with `low_if` "about 2 h, at most 4 h; 11 min if rows are short".

    The ends of a range are rounded outwards, since a run that takes as long as was estimated lies inside of it.

    Args:
        interval: seconds.
        low_if: what makes it as short as the lower end, where that is known.
    """
    outwards = partial(_duration, rounded=math.floor), partial(_duration, rounded=math.ceil)
    return _range(interval, _duration, outwards=outwards, low_if=low_if)


def cost_words(interval: evidence_pb2.MoneyInterval, *, low_if: str = "") -> str:
    """Say a cost: "about $1.60", "about 12 to 15 CHF"; with `low_if` as `duration_words`."""
    sign = _SIGNS.get(interval.currency_code, "")
    if interval.amount.high < _CENT:
        return f"less than {sign}0.01" if sign else f"less than 0.01 {interval.currency_code}"
    text = _range(interval.amount, lambda amount: (_amount(amount, sign), ""), low_if=low_if)
    return text if sign else f"{text} {interval.currency_code}"


def approximate_duration(seconds: float) -> str:
    """Say one time, rounded: "45 min", "3.5 h", "12 days"."""
    return " ".join(_duration(seconds))


def _range(
    interval: evidence_pb2.Interval, words: Words, *, outwards: tuple[Words, Words] | None = None, low_if: str = ""
) -> str:
    """Say a range in one unit where both ends have it; what rounds to the same is said once.

    `outwards` round the lower and the upper end, unless `words` makes the same of both.
    """
    low, expected, high = (words(value) for value in (interval.low, interval.expected, interval.high))
    if outwards is not None and low != high:
        low, high = outwards[0](interval.low), outwards[1](interval.high)
    if low_if and low != expected:
        most = f", at most {_joined(high)}" if high != expected else ""
        return f"about {_joined(expected)}{most}; {_joined(low)} if {low_if}"
    if low == high or low_if:
        return f"about {_joined(expected)}"
    ends = f"{low[0]} to {_joined(high)}" if low[1] == high[1] else f"{_joined(low)} to {_joined(high)}"
    wide = interval.high > _WIDE * max(interval.low, math.ulp(0.0))
    return f"about {_joined(expected)} ({ends})" if wide else f"about {ends}"


def _joined(words: tuple[str, str]) -> str:
    return " ".join(part for part in words if part)


def _memory(count: float) -> tuple[str, str]:
    if count >= 9.95 * _GIB:
        return f"{math.floor(count / _GIB + 0.5):,}", "GiB"
    if count >= 0.95 * _GIB:
        return f"{count / _GIB:.1f}".removesuffix(".0"), "GiB"
    return f"{max(10, round(count / _MIB, -1)):.0f}", "MiB"


def _duration(seconds: float, *, rounded: Callable[[float], int] = round) -> tuple[str, str]:
    for most, size, step, unit in _TIMES:
        if seconds < most:
            number = max(step, rounded(seconds / size / step) * step)
            return ("1", "h") if (number, unit) == (60.0, "min") else (f"{number:g}", unit)
    return f"{float(f'{seconds / _YEAR:.2g}'):,.10g}", "years"


def _amount(amount: float, sign: str) -> str:
    if amount < _CENT / 2:
        return f"{sign}0"
    if amount >= 100:
        return f"{sign}{float(f'{amount:.2g}'):,.0f}"
    return f"{sign}{amount:.0f}" if amount >= 10 else f"{sign}{amount:.2f}" if amount < 1 else f"{sign}{amount:.1f}0"
