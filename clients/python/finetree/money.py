# SPDX-License-Identifier: Apache-2.0
"""Amounts of money: `google.type.Money`, decimal numbers and texts such as "0.30 EUR"."""

from __future__ import annotations

import re
from decimal import ROUND_HALF_EVEN, Decimal

from google.type import money_pb2

_NANOS = 1_000_000_000
_TEXT = re.compile(r"(?P<amount>-?(?:\d+(?:\.\d+)?|\.\d+))\s*(?P<currency>[A-Z]{3})")
_TEXT_CURRENCY_FIRST = re.compile(r"(?P<currency>[A-Z]{3})\s*(?P<amount>-?(?:\d+(?:\.\d+)?|\.\d+))")


def to_money(amount: Decimal | float, currency_code: str) -> money_pb2.Money:
    """Convert an amount to a Money, rounded to nanos (billionths of the currency's unit)."""
    exact = amount if isinstance(amount, Decimal) else Decimal(repr(float(amount)))
    nanos = int((exact * _NANOS).to_integral_value(ROUND_HALF_EVEN))
    units, rest = divmod(abs(nanos), _NANOS)
    sign = -1 if nanos < 0 else 1  # units and nanos of a Money have the same sign
    return money_pb2.Money(currency_code=currency_code, units=sign * units, nanos=sign * rest)


def parse_money(text: str) -> money_pb2.Money:
    """Parse an amount with its ISO 4217 code, such as "0.30 EUR" or "USD 50".

    Raises:
        ValueError: The text is not one; the message says what is expected.
    """
    found = _TEXT.fullmatch(text.strip()) or _TEXT_CURRENCY_FIRST.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"expected an amount with a currency, such as '50 USD', got {text!r}")
    return to_money(Decimal(found["amount"]), found["currency"])


def to_decimal(money: money_pb2.Money) -> Decimal:
    """Exact amount of a Money in units of its currency."""
    return Decimal(money.units) + Decimal(money.nanos) / _NANOS


def to_float(money: money_pb2.Money) -> float:
    """Amount of a Money in units of its currency, rounded to a float."""
    return float(to_decimal(money))


def format_money(money: money_pb2.Money) -> str:
    """Write a Money as `parse_money` reads it: "0.30 EUR", with at least two decimals."""
    amount = to_decimal(money)
    decimals = max(2, -int(amount.normalize().as_tuple().exponent))
    return f"{amount:.{decimals}f} {money.currency_code}"
