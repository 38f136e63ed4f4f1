# SPDX-License-Identifier: Apache-2.0
"""What a chat template adds to a row; tests/integration/worker/test_token_counts.py holds it against a tokenizer."""

from finetree_data.counting.template_tokens import (
    END_OF_TEXT,
    MESSAGE,
    NO_SYSTEM_MESSAGE,
    NOTHING,
    SYSTEM_MESSAGE,
    TOOLS,
    TokenRange,
    template_tokens,
)
from finetree_data.rows.row import Message

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
