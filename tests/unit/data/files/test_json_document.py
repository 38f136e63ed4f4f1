# SPDX-License-Identifier: Apache-2.0
import json

import pytest
from finetree_data.files import json_document
from finetree_data.options import FileFormat

PAIRS = [{"prompt": f"p{i}", "completion": f"c{i}"} for i in range(5)]
BROKEN = {
    "Python's list": ("[{'text': 'a'}]", "MALFORMED_FILE", 1, "looks like Python"),
    "latin-1 document": (b'[{"text": "a"},\n{"text": "caf' + b'\xe9"}]', "NOT_UTF8", 0, "0xe9"),
    "array that ends early": ('[{"text": "a"},\n', "MALFORMED_FILE", 2, "the file ends"),
    "array without a comma": ('[{"text": "a"}\n {"text": "b"}]', "MALFORMED_FILE", 1, "',' is needed"),
    "a text in an array": ('["a"]', "MALFORMED_ROW", 1, 'is written as {"text": …}'),
    "a number in an array": ('[{"text": "a"}, 5]', "MALFORMED_ROW", 2, "must be a JSON object"),
    "a comma behind the last row": ('[{"text": "a"},\n]', "MALFORMED_FILE", 1, "a comma stands before the closing"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_with_what_was_found(refusal, name):
    data, reason, row, found = BROKEN[name]
    error = refusal(data)
    assert (error.reason, error.row) == (reason, row)
    assert found in error.problem
    assert error.remedy


def test_a_document_is_read_through_a_window(read_rows, monkeypatch):
    monkeypatch.setattr(json_document, "CHUNK", 7)
    rows, _ = read_rows(json.dumps({"data": PAIRS, "note": "ä" * 50}, ensure_ascii=False, indent=1))
    assert [row.messages[1].content for row in rows] == [f"c{i}" for i in range(5)]


def test_an_object_that_is_no_list_of_rows_is_read_in_bounded_memory(read_rows, refusal, monkeypatch):
    monkeypatch.setattr(json_document, "MAX_ROW_BYTES", 5000)
    monkeypatch.setattr(json_document, "CHUNK", 1000)
    listed = json.dumps({"version": 1, "data": PAIRS * 500, "note": "n"}, indent=1)
    assert len(read_rows(listed)[0]) == 2500
    found = refusal(json.dumps({f"key {i}": "value" for i in range(2000)}, indent=1))
    assert found.reason == "MALFORMED_FILE"
    assert "no list of rows" in found.problem


def test_a_document_of_one_long_line_is_read_row_by_row(read_rows, monkeypatch):
    monkeypatch.setattr(json_document, "MAX_ROW_BYTES", 50_000)
    rows, found = read_rows(json.dumps({"version": "2", "data": PAIRS * 2000}))
    assert (len(rows), found.file_format) == (10_000, FileFormat.JSON)
