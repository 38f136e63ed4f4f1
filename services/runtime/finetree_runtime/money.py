# SPDX-License-Identifier: Apache-2.0
"""Amounts of money: `google.type.Money` and decimal numbers."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal

from google.type import money_pb2

_NANOS = 1_000_000_000


def to_money(amount: Decimal | float, currency_code: str) -> money_pb2.Money:
    """Convert an amount to a Money, rounded to nanos (billionths of the currency's unit)."""
    exact = amount if isinstance(amount, Decimal) else Decimal(repr(float(amount)))
    nanos = int((exact * _NANOS).to_integral_value(ROUND_HALF_EVEN))
    units, rest = divmod(abs(nanos), _NANOS)
    sign = -1 if nanos < 0 else 1  # units and nanos of a Money have the same sign
    return money_pb2.Money(currency_code=currency_code, units=sign * units, nanos=sign * rest)


def to_decimal(money: money_pb2.Money) -> Decimal:
    """Exact amount of a Money in units of its currency."""
    return Decimal(money.units) + Decimal(money.nanos) / _NANOS


def to_float(money: money_pb2.Money) -> float:
    """Amount of a Money in units of its currency, rounded to a float."""
    return float(to_decimal(money))
