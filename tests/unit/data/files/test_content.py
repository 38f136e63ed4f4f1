# SPDX-License-Identifier: Apache-2.0
"""Compressed files, and files of another kind."""

import gzip
import json

import pytest
import zstandard
from finetree_data.files import content

JSONL = "".join(json.dumps({"prompt": f"p{i}", "completion": f"c{i}"}) + "\n" for i in range(5))
BROKEN = {
    "UTF-32": ('{"text": "a"}\n'.encode("utf-32"), "NOT_UTF8", 0, "UTF-32"),
    "NUL bytes": (b'{"text": "a"}\n\x00\x00\x00\n', "NOT_UTF8", 0, "not text"),
    "an Arrow stream": (b"\xff\xff\xff\xff\x10\x00\x00\x00", "UNSUPPORTED_FILE", 0, "Arrow stream"),
    "UTF-16 without a mark": ('{"text": "a"}\n'.encode("utf-16-le"), "NOT_UTF8", 0, "UTF-16"),
    "a zip": (b"PK\x03\x04rest", "UNSUPPORTED_FILE", 0, "zip archive"),
    "a tar": (b"a".ljust(257, b"\x00") + b"ustar\x00", "UNSUPPORTED_FILE", 0, "tar archive"),
    "a pickle": (b"\x80\x04\x95rest", "UNSUPPORTED_FILE", 0, "pickle"),
    "a Git LFS pointer": ("version https://git-lfs.github.com/spec/v1\n", "UNSUPPORTED_FILE", 0, "Git LFS"),
    "cut gzip": (gzip.compress(JSONL.encode())[:-12], "DATASET_UNREADABLE", 0, "damaged or cut off"),
    "cut zstd": (zstandard.compress(JSONL.encode())[:-9], "DATASET_UNREADABLE", 0, "damaged or cut off"),
    "damaged zstd": (zstandard.compress(JSONL.encode())[:12] + b"x" * 60, "DATASET_UNREADABLE", 0, "damaged"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_with_what_was_found(refusal, name):
    data, reason, row, found = BROKEN[name]
    error = refusal(data)
    assert (error.reason, error.row) == (reason, row)
    assert found in error.problem
    assert error.remedy


def test_a_packed_file_may_be_of_many_frames_and_blocks(read_rows, refusal):
    lines = [json.dumps({"text": f"{i} " + "ab" * (i % 50)}).encode() + b"\n" for i in range(20_000)]
    skippable = (0x184D2A51).to_bytes(4, "little") + (5).to_bytes(4, "little") + b"notes"
    packed = zstandard.compress(b"".join(lines[:9000])) + skippable + zstandard.compress(b"".join(lines[9000:]))
    assert len(read_rows(packed)[0]) == 20_000
    assert refusal(packed[:-3]).reason == "DATASET_UNREADABLE"
    members = gzip.compress(b"".join(lines[:100])) + gzip.compress(b"".join(lines[100:200]))
    assert len(read_rows(members)[0]) == 200


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress], ids=["gzip", "zstd"])
def test_a_file_that_unpacks_to_far_more_than_it_is_is_stopped(read_rows, refusal, monkeypatch, pack):
    monkeypatch.setattr(content, "FREE_BYTES", 100_000)
    line = b'{"text": "a"}\n'
    assert len(read_rows(pack(line * 5000))[0]) == 5000
    found = refusal(pack(line * 100_000))
    assert found.reason == "DATASET_TOO_LARGE"
