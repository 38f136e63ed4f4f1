# SPDX-License-Identifier: Apache-2.0
"""Bytes on this side: what goes up, and where downloads land."""

import hashlib
import json

import finetree
import pytest
from finetree._shared.files import Content, Download, Tally, inside
from finetree._shared.uploads import SEGMENT_BYTES, Upload
from finetree_api.trainer.v1 import artifact_pb2, dataset_pb2

DATA = bytes(range(256)) * 40


def file(data=DATA, path="model/weights.bin"):
    return artifact_pb2.ArtifactFile(path=path, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def fresh(folder, **options: object):
    return Download("projects/p/jobs/1/artifacts/a", file(**options), folder, Tally(len(DATA), None))


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
    ],
)
def test_what_cannot_be_uploaded(source, reason, text):
    with pytest.raises(finetree.InvalidArgument, match=text) as caught:
        Content(source)
    assert caught.value.reason == reason


def test_an_upload_is_cut_into_segments_and_pieces_that_meet():
    data = b"x" * (SEGMENT_BYTES + 100_000)
    with Content(data) as content:
        upload = Upload(content, dataset_pb2.Dataset(name="n", size_bytes=len(data)), None)
        first = list(upload.segment())
        assert (first[0].name, first[1].name, first[0].offset) == ("n", "", 0)
        assert sum(len(piece.data) for piece in first) == SEGMENT_BYTES
        upload.now(dataset_pb2.Dataset(name="n", committed_bytes=SEGMENT_BYTES))
        second = list(upload.segment())
        assert second[0].offset == SEGMENT_BYTES
        assert b"".join(piece.data for piece in first + second) == data
        upload.now(dataset_pb2.Dataset(name="n", committed_bytes=len(data)))
        assert [piece.data for piece in upload.segment()] == [b""]


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "", "a\\..\\x", "C:x", "a/\0", ".."])
def test_no_file_leaves_its_folder(tmp_path, path):
    with pytest.raises(finetree.Internal) as caught:
        inside(tmp_path, path)
    assert caught.value.reason == "UNSAFE_PATH"


def test_no_file_leaves_its_folder_through_a_link(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "out").symlink_to(tmp_path)
    with pytest.raises(finetree.Internal):
        inside(tmp_path / "folder", "out/x")


def test_a_file_gets_its_name_when_it_is_whole_and_right(tmp_path):
    target = fresh(tmp_path)
    target.write(0, DATA[:5000])
    assert not (tmp_path / "model/weights.bin").exists()
    target.write(5000, DATA[5000:])
    assert target.complete
    target.finish()
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["weights.bin"]
    assert (tmp_path / "model/weights.bin").read_bytes() == DATA


def test_a_later_try_goes_on_where_the_first_one_stopped(tmp_path):
    first = fresh(tmp_path)
    first.write(0, DATA[:5000])
    first.close()
    second = fresh(tmp_path)
    assert second.request().offset == 5000
    second.write(5000, DATA[5000:])
    second.finish()
    assert fresh(tmp_path).done


def test_damage_is_found_and_the_next_try_begins_anew(tmp_path):
    target = fresh(tmp_path)
    target.write(0, DATA[:-1] + b"?")
    with pytest.raises(finetree.Internal) as caught:
        target.finish()
    assert caught.value.reason == "ARTIFACT_CORRUPT"
    assert list((tmp_path / "model").iterdir()) == []
    again = fresh(tmp_path)
    assert again.offset == 0
    again.close()


@pytest.mark.parametrize(("offset", "chunk"), [(1, b"x"), (0, DATA + b"x")])
def test_bytes_that_do_not_belong_are_refused(tmp_path, offset, chunk):
    target = fresh(tmp_path)
    with pytest.raises(finetree.Internal, match="arrived damaged"):
        target.write(offset, chunk)
    target.close()
