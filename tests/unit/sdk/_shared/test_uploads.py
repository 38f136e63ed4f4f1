# SPDX-License-Identifier: Apache-2.0
"""The bytes of an upload, and which of them come next."""

import hashlib
import io
import json
from pathlib import Path

import finetree
import pytest
from finetree._shared.uploads import SEGMENT_BYTES, Content, Upload, create_dataset
from finetree_api.trainer.v1 import dataset_pb2
from finetree_api.types.v1 import training_data_pb2

DATA = bytes(range(256)) * 40


@pytest.mark.parametrize("kind", ["path", "text", "bytes"])
def test_content_of_a_file_and_of_bytes(tmp_path, kind):
    path = tmp_path / "data.jsonl"
    path.write_bytes(DATA)
    with Content({"path": path, "text": str(path), "bytes": DATA}[kind]) as content:
        assert (content.size, content.sha256) == (len(DATA), hashlib.sha256(DATA).hexdigest())
        assert content.read(100, 50) == DATA[100:150]
        assert content.read(len(DATA), 50) == b""


def test_rows_become_json_lines():
    rows = [{"prompt": "Zürich\nis", "completion": 1.5}, {"messages": []}]
    with Content(iter(rows)) as content:
        lines = content.read(0, content.size).decode().splitlines()
    assert [json.loads(line) for line in lines] == rows


@pytest.mark.parametrize(
    ("source", "reason", "text"),
    [
        (b"", "EMPTY_DATASET", "empty"),
        ([], "EMPTY_DATASET", "empty"),
        ([{"a": 1}, {"a": {1, 2}}], "MALFORMED_ROW", "row 2 is not JSON"),
        ([{"a": float("nan")}], "MALFORMED_ROW", "row 1"),
        ("no/such/file.jsonl", "UNREADABLE_SOURCE", "No such file"),
        (io.StringIO("{}"), "UNREADABLE_SOURCE", 'open it with "rb"'),
    ],
)
def test_what_cannot_be_uploaded(source, reason, text):
    with pytest.raises(finetree.InvalidArgument, match=text) as caught:
        Content(source)
    assert caught.value.reason == reason


def test_an_empty_file_is_named(tmp_path):
    (tmp_path / "rows.jsonl").touch()
    with pytest.raises(finetree.InvalidArgument, match=r"rows\.jsonl' is empty"):
        Content(tmp_path / "rows.jsonl")


def test_an_upload_is_cut_into_segments_and_pieces_that_meet():
    data = b"x" * (SEGMENT_BYTES + 100_000)
    with Content(data) as content:
        upload = Upload(content, dataset_pb2.Dataset(name="n", size_bytes=len(data)), None)
        first = list(upload.segment())
        assert (first[0].name, first[1].name, first[0].offset) == ("n", "", 0)
        assert sum(len(piece.data) for piece in first) == SEGMENT_BYTES
        upload.update(dataset_pb2.Dataset(name="n", committed_bytes=SEGMENT_BYTES))
        second = list(upload.segment())
        assert second[0].offset == SEGMENT_BYTES
        assert b"".join(piece.data for piece in first + second) == data
        upload.update(dataset_pb2.Dataset(name="n", committed_bytes=len(data)))
        assert [piece.data for piece in upload.segment()] == [b""]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("rows.csv", training_data_pb2.FILE_FORMAT_CSV),
        (Path("rows.TSV.gz"), training_data_pb2.FILE_FORMAT_TSV),
        ("notes.md", training_data_pb2.FILE_FORMAT_TEXT),
        ("rows.jsonl", training_data_pb2.FILE_FORMAT_UNSPECIFIED),
        (b"x", training_data_pb2.FILE_FORMAT_UNSPECIFIED),
        ([{"text": "x"}], training_data_pb2.FILE_FORMAT_JSONL),
    ],
)
def test_the_name_of_a_source_decides_its_format_where_nobody_says_it(source, expected):
    def made(reading) -> int:
        fields = {"display_name": "", "labels": None, "reading": reading, "request_id": "r"}
        return create_dataset("p", Content(b"x"), source, **fields).reading.file_format

    assert made(None) == expected
    assert made(training_data_pb2.DatasetReading(file_format="FILE_FORMAT_JSON")) == training_data_pb2.FILE_FORMAT_JSON
