# SPDX-License-Identifier: Apache-2.0
"""What a file is written in and packed with, and files that are broken, hostile or something else."""

import gzip
import json
from typing import Any

import pytest
import zstandard
from finetree_data.errors import DatasetError
from finetree_data.files import content, json_document, json_lines, utf16
from finetree_data.options import Columns, FileFormat, Reading
from finetree_data.reader import RowFile

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


def rows_of(tmp_path, data, name="upload.bin", **reading: Any):
    file = tmp_path / name
    file.write_bytes(data if isinstance(data, bytes) else data.encode())
    found = RowFile(file, Reading(**reading))
    return list(found.rows()), found


def refusal(tmp_path, data, name="upload.bin", **reading: Any):
    with pytest.raises(DatasetError) as error:
        rows_of(tmp_path, data, name, **reading)
    return error.value


@pytest.mark.parametrize("packing", ["", "gzip", "zstd"])
@pytest.mark.parametrize("name", WRITTEN)
def test_the_same_rows_come_out_however_they_are_written_and_packed(tmp_path, name, packing):
    text, file_format = WRITTEN[name]
    pack = {"": bytes, "gzip": gzip.compress, "zstd": zstandard.compress}[packing]
    rows, found = rows_of(tmp_path, pack(b"\xef\xbb\xbf" + text.encode()))
    assert [tuple(m.content for m in row.messages) for row in rows] == [(f"p{i}", f"c{i}") for i in range(5)]
    assert [row.number for row in rows] == [1, 2, 3, 4, 5]
    assert (found.file_format, found.compression) == (file_format, packing)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress], ids=["", "gzip", "zstd"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_is_read_by_its_mark_a_piece_at_a_time(tmp_path, monkeypatch, encoding, pack):
    monkeypatch.setattr(utf16, "_PIECE", 7)
    text = "\ufeffprompt\tcompletion\r\n" + "".join(f"Größe {i}?\t{i} € 😀\r\n" for i in range(50))
    rows, found = rows_of(tmp_path, pack(text.encode(encoding)), "table.tsv")
    assert [row.messages[1].content for row in rows] == [f"{i} € 😀" for i in range(50)]
    assert found.file_format is FileFormat.TSV


def test_a_table_of_known_columns_is_no_plain_text_whatever_it_is_called(tmp_path):
    rows, found = rows_of(tmp_path, CSV.replace(",", "\t").encode("utf-16"), "Unicode Text.txt")  # as Excel saves it
    assert (len(rows), found.file_format) == (5, FileFormat.TSV)
    rows, found = rows_of(tmp_path, "Hello, world\nprompt,completion\n", "prose.txt")
    assert (len(rows), found.file_format) == (2, FileFormat.TEXT)


def test_rows_of_plain_text_are_its_lines(tmp_path):
    rows, _ = rows_of(tmp_path, "Call me Ishmael.\n\nSome years ago, never mind.\n", "book.txt")
    assert [(row.number, row.text) for row in rows] == [(1, "Call me Ishmael."), (3, "Some years ago, never mind.")]


def test_what_is_neither_json_nor_a_table_has_to_be_called_text(tmp_path):
    found = refusal(tmp_path, "Call me Ishmael.\n")
    assert "reading.file_format" in found.problem
    assert rows_of(tmp_path, "Call me Ishmael.\n", file_format=FileFormat.TEXT)[0][0].text == "Call me Ishmael."


def test_cells_hold_line_breaks_quotes_and_json(tmp_path):
    turns = json.dumps([{"role": "user", "content": "a\nb"}, {"role": "assistant", "content": 'say "c"'}])
    quoted = turns.replace('"', '""')
    rows, _ = rows_of(tmp_path, f'id,messages\n1,"{quoted}"\n')
    assert [message.content for message in rows[0].messages] == ["a\nb", 'say "c"']
    rows, _ = rows_of(tmp_path, 'prompt,completion\n"a\nb","c, ""d"""\n\nx,y\n')
    assert [(row.number, row.messages[0].content) for row in rows] == [(1, "a\nb"), (2, "x")]


def test_python_in_a_cell_is_told_from_json(tmp_path):
    found = refusal(tmp_path, "messages,id\n\"[{'role': 'user'}]\",1\n")
    assert "Python, not JSON" in found.problem


BROKEN = {
    "ragged": ("prompt,completion\na,b\na,b,c\n", "MALFORMED_ROW", 2, "3 cells, the header has 2 (line 3)"),
    "latin-1 table": (b"prompt,completion\na,caf\xe9\n", "MALFORMED_ROW", 1, "0xe9"),
    "latin-1 lines": (b'{"text": "a"}\n{"text": "caf\xe9"}\n', "MALFORMED_ROW", 2, "Latin-1"),
    "a name twice": ("prompt,prompt\na,b\n", "MALFORMED_FILE", 0, "twice"),
    "UTF-16 that is cut off": ('{"text": "a"}\n'.encode("utf-16")[:-1], "NOT_UTF8", 0, "broken near byte"),
    "UTF-16 with half a character": ('"'.encode("utf-16") + b"\x00\xd8a\x00", "NOT_UTF8", 0, "broken near byte 4"),
    "UTF-32": ('{"text": "a"}\n'.encode("utf-32"), "NOT_UTF8", 0, "UTF-32"),
    "NUL bytes": (b'{"text": "a"}\n\x00\x00\x00\n', "NOT_UTF8", 0, "no text"),
    "a NUL byte far behind": (
        b"prompt,completion\n" + b"a,b\n" * 20_000 + b"a\x00,b\n",
        "MALFORMED_ROW",
        20_001,
        "NUL",
    ),
    "Latin-1 behind a mark": (b'\xef\xbb\xbf\xff{"text": "a"}\n', "MALFORMED_ROW", 1, "not UTF-8"),
    "line ends of old Macs": ("prompt,completion\ra,b\r", "MALFORMED_FILE", 1, "end in CR alone"),
    "a quotation mark that opens": (
        'prompt,completion\n"a,b\n' + "c,d\n" * 9,
        "MALFORMED_ROW",
        1,
        "lines 2 to 11: is a quot",
    ),
    "Python's list": ("[{'text': 'a'}]", "MALFORMED_FILE", 1, "looks like Python"),
    "a number beyond all": ('{"prompt": "a", "completion": 1e999}', "MALFORMED_ROW", 1, "is null"),
    "an Arrow stream": (b"\xff\xff\xff\xff\x10\x00\x00\x00", "UNSUPPORTED_FILE", 0, "Arrow stream"),
    "UTF-16 without a mark": ('{"text": "a"}\n'.encode("utf-16-le"), "NOT_UTF8", 0, "UTF-16"),
    "latin-1 document": (b'[{"text": "a"},\n{"text": "caf' + b'\xe9"}]', "NOT_UTF8", 0, "0xe9"),
    "array that ends early": ('[{"text": "a"},\n', "MALFORMED_FILE", 2, "the file ends"),
    "array without a comma": ('[{"text": "a"}\n {"text": "b"}]', "MALFORMED_FILE", 1, "',' is needed"),
    "a text in an array": ('["a"]', "MALFORMED_ROW", 1, 'is written as {"text": …}'),
    "a number in an array": ('[{"text": "a"}, 5]', "MALFORMED_ROW", 2, "must be a JSON object"),
    "NaN": ('{"text": NaN}', "MALFORMED_ROW", 1, "is null"),
    "a comma behind the last row": ('[{"text": "a"},\n]', "MALFORMED_FILE", 1, "a comma stands before the closing"),
    "lines that end in commas": ('{"text": "a"},\n{"text": "b"},\n', "MALFORMED_FILE", 2, "',' stands there"),
    "Python": ("{'text': 'a'}\n", "MALFORMED_ROW", 1, "looks like Python"),
    "nesting": ('{"text": ' + "[" * 100_000, "MALFORMED_ROW", 1, "nested too deeply"),
    "nothing": ("", "EMPTY_DATASET", 0, "no rows"),
    "blank lines": ("\n\n  \n", "EMPTY_DATASET", 0, "no rows"),
    "a header alone": ("prompt,completion\n", "EMPTY_DATASET", 0, "no rows"),
    "a zip": (b"PK\x03\x04rest", "UNSUPPORTED_FILE", 0, "zip archive"),
    "a tar": (b"a".ljust(257, b"\x00") + b"ustar\x00", "UNSUPPORTED_FILE", 0, "tar archive"),
    "a pickle": (b"\x80\x04\x95rest", "UNSUPPORTED_FILE", 0, "pickle"),
    "a Git LFS pointer": ("version https://git-lfs.github.com/spec/v1\n", "UNSUPPORTED_FILE", 0, "Git LFS"),
    "cut gzip": (gzip.compress(JSONL.encode())[:-12], "DATASET_UNREADABLE", 0, "damaged or cut off"),
    "cut zstd": (zstandard.compress(JSONL.encode())[:-9], "DATASET_UNREADABLE", 0, "damaged or cut off"),
    "damaged zstd": (zstandard.compress(JSONL.encode())[:12] + b"x" * 60, "DATASET_UNREADABLE", 0, "damaged"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_with_what_was_found(tmp_path, name):
    data, reason, row, said = BROKEN[name]
    found = refusal(tmp_path, data)
    assert (found.reason, found.row) == (reason, row)
    assert said in found.problem
    assert found.remedy


def test_a_quotation_mark_that_is_never_closed_is_found_in_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("finetree_data.files.csv.MAX_ROW_BYTES", 1000)
    found = refusal(tmp_path, 'prompt,completion\na,"b\n' + "c,d\n" * 1000)
    assert found.reason == "MALFORMED_FILE"
    assert "not closed" in found.problem


def test_a_line_that_is_too_long_is_one_bad_row(tmp_path, monkeypatch):
    monkeypatch.setattr(json_lines, "MAX_ROW_BYTES", 1000)
    data = b'{"text": "a"}\n{"text": "' + b"b" * 200_000 + b'"}\n{"text": "c"}\n'
    found = refusal(tmp_path, data)
    assert (found.reason, found.row) == ("MALFORMED_ROW", 2)
    assert "longer than 1000 bytes" in found.problem
    rows, file = rows_of(tmp_path, data, skip_bad_rows=True)
    assert ([row.number for row in rows], file.skipped) == ([1, 3], 1)


def test_a_packed_file_may_be_of_many_frames_and_blocks(tmp_path):
    lines = [json.dumps({"text": f"{i} " + "ab" * (i % 50)}).encode() + b"\n" for i in range(20_000)]
    skippable = (0x184D2A51).to_bytes(4, "little") + (5).to_bytes(4, "little") + b"notes"
    packed = zstandard.compress(b"".join(lines[:9000])) + skippable + zstandard.compress(b"".join(lines[9000:]))
    assert len(rows_of(tmp_path, packed)[0]) == 20_000
    assert refusal(tmp_path, packed[:-3]).reason == "DATASET_UNREADABLE"
    members = gzip.compress(b"".join(lines[:100])) + gzip.compress(b"".join(lines[100:200]))
    assert len(rows_of(tmp_path, members)[0]) == 200


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress], ids=["gzip", "zstd"])
def test_a_file_that_unpacks_to_far_more_than_it_is_is_stopped(tmp_path, monkeypatch, pack):
    monkeypatch.setattr(content, "FREE_BYTES", 100_000)
    line = b'{"text": "a"}\n'
    assert len(rows_of(tmp_path, pack(line * 5000))[0]) == 5000
    found = refusal(tmp_path, pack(line * 100_000))
    assert found.reason == "DATASET_TOO_LARGE"


def test_a_document_is_read_through_a_window(tmp_path, monkeypatch):
    monkeypatch.setattr(json_document, "CHUNK", 7)
    rows, _ = rows_of(tmp_path, json.dumps({"data": PAIRS, "note": "ä" * 50}, ensure_ascii=False, indent=1))
    assert [row.messages[1].content for row in rows] == [f"c{i}" for i in range(5)]


def test_an_object_that_is_no_list_of_rows_is_read_in_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(json_document, "MAX_ROW_BYTES", 5000)
    monkeypatch.setattr(json_document, "CHUNK", 1000)
    listed = json.dumps({"version": 1, "data": PAIRS * 500, "note": "n"}, indent=1)
    assert len(rows_of(tmp_path, listed)[0]) == 2500
    found = refusal(tmp_path, json.dumps({f"key {i}": "value" for i in range(2000)}, indent=1))
    assert found.reason == "MALFORMED_FILE"
    assert "no list of rows" in found.problem


def test_a_document_of_one_long_line_is_read_row_by_row(tmp_path, monkeypatch):
    monkeypatch.setattr(json_document, "MAX_ROW_BYTES", 50_000)
    rows, found = rows_of(tmp_path, json.dumps({"version": "2", "data": PAIRS * 2000}))
    assert (len(rows), found.file_format) == (10_000, FileFormat.JSON)


def test_lines_of_json_are_no_plain_text_whatever_the_file_is_called(tmp_path):
    rows, found = rows_of(tmp_path, JSONL, "corpus.txt")
    assert (len(rows), found.file_format) == (5, FileFormat.JSONL)
    rows, _ = rows_of(tmp_path, JSONL, "corpus.txt", file_format=FileFormat.TEXT)
    assert rows[0].text == JSONL.partition("\n")[0]


def test_columns_of_a_table_are_named_in_errors(tmp_path):
    found = refusal(tmp_path, "Frage,Antwort\na,b\n", columns=Columns(prompt="frage", completion="Antwort"))
    assert (found.reason, found.field) == ("COLUMN_NOT_FOUND", "columns.prompt")
    assert "Did you mean 'Frage'?" in found.problem
