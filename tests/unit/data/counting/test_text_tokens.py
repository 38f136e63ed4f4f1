# SPDX-License-Identifier: Apache-2.0
"""Tokens of a text by its bytes."""

import pytest
from finetree_data.counting.template_tokens import NOTHING
from finetree_data.counting.text_tokens import ASCII, OTHER, text_tokens


def test_ascii_is_four_bytes_a_token_and_other_letters_fewer() -> None:
    assert text_tokens("t" * 400) == ASCII.times(100)
    russian = text_tokens("ж" * 200)
    assert (russian.low, russian.expected, russian.high) == pytest.approx((55, 125, 250))
    mixed = text_tokens("t" * 400 + "ж" * 200)
    assert (mixed.low, mixed.expected, mixed.high) == pytest.approx((75 + 55, 225, 135 + 250))


def test_a_text_is_at_least_a_token_long_and_an_empty_one_is_nothing() -> None:
    assert text_tokens("") == NOTHING
    assert text_tokens("a") == ASCII
    letter = text_tokens("ä")
    assert (letter.expected, letter.low) == (1, pytest.approx(OTHER.low / OTHER.expected))


def test_half_of_a_pair_of_surrogates_is_counted_and_left_to_whoever_checks_rows() -> None:
    assert text_tokens("\ud83d").expected == 1
