# SPDX-License-Identifier: Apache-2.0
import gzip

import pytest
import zstandard
from finetree_data.files import utf16
from finetree_data.options import FileFormat

BROKEN = {
    "UTF-16 that is cut off": ('{"text": "a"}\n'.encode("utf-16")[:-1], "NOT_UTF8", 0, "broken near byte"),
    "UTF-16 with half a character": ('"'.encode("utf-16") + b"\x00\xd8a\x00", "NOT_UTF8", 0, "broken near byte 4"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_with_what_was_found(refusal, name):
    data, reason, row, found = BROKEN[name]
    error = refusal(data)
    assert (error.reason, error.row) == (reason, row)
    assert found in error.problem
    assert error.remedy


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress], ids=["", "gzip", "zstd"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_is_read_by_its_mark_a_piece_at_a_time(read_rows, monkeypatch, encoding, pack):
    monkeypatch.setattr(utf16, "_PIECE", 7)
    text = "\ufeffprompt\tcompletion\r\n" + "".join(f"Größe {i}?\t{i} € 😀\r\n" for i in range(50))
    rows, found = read_rows(pack(text.encode(encoding)), "table.tsv")
    assert [row.messages[1].content for row in rows] == [f"{i} € 😀" for i in range(50)]
    assert found.file_format is FileFormat.TSV
