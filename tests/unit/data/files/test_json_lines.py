# SPDX-License-Identifier: Apache-2.0
import pytest
from finetree_data.files import json_lines

BROKEN = {
    "latin-1 lines": (b'{"text": "a"}\n{"text": "caf\xe9"}\n', "MALFORMED_ROW", 2, "Latin-1"),
    "Latin-1 behind a mark": (b'\xef\xbb\xbf\xff{"text": "a"}\n', "MALFORMED_ROW", 1, "not UTF-8"),
    "a number beyond all": ('{"prompt": "a", "completion": 1e999}', "MALFORMED_ROW", 1, "is null"),
    "a cut line": ('{"text": "a"\n{"text": "b"}\n', "MALFORMED_ROW", 1, "is not JSON at column 13: Expecting ','"),
    "NaN": ('{"text": NaN}', "MALFORMED_ROW", 1, "is null"),
    "lines that end in commas": ('{"text": "a"},\n{"text": "b"},\n', "MALFORMED_FILE", 2, "',' stands there"),
    "Python": ("{'text': 'a'}\n", "MALFORMED_ROW", 1, "looks like Python"),
    "nesting": ('{"text": ' + "[" * 100_000, "MALFORMED_ROW", 1, "nested too deeply"),
    "nothing": ("", "EMPTY_DATASET", 0, "no rows"),
    "blank lines": ("\n\n  \n", "EMPTY_DATASET", 0, "no rows"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_with_what_was_found(refusal, name):
    data, reason, row, found = BROKEN[name]
    error = refusal(data)
    assert (error.reason, error.row) == (reason, row)
    assert found in error.problem
    assert error.remedy


def test_a_line_that_is_too_long_is_one_bad_row(read_rows, refusal, monkeypatch):
    monkeypatch.setattr(json_lines, "MAX_ROW_BYTES", 1000)
    data = b'{"text": "a"}\n{"text": "' + b"b" * 200_000 + b'"}\n{"text": "c"}\n'
    found = refusal(data)
    assert (found.reason, found.row) == ("MALFORMED_ROW", 2)
    assert "longer than 1000 bytes" in found.problem
    rows, file = read_rows(data, skip_bad_rows=True)
    assert ([row.number for row in rows], file.skipped) == ([1, 3], 1)
