# SPDX-License-Identifier: Apache-2.0
"""Tokens of rows by their texts and what a template adds."""

import pytest
from finetree_api.types.v1 import training_data_pb2, training_pb2
from finetree_data.options import RowFormat
from finetree_data.row_sizes import RowSizes, estimated_tokens, unread_tokens
from finetree_data.rows.row import Message, Row
from finetree_data.token_estimates import ASCII, END_OF_TEXT, END_OF_TURN, template_tokens

CHAT = Row(1, (Message("user", "u" * 400), Message("assistant", "a" * 100)))


def test_a_row_is_its_texts_and_what_a_template_adds():
    found = estimated_tokens(CHAT)
    assert found.all == template_tokens(CHAT.messages) + ASCII.times(100) + ASCII.times(25)
    assert found.expected == 100 + 25 + 2 * 5 + 21
    assert found.learned == 25 + END_OF_TURN


def test_a_loss_on_all_tokens_is_one_on_the_templates_too():
    found = estimated_tokens(CHAT, training_pb2.LOSS_TOKENS_ALL)
    assert found.learned == found.all.expected


def test_functions_and_calls_are_text():
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Bern"}}}
    tool = {"type": "function", "function": {"name": "weather", "description": "d" * 400}}
    called = Row(1, (Message("user", "u"), Message("assistant", "", (call,))), tools=(tool,))
    plain = Row(1, (Message("user", "u"), Message("assistant", "a")))
    assert estimated_tokens(called).expected > estimated_tokens(plain).expected + 100


def test_plain_text_has_no_template():
    found = estimated_tokens(Row(1, text="t" * 400))
    assert found.all == ASCII.times(100) + END_OF_TEXT
    assert found.learned == found.all.expected


def test_a_profile_says_between_what_its_tokens_are():
    sizes = RowSizes()
    for _ in range(8):
        sizes.add(estimated_tokens(CHAT))
    whole, half = sizes.profile(), sizes.profile(0.5)
    assert (whole.examples, whole.total_tokens, half.total_tokens) == (8, 8 * 156, 16 * 156)
    assert (whole.total_tokens_range.low, whole.total_tokens_range.high) == (
        round(8 * (125 * 0.75 + 2 * 2)),
        round(8 * (125 * 1.35 + 2 * 8 + 30)),
    )
    assert half.total_tokens_range.low == pytest.approx(2 * whole.total_tokens_range.low, abs=1)
    assert whole.target_fraction == pytest.approx(26 / 156)
    assert not whole.exact
    assert [(bucket.upper_bound, bucket.count) for bucket in whole.token_lengths] == [(160, 8)]


def test_of_a_file_whose_values_are_not_read_every_row_is_a_question_and_an_answer():
    chat = unread_tokens(RowFormat.CHAT, 10, 10 * 500)
    assert chat.expected == 10 * estimated_tokens(CHAT).all.expected
    assert unread_tokens(RowFormat.TEXT, 10, 4000).expected == 1000 + 10 * END_OF_TEXT.expected


def test_no_profile_says_that_rows_have_no_tokens():
    sizes = RowSizes()
    sizes.add(estimated_tokens(Row(1, text="")))
    profile = sizes.profile()
    assert profile.total_tokens_range == training_data_pb2.TokenCountRange(low=1, high=2)
    assert profile.total_tokens == 1
