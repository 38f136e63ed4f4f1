# SPDX-License-Identifier: Apache-2.0
"""Rows by their roles, with marks on what is learned."""

from finetree_api.types.v1 import training_data_pb2, training_pb2
from finetree_data.report.spans import SPAN_CHARACTERS, SPANS, preview_row
from finetree_data.rows.row import Message, Row

ASKED, ANSWERED = Message("user", "2+2?"), Message("assistant", "4")


def spans(row, loss_tokens=training_pb2.LOSS_TOKENS_COMPLETIONS):
    shown = preview_row(row, training_data_pb2.SPLIT_TRAIN, loss_tokens)
    return [(span.text, span.trained) for span in shown.spans]


def test_answers_are_learned_and_what_leads_to_them_is_not():
    said = (Message("system", "Be brief."), ASKED, ANSWERED)
    assert spans(Row(1, said)) == [("system: Be brief.\nuser: 2+2?\nassistant: ", False), ("4", True)]
    assert spans(Row(1, said), training_pb2.LOSS_TOKENS_ALL) == [("system: Be brief.\nuser: 2+2?\nassistant: 4", True)]
    assert spans(Row(1, text="a line")) == [("a line", True)]


def test_a_turn_that_the_file_does_not_want_learned_is_context():
    said = (ASKED, Message("assistant", "5", learned=False), ASKED, ANSWERED)
    assert [text for text, learned in spans(Row(1, said)) if learned] == ["4"]


def test_calls_are_learned_and_functions_are_named():
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
    row = Row(1, (ASKED, Message("assistant", "", tool_calls=(call,))), tools=({"function": {"name": "add"}},))
    assert spans(row) == [
        ("functions: add\nuser: 2+2?\nassistant: ", False),
        ('{"name": "add", "arguments": {"a": 2}}', True),
    ]


def test_long_texts_and_rows_of_many_turns_are_shortened():
    shown = preview_row(Row(1, text="a" * 5000), training_data_pb2.SPLIT_TRAIN, training_pb2.LOSS_TOKENS_COMPLETIONS)
    assert (len(shown.spans[0].text), shown.shortened) == (SPAN_CHARACTERS + 3, True)
    many = Row(1, (ASKED, ANSWERED) * 100)
    assert len(spans(many)) == SPANS
