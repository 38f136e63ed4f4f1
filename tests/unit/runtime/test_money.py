# SPDX-License-Identifier: Apache-2.0
"""Money is exact, and its units and nanos have one sign."""

from decimal import Decimal

import pytest
from finetree_runtime.money import to_decimal, to_float, to_money
from google.type import money_pb2


@pytest.mark.parametrize(
    ("amount", "units", "nanos"),
    [
        (0.3, 0, 300_000_000),
        (Decimal("12.345678901"), 12, 345_678_901),
        (0.9999999999, 1, 0),
        (-1.75, -1, -750_000_000),
        (1e12, 10**12, 0),
        (1e-9, 0, 1),
        (0, 0, 0),
    ],
)
def test_amounts_become_units_and_nanos(amount, units, nanos) -> None:
    money = to_money(amount, "EUR")
    assert (money.currency_code, money.units, money.nanos) == ("EUR", units, nanos)


@pytest.mark.parametrize("text", ["0.30", "-1.75", "12.345678901", "999999999999.999999999"])
def test_decimals_come_back_exactly(text) -> None:
    assert to_decimal(to_money(Decimal(text), "USD")) == Decimal(text)


def test_floats_are_rounded_once() -> None:
    assert to_float(money_pb2.Money(units=0, nanos=100_000_000)) == 0.1
