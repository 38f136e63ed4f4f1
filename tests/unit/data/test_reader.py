# SPDX-License-Identifier: Apache-2.0
"""The format of a file is found in its content, whatever it is called and however it is compressed."""

import gzip
import json

import pytest
import zstandard
from finetree_data.options import FileFormat

PAIRS = [{"prompt": f"p{i}", "completion": f"c{i}"} for i in range(5)]
JSONL = "".join(json.dumps(row) + "\n" for row in PAIRS)
CSV = "prompt,completion\n" + "".join(f"p{i},c{i}\n" for i in range(5))
WRITTEN = {
    "jsonl": (JSONL, FileFormat.JSONL),
    "array on a line": (json.dumps(PAIRS), FileFormat.JSON),
    "array over lines": (json.dumps(PAIRS, indent=2), FileFormat.JSON),
    "list in an object": (json.dumps({"version": "1", "data": PAIRS, "more": [1]}, indent=1), FileFormat.JSON),
    "list in an object in an object": (json.dumps({"data": {"name": "x", "train": PAIRS}}), FileFormat.JSON),
    "objects on one line": ("".join(map(json.dumps, PAIRS)), FileFormat.JSON),
    "NaN in a column that is not read": (JSONL.replace("}", ', "score": NaN}'), FileFormat.JSONL),
    "objects over lines": ("\n".join(json.dumps(row, indent=1) for row in PAIRS), FileFormat.JSON),
    "csv": (CSV, FileFormat.CSV),
    "semicolons": (CSV.replace(",", ";"), FileFormat.CSV),
    "tsv": (CSV.replace(",", "\t"), FileFormat.TSV),
    "line ends of Windows": (CSV.replace("\n", "\r\n"), FileFormat.CSV),
}


@pytest.mark.parametrize("packing", ["", "gzip", "zstd"])
@pytest.mark.parametrize("name", WRITTEN)
def test_the_same_rows_come_out_however_they_are_written_and_packed(read_rows, name, packing):
    text, file_format = WRITTEN[name]
    pack = {"": bytes, "gzip": gzip.compress, "zstd": zstandard.compress}[packing]
    rows, found = read_rows(pack(b"\xef\xbb\xbf" + text.encode()))
    assert [tuple(m.content for m in row.messages) for row in rows] == [(f"p{i}", f"c{i}") for i in range(5)]
    assert [row.number for row in rows] == [1, 2, 3, 4, 5]
    assert (found.file_format, found.compression) == (file_format, packing)


def test_a_table_of_known_columns_is_no_plain_text_whatever_it_is_called(read_rows):
    rows, found = read_rows(CSV.replace(",", "\t").encode("utf-16"), "Unicode Text.txt")  # as Excel saves it
    assert (len(rows), found.file_format) == (5, FileFormat.TSV)
    rows, found = read_rows("Hello, world\nprompt,completion\n", "prose.txt")
    assert (len(rows), found.file_format) == (2, FileFormat.TEXT)


def test_what_is_neither_json_nor_a_table_has_to_be_called_text(read_rows, refusal):
    found = refusal("Call me Ishmael.\n")
    assert "reading.file_format" in found.problem
    assert read_rows("Call me Ishmael.\n", file_format=FileFormat.TEXT)[0][0].text == "Call me Ishmael."


def test_lines_of_json_are_no_plain_text_whatever_the_file_is_called(read_rows):
    rows, found = read_rows(JSONL, "corpus.txt")
    assert (len(rows), found.file_format) == (5, FileFormat.JSONL)
    rows, _ = read_rows(JSONL, "corpus.txt", file_format=FileFormat.TEXT)
    assert rows[0].text == JSONL.partition("\n")[0]
