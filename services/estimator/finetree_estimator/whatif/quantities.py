# SPDX-License-Identifier: Apache-2.0
"""Numbers of an answer as text for people."""

from finetree_estimator.catalog.names import GIB

MANY = 1e9
"""Ratio from which on "a billion times" is printed."""
LEVELS = ("unspecified", "low", "medium", "high")
"""Levels of confidence; the index is the contract's number."""


def money(amount: float, currency: str) -> str:
    """Format an amount with its currency ("12.50 USD"), below 0.01 with two significant digits."""
    return f"{amount:,.2f} {currency}" if amount >= 0.01 or amount == 0 else f"{amount:.2g} {currency}"


def duration(seconds: float) -> str:
    """Format seconds as "40 s", "12 min" or "8.4 h"."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 3600 else f"{brief(seconds / 3600)} h"


def size(count: float) -> str:
    """Format bytes in GiB, below 0.1 GiB in MiB."""
    return f"{count / GIB:,.2f} GiB" if count >= GIB / 10 else f"{count / 1024**2:.3g} MiB"


def brief(value: float) -> str:
    """Format a number with three significant digits, from 1,000 to a billion without fraction."""
    return f"{value:,.0f}" if 1000 <= value < MANY else f"{value:.3g}"


def share(part: float, whole: float) -> str:
    """Format a share in percent without rounding to 0 % or 100 %; above 1,000 % as a factor."""
    percent = 100 * part / whole
    if 99 < percent < 100:
        return "over 99 %"
    if percent > 100 * MANY:
        return "a billion times the limit"
    if percent > 1000:
        return f"{brief(percent / 100)} times the limit"
    return f"{percent:.0f} %" if percent >= 10 else f"{percent:.2g} %"
