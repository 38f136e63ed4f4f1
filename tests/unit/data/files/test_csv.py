# SPDX-License-Identifier: Apache-2.0
"""Tables, and plain text."""

import json

import pytest

BROKEN = {
    "ragged": ("prompt,completion\na,b\na,b,c\n", "MALFORMED_ROW", 2, "3 cells, the header has 2 (line 3)"),
    "latin-1 table": (b"prompt,completion\na,caf\xe9\n", "MALFORMED_ROW", 1, "0xe9"),
    "a name twice": ("prompt,prompt\na,b\n", "MALFORMED_FILE", 0, "twice"),
    "a NUL byte far behind": (
        b"prompt,completion\n" + b"a,b\n" * 20_000 + b"a\x00,b\n",
        "MALFORMED_ROW",
        20_001,
        "NUL",
    ),
    "line ends of old Macs": ("prompt,completion\ra,b\r", "MALFORMED_FILE", 1, "end in CR alone"),
    "a quotation mark that opens": (
        'prompt,completion\n"a,b\n' + "c,d\n" * 9,
        "MALFORMED_ROW",
        1,
        "lines 2 to 11: is a quot",
    ),
    "a header alone": ("prompt,completion\n", "EMPTY_DATASET", 0, "no rows"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_with_what_was_found(refusal, name):
    data, reason, row, found = BROKEN[name]
    error = refusal(data)
    assert (error.reason, error.row) == (reason, row)
    assert found in error.problem
    assert error.remedy


def test_rows_of_plain_text_are_its_lines(read_rows):
    rows, _ = read_rows("Call me Ishmael.\n\nSome years ago, never mind.\n", "book.txt")
    assert [(row.number, row.text) for row in rows] == [(1, "Call me Ishmael."), (3, "Some years ago, never mind.")]


def test_cells_hold_line_breaks_quotes_and_json(read_rows):
    turns = json.dumps([{"role": "user", "content": "a\nb"}, {"role": "assistant", "content": 'say "c"'}])
    quoted = turns.replace('"', '""')
    rows, _ = read_rows(f'id,messages\n1,"{quoted}"\n')
    assert [message.content for message in rows[0].messages] == ["a\nb", 'say "c"']
    rows, _ = read_rows('prompt,completion\n"a\nb","c, ""d"""\n\nx,y\n')
    assert [(row.number, row.messages[0].content) for row in rows] == [(1, "a\nb"), (2, "x")]


def test_python_in_a_cell_is_told_from_json(refusal):
    found = refusal("messages,id\n\"[{'role': 'user'} {'role': 'assistant'}]\",1\n")
    assert "Python, not JSON" in found.problem


def test_a_quotation_mark_that_is_never_closed_is_found_in_bounded_memory(refusal, monkeypatch):
    monkeypatch.setattr("finetree_data.files.csv.MAX_ROW_BYTES", 1000)
    found = refusal('prompt,completion\na,"b\n' + "c,d\n" * 1000)
    assert found.reason == "MALFORMED_FILE"
    assert "not closed" in found.problem
