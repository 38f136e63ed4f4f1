# SPDX-License-Identifier: Apache-2.0
"""What texts are, and what a chat template adds to a row.

tests/integration/worker/test_token_counts.py holds both against a tokenizer.
"""

import pytest
from finetree_data.rows.row import Message
from finetree_data.token_estimates import (
    ASCII,
    END_OF_TEXT,
    MESSAGE,
    NO_SYSTEM_MESSAGE,
    NOTHING,
    OTHER,
    SYSTEM_MESSAGE,
    TOOLS,
    TokenRange,
    template_tokens,
    text_tokens,
)

QUESTION, ANSWER = Message("user", "Why?"), Message("assistant", "So.")


def test_every_message_has_marks_and_a_row_without_a_system_message_the_templates_own():
    assert template_tokens((QUESTION, ANSWER)) == MESSAGE.times(2) + NO_SYSTEM_MESSAGE
    for role in ("system", "developer"):
        chat = (Message(role, "Be brief."), QUESTION, ANSWER, QUESTION, ANSWER)
        assert template_tokens(chat) == MESSAGE.times(5) + SYSTEM_MESSAGE


def test_functions_are_offered_in_words():
    assert template_tokens((QUESTION, ANSWER), tools=True) == template_tokens((QUESTION, ANSWER)) + TOOLS


def test_no_template_renders_plain_text():
    assert template_tokens(()) == END_OF_TEXT


def test_ends_add_to_ends():
    assert TokenRange(1, 2, 3) + TokenRange(10, 20, 40) == TokenRange(11, 22, 43)
    assert TokenRange(1, 2, 3).times(2) + NOTHING == TokenRange(2, 4, 6)
    for each in (MESSAGE, NO_SYSTEM_MESSAGE, SYSTEM_MESSAGE, TOOLS, END_OF_TEXT):
        assert 0 <= each.low <= each.expected <= each.high


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
