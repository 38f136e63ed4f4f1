# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN003 - columns by the parts that they hold
"""Questions with choices, in the ways that public datasets write them."""

import json

import pytest
from finetree_data.errors import DatasetError
from finetree_data.options import Columns, Reading
from finetree_data.reader import RowFile

MMLU = {"question": "2+2?", "subject": "math", "choices": ["3", "4", "5", "6"], "answer": 1}
ARC = {"question": "2+2?", "choices": {"text": ["three", "four"], "label": ["1", "2"]}, "answerKey": "2"}
HELLASWAG = {"ctx": "He sits", "endings": [" down.", " up."], "label": "0"}


def read(tmp_path, rows, **columns):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(RowFile(file, Reading(columns=Columns(**columns))).rows())


@pytest.mark.parametrize(
    ("row", "columns", "choices", "right"),
    [
        (MMLU, {"choices": "choices"}, ("3", "4", "5", "6"), "4"),
        ({**MMLU, "answer": "D"}, {"choices": "choices"}, ("3", "4", "5", "6"), "6"),
        ({**MMLU, "answer": "(d)"}, {"choices": "choices"}, ("3", "4", "5", "6"), "6"),
        # The text of a choice comes before its number.
        ({**MMLU, "answer": "3"}, {"choices": "choices"}, ("3", "4", "5", "6"), "3"),
        ({**MMLU, "answer": "2"}, {"choices": "choices"}, ("3", "4", "5", "6"), "5"),
        ({**MMLU, "choices": [1, 2.5], "answer": 0}, {"choices": "choices"}, ("1", "2.5"), "1"),
        # A table's cell holds the list as text.
        ({**MMLU, "choices": "['a', 'b']", "answer": "b"}, {"choices": "choices"}, ("a", "b"), "b"),
        # ARC's labels stand beside the texts, and may be digits from 1.
        (ARC, {"prompt": "question", "completion": "answerKey", "choices": "choices"}, ("three", "four"), "four"),
        (ARC, {"prompt": "question", "completion": "answerKey", "choices": "choices.text"}, ("three", "four"), "four"),
        (HELLASWAG, {"prompt": "ctx", "completion": "label", "choices": "endings"}, (" down.", " up."), " down."),
    ],
)
def test_a_question_has_its_choices_and_the_text_of_the_right_one(tmp_path, row, columns, choices, right):
    (found,) = read(tmp_path, [row], **columns)
    assert found.choices == choices
    assert [message.content for message in found.messages][1:] == [right]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({**MMLU, "answer": 4}, "neither the text"),
        ({**MMLU, "answer": -1}, "neither the text"),
        ({**MMLU, "answer": "E"}, "neither the text"),
        ({**MMLU, "answer": True}, "neither the text"),
        ({**MMLU, "answer": None}, "neither the text"),
        ({**MMLU, "choices": ["only one"]}, "list of 2 to 64"),
        ({**MMLU, "choices": "a or b"}, "list of 2 to 64"),
        ({**MMLU, "choices": ["x"] * 65}, "list of 2 to 64"),
        ({**MMLU, "choices": ["3", None]}, "choices"),
        ({**MMLU, "choices": ["3", ""]}, "choices"),
    ],
)
def test_what_is_no_question_with_choices_is_refused_by_its_row(tmp_path, row, problem):
    with pytest.raises(DatasetError, match=problem) as refused:
        read(tmp_path, [row], choices="choices")
    assert refused.value.reason == "MALFORMED_ROW"
    assert refused.value.row == 1


def test_a_column_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DatasetError, match="choises"):
        read(tmp_path, [MMLU], choices="choises")


def test_without_the_column_such_rows_are_refused_and_told_how(tmp_path):
    with pytest.raises(DatasetError, match=r"columns\.choices to evaluate"):
        read(tmp_path, [MMLU])
