# SPDX-License-Identifier: Apache-2.0
"""Format numbers with their units."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from finetree.display.units import GIB, MIB, count, duration, rate, size, word
from finetree.money import to_float
from finetree_api.types.v1 import evidence_pb2

if TYPE_CHECKING:
    from google.protobuf import timestamp_pb2
    from google.type import money_pb2

__all__ = ["GIB", "MIB", "Words", "count", "duration", "rate", "size", "word"]  # some of them are the SDK's

Words = Callable[[float], str]
"""A function that formats a number with its unit."""
_SYMBOLS = {"USD": "$", "EUR": "€", "GBP": "£"}


def money(amount: "money_pb2.Money") -> str:
    """Format a google.type.Money: "$12.40"."""
    return amount_of(to_float(amount), amount.currency_code)


def amount_of(amount: float, currency: str) -> str:
    """Format an amount in a currency: "$0.0021", "$12.40"."""
    symbol = _SYMBOLS.get(currency, f"{currency} " if currency else "")
    return f"{symbol}{amount:.2f}" if amount >= 0.1 or amount == 0 else f"{symbol}{amount:.2g}"


def instant(time: "timestamp_pb2.Timestamp") -> str:
    """Format a time in UTC, to the second: "2026-12-03T05:44:29Z"."""
    return f"{time.ToDatetime():%Y-%m-%dT%H:%M:%SZ}"


def size_range(interval: evidence_pb2.Interval) -> str:
    """Format bytes with their range: "1.5 GiB (1.2 GiB to 1.9 GiB)"."""
    return f"{size(interval.expected)} ({size(interval.low)} to {size(interval.high)})"


def duration_range(interval: evidence_pb2.Interval) -> str:
    """Format seconds with their range."""
    return f"{duration(interval.expected)} ({duration(interval.low)} to {duration(interval.high)})"


def expected_money(interval: evidence_pb2.MoneyInterval) -> str:
    """Format the expected amount of money."""
    return amount_of(interval.amount.expected, interval.currency_code)


def money_range(interval: evidence_pb2.MoneyInterval) -> str:
    """Format an amount of money with its range."""
    amount, currency = interval.amount, interval.currency_code
    ends = f"{amount_of(amount.low, currency)} to {amount_of(amount.high, currency)}"
    return f"{amount_of(amount.expected, currency)} ({ends})"
