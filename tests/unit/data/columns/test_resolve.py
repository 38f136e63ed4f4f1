# SPDX-License-Identifier: Apache-2.0
"""Columns and formats that the user names."""

import pytest
from finetree_data.errors import DatasetError
from finetree_data.options import Columns, RowFormat


def turns(row):
    return [(message.role, message.content) for message in row.messages]


def test_columns_of_a_table_are_named_in_errors(refusal):
    found = refusal("Frage,Antwort\na,b\n", columns=Columns(prompt="frage", completion="Antwort"))
    assert (found.reason, found.field) == ("COLUMN_NOT_FOUND", "columns.prompt")
    assert "Did you mean 'Frage'?" in found.problem


SQUAD = {"id": "1", "title": "t", "context": "c", "question": "q", "answers": {"text": ["a"], "answer_start": [0]}}


def test_a_nested_answer_can_be_named(read_objects):
    columns = Columns(prompt="question", input="context", completion="answers.text.0")
    rows, _ = read_objects(SQUAD, columns=columns)
    assert turns(rows[0]) == [("user", "q\n\nc"), ("assistant", "a")]


def test_named_columns_come_before_the_usual_ones(read_objects):
    row = {"question": "q", "answer": "a", "title": "t", "summary": "s"}
    rows, found = read_objects(row, columns=Columns(prompt="title", completion="summary"))
    assert turns(rows[0]) == [("user", "t"), ("assistant", "s")]
    assert found.row_format is RowFormat.PROMPT_COMPLETION


def test_a_named_layout_comes_before_the_one_that_is_found(read_objects):
    row = {"instruction": "Add.", "input": "1 and 2", "output": "3", "text": "Below is an instruction … 3"}
    rows, found = read_objects(row, row_format=RowFormat.TEXT)
    assert (found.row_format, rows[0].text) == (RowFormat.TEXT, "Below is an instruction … 3")


def test_a_row_that_is_a_list_of_texts_has_numbered_columns(read_objects):
    cells = ["where is my card?", "card_arrival"]
    with pytest.raises(DatasetError) as error:
        read_objects(cells, cells)
    assert 'columns {prompt: "0", completion: "1"}' in error.value.problem
    rows, _ = read_objects(cells, cells, columns=Columns(prompt="0", completion="1"))
    assert turns(rows[1]) == [("user", "where is my card?"), ("assistant", "card_arrival")]


def test_a_column_that_is_not_there_is_named_with_the_nearest_one(read_objects):
    with pytest.raises(DatasetError) as error:
        read_objects({"question": "q", "answer": "a"}, columns=Columns(prompt="qestion"))
    assert (error.value.reason, error.value.field) == ("COLUMN_NOT_FOUND", "columns.prompt")
    assert "'question'" in error.value.problem


def test_a_mapping_that_leaves_the_answer_open_is_refused(read_objects):
    with pytest.raises(DatasetError) as error:
        read_objects({"title": "t", "summary": "s"}, columns=Columns(prompt="title"))
    assert error.value.reason == "COLUMNS_INCOMPLETE"
    assert "columns.completion" in error.value.remedy
