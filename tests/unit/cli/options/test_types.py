# SPDX-License-Identifier: Apache-2.0
"""Types of option values."""

import math

import click
import pytest
from finetree_cli.options.types import MOST, Amount, Duration, MoneyAmount, Names, Whole


@pytest.mark.parametrize("word", ["-1", "nan", "inf", "many", "", "1_0", "\u0661", " 1", "1e400"])
def test_an_amount_is_a_finite_number_from_0_on(word):
    assert math.isclose(Amount().convert("1e3", None, None), 1000.0)
    assert math.copysign(1, Amount().convert("-0", None, None)) == 1
    with pytest.raises(click.BadParameter):
        Amount().convert(word, None, None)


def test_an_amount_is_at_most_what_it_may_be():
    assert math.isclose(Amount(10).convert("10", None, None), 10.0)
    with pytest.raises(click.BadParameter, match="from 0 to 10"):
        Amount(10).convert("10.5", None, None)


@pytest.mark.parametrize("word", ["0", "-1", "1.5", "nan", "many", "", "1_0", "\u0661", str(MOST + 1), "9" * 40])
def test_a_whole_number_is_one_that_the_contract_can_hold(word):
    assert Whole(1).convert(str(MOST), None, None) == MOST
    with pytest.raises(click.BadParameter, match="no whole number from 1 to"):
        Whole(1).convert(word, None, None)


@pytest.mark.parametrize("word", ["0h", "-1h", "soon", "8", "1.5", "9" * 30 + "h"])
def test_a_duration_has_a_unit_is_above_0_and_shorter_than_a_century(word):
    assert math.isclose(Duration().convert("1.5h", None, None), 5400.0)
    assert math.isclose(Duration().convert("1h 30m", None, None), 5400.0)
    with pytest.raises(click.BadParameter):
        Duration().convert(word, None, None)


def test_a_bare_number_is_no_duration_since_it_could_be_hours_or_seconds():
    with pytest.raises(click.BadParameter, match="8 has no unit: write 8h for hours"):
        Duration().convert("8", None, None)


def test_names_are_listed_once_and_known():
    assert Names(("a", "b")).convert("b, a,b", None, None) == ("b", "a")
    for word in ("a,c", ",", ""):
        with pytest.raises(click.BadParameter):
            Names(("a", "b")).convert(word, None, None)


@pytest.mark.parametrize("word", ["", "much", "5 EURO", "5 eur x", "EUR", "nan"])
def test_an_amount_of_money_has_a_number_and_a_currency(word):
    money = MoneyAmount().convert("5.25", None, None)
    assert (money.units, money.nanos, money.currency_code) == (5, 250_000_000, "USD")
    with pytest.raises(click.BadParameter):
        MoneyAmount().convert(word, None, None)
