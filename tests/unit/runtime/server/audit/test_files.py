# SPDX-License-Identifier: Apache-2.0
"""The files of an audit log: what is appended follows on from what a kill, a full disk or another run has left."""

import os

import pytest
from finetree_cli.backends.audit.records import lines
from finetree_cli.backends.audit.verify import verify
from finetree_runtime.server.audit.files import AuditFiles, FolderInUseError


def write(folder, names, file_bytes=10_000):
    files = AuditFiles(folder, file_bytes)
    for name in names:
        files.append([{"event": "call", "method": name}])
    files.sync()
    files.close()


def methods(folder):
    return [line.record.get("method", line.record.get("event")) for line in lines(folder) if line.record]


def newest(folder):
    return max(folder.glob("audit-*.jsonl"))


def test_the_chain_goes_on_over_runs_and_files(tmp_path):
    write(tmp_path, "abc", file_bytes=600)
    write(tmp_path, "def", file_bytes=600)
    assert len(list(tmp_path.glob("audit-*.jsonl"))) > 1
    assert methods(tmp_path) == list("abcdef")
    verdict = verify(tmp_path)
    assert (verdict.fault, verdict.records, verdict.last_seq) == (None, 6, 6)


def test_files_are_named_by_their_first_record_and_only_the_owner_reads_them(tmp_path):
    write(tmp_path / "log", "ab", file_bytes=1)
    assert [path.name for path in sorted((tmp_path / "log").glob("*.jsonl"))] == [
        "audit-000000000001.jsonl",
        "audit-000000000002.jsonl",
    ]
    assert {path.stat().st_mode & 0o077 for path in (tmp_path / "log").iterdir()} == {0}


@pytest.mark.parametrize("kept", [1, 100, -2], ids=["the first byte", "the middle", "all but the last brace"])
def test_a_line_that_was_cut_off_is_kept_marked_and_chained(tmp_path, kept):
    write(tmp_path, "ab")
    whole = newest(tmp_path).read_bytes()
    first = whole.index(b"\n") + 1
    cut = first + kept if kept > 0 else len(whole) + kept
    os.truncate(newest(tmp_path), cut)
    assert verify(tmp_path).unfinished
    write(tmp_path, "c")
    verdict = verify(tmp_path)
    assert (verdict.fault, verdict.torn, verdict.unfinished) == (None, 1, False)
    assert methods(tmp_path) == ["a", "torn", "c"]
    assert whole[first:cut] in newest(tmp_path).read_bytes()


def test_a_record_without_its_line_end_is_a_record(tmp_path):
    write(tmp_path, "ab")
    os.truncate(newest(tmp_path), newest(tmp_path).stat().st_size - 1)
    write(tmp_path, "c")
    assert methods(tmp_path) == ["a", "b", "c"]
    assert verify(tmp_path).fault is None


def test_a_kill_between_the_end_of_a_torn_line_and_its_mark_leaves_a_chain_that_holds(tmp_path):
    write(tmp_path, "a")
    with newest(tmp_path).open("ab") as stream:
        stream.write(b'{"seq":2,"ti\n{"seq":2,"event":"to')
    write(tmp_path, "b")
    verdict = verify(tmp_path)
    assert (verdict.fault, verdict.torn) == (None, 2)
    assert methods(tmp_path) == ["a", "torn", "b"]


def test_a_file_whose_only_line_was_cut_off_continues_the_one_before(tmp_path):
    write(tmp_path, "ab", file_bytes=1)
    os.truncate(newest(tmp_path), 20)
    write(tmp_path, "c")
    assert methods(tmp_path) == ["a", "torn", "c"]
    assert verify(tmp_path).fault is None


def test_one_service_writes_in_a_folder(tmp_path):
    files = AuditFiles(tmp_path, 1000)
    with pytest.raises(FolderInUseError):
        AuditFiles(tmp_path, 1000)
    files.close()
    AuditFiles(tmp_path, 1000).close()


def test_text_of_any_kind_is_one_line_of_ascii(tmp_path):
    write(tmp_path, ["ende\n\x1b[2J\u2028ü\ud800"])
    content = newest(tmp_path).read_bytes()
    assert content.isascii()
    assert content.count(b"\n") == 1
    assert verify(tmp_path).fault is None
