# SPDX-License-Identifier: Apache-2.0
"""Which rows are left out of a file, and when that refuses it."""

import json
from typing import Any

import pytest
from finetree_data.errors import DatasetError
from finetree_data.options import Reading
from finetree_data.reader import RowFile


def read(tmp_path, *rows: Any, **reading: Any):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = RowFile(file, Reading(**reading))
    return list(found.rows()), found


def test_more_bad_rows_than_may_be_skipped_refuse_the_file(tmp_path):
    rows = [{"text": "a"}, {"text": ""}, {"text": ""}, {"text": ""}]
    assert read(tmp_path, *rows[:3], skip_bad_rows=True, skip_limit=2)[1].skipped == 2
    with pytest.raises(DatasetError) as error:
        read(tmp_path, *rows, skip_bad_rows=True, skip_limit=2)
    assert (error.value.reason, error.value.row) == ("TOO_MANY_BAD_ROWS", 4)


def test_a_limit_of_zero_skips_none_and_no_limit_skips_any_number(tmp_path):
    rows = [{"text": "a"}, {"text": ""}, {"text": ""}]
    assert read(tmp_path, *rows, skip_bad_rows=True)[1].skipped == 2
    with pytest.raises(DatasetError) as error:
        read(tmp_path, *rows, skip_bad_rows=True, skip_limit=0)
    assert error.value.row == 2


def test_a_file_of_bad_rows_alone_is_empty(tmp_path):
    with pytest.raises(DatasetError) as error:
        read(tmp_path, {"text": ""}, {"text": ""}, skip_bad_rows=True)
    assert error.value.reason == "EMPTY_DATASET"
    assert "all 2 are bad" in error.value.problem


def answered(count: int) -> list[dict[str, Any]]:
    return [{"question": f"q{i}", "answer": f"a{i}"} for i in range(count)]


EMPTY = {
    "an answer": ({"question": "q", "answer": " "}, "answer"),
    "no answer": ({"question": "q", "answer": None}, "answer"),
}


@pytest.mark.parametrize("name", EMPTY)
def test_one_empty_row_of_a_hundred_is_left_out_and_named(tmp_path, name):
    row, field = EMPTY[name]
    rows, found = read(tmp_path, *answered(60), row, *answered(39))
    assert (len(rows), found.skipped) == (99, 1)
    assert (found.skipped_rows[0].number, found.skipped_rows[0].field) == (61, field)


def test_more_empty_rows_than_that_refuse_the_file_with_their_number(tmp_path):
    with pytest.raises(DatasetError) as error:
        read(tmp_path, *answered(50), {"question": "q", "answer": ""}, *answered(47), {"question": "q", "answer": ""})
    assert (error.value.reason, error.value.row, error.value.field) == ("MALFORMED_ROW", 51, "answer")
    assert error.value.problem.endswith("1 more row has the same problem.")


def test_an_empty_row_is_refused_where_the_user_wants_that(tmp_path):
    with pytest.raises(DatasetError) as error:
        read(tmp_path, *answered(200), {"question": "q", "answer": ""}, refuse_empty=True)
    assert error.value.row == 201


def test_a_wrong_row_of_a_thousand_refuses_the_file_all_the_same(tmp_path):
    with pytest.raises(DatasetError) as error:
        read(tmp_path, *answered(998), {"question": "q", "answer": {"a": 5}})
    assert (error.value.row, error.value.field) == (999, "answer")


def test_rows_that_the_file_marks_as_bad_answers_are_left_out_whatever_is_done_about_bad_rows(tmp_path):
    rows = [{"prompt": "q", "completion": "a", "label": i == 1} for i in range(3)]
    found, file = read(tmp_path, *rows, refuse_empty=True)
    assert ([row.number for row in found], file.skipped) == ([2], 2)
    assert '2 rows whose "label" is false' in file.remarks[-1].message
