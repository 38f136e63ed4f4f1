# SPDX-License-Identifier: Apache-2.0
"""Money as text, and as the runtime has it."""

from decimal import Decimal

import pytest
from finetree.money import format_money, parse_money, to_decimal, to_float, to_money


@pytest.mark.parametrize("text", ["0.30 EUR", "EUR 0.30", "0.3EUR", " .30 EUR "])
def test_texts_of_one_amount(text):
    assert parse_money(text) == to_money(Decimal("0.3"), "EUR")


@pytest.mark.parametrize("text", ["", "EUR", "5", "5 eur", "5 EURO", "1,000 EUR", "nan EUR", "5 EUR 6"])
def test_other_texts_are_refused_with_an_example(text):
    with pytest.raises(ValueError, match="such as '50 USD'"):
        parse_money(text)


@pytest.mark.parametrize("text", ["0.30 EUR", "50.00 USD", "-1.75 USD", "0.000000001 USD", "123456789.123 JPY"])
def test_what_is_written_is_read_again(text):
    assert format_money(parse_money(text)) == text
    assert to_float(parse_money(text)) == float(to_decimal(parse_money(text)))
