# SPDX-License-Identifier: Apache-2.0
"""Datasets over the wire: uploaded once, resumed where they were cut."""

import hashlib
import io

import finetree
import pytest
from finetree._shared import uploads
from finetree_api.trainer.v1 import dataset_pb2
from finetree_api.types.v1 import training_data_pb2

ROWS = [
    {"messages": [{"role": "user", "content": f"question {n}"}, {"role": "assistant", "content": "answer"}]}
    for n in range(20_000)
]


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "train.jsonl"
    file.write_bytes(b"".join(b'{"text": "%d"}\n' % n for n in range(50_000)))
    return file


def test_upload_of_a_file(do, suite, path):
    told = []
    dataset = do(do.client().upload_dataset(path, on_progress=lambda done, total: told.append((done, total))))
    size = path.stat().st_size
    assert dataset.state == dataset_pb2.DATASET_STATE_READY
    assert (dataset.display_name, dataset.size_bytes, dataset.profile.examples) == ("train.jsonl", size, 50_000)
    assert suite.datasets.content(dataset.name) == path.read_bytes()
    assert (told[0], told[-1]) == ((0, size), (size, size))
    assert told == sorted(told)


def test_upload_of_rows(do):
    dataset = do(do.client().upload_dataset(iter(ROWS), display_name="rows", labels={"a": "b"}))
    assert (dataset.profile.examples, dataset.display_name, dataset.labels["a"]) == (len(ROWS), "rows", "b")
    assert dataset.row_format == training_data_pb2.ROW_FORMAT_CHAT


def test_the_same_content_is_not_sent_again(do, suite, path):
    client = do.client()
    first, second = do(client.upload_dataset(path)), do(client.upload_dataset(path.read_bytes()))
    assert first.name == second.name
    assert len(suite.faults.calls("WriteDataset")) == 1


@pytest.mark.parametrize("cut", [1, 70_000, 300_000])
def test_a_cut_upload_goes_on_from_what_is_committed(do, suite, path, cut):
    suite.datasets.cut_upload_after(cut)
    told = []
    dataset = do(do.client().upload_dataset(path, on_progress=lambda done, _: told.append(done)))
    assert hashlib.sha256(suite.datasets.content(dataset.name)).hexdigest() == dataset.sha256
    assert len(suite.faults.calls("WriteDataset")) == 2
    assert any(cut <= done < dataset.size_bytes for done in told)


def test_several_segments(do, suite, path, monkeypatch):
    monkeypatch.setattr(uploads, "SEGMENT_BYTES", 100_000)
    dataset = do(do.client().upload_dataset(path))
    assert len(suite.faults.calls("WriteDataset")) == -(-dataset.size_bytes // 100_000)
    assert suite.datasets.content(dataset.name) == path.read_bytes()


def test_an_upload_that_another_one_finished_meanwhile(do, suite, path):
    suite.faults.fail_next("WriteDataset", finetree.FailedPrecondition("nothing is left", reason="DATASET_READY"))
    dataset = do(do.client().upload_dataset(path))
    assert dataset.state == dataset_pb2.DATASET_STATE_READY


def test_a_malformed_row_is_named(do):
    with pytest.raises(finetree.InvalidArgument) as caught:
        do(do.client().upload_dataset(b'{"text": "a"}\nnonsense\n'))
    assert caught.value.reason == "MALFORMED_ROW"
    assert "row 2" in str(caught.value)


def test_a_service_that_stays_away_ends_the_upload(do, suite, path):
    suite.faults.fail_next("WriteDataset", finetree.Unavailable("gone", reason="SERVER_STOPPING"), times=10_000)
    with pytest.raises(finetree.Unavailable):
        do(do.client(reconnect_timeout=0.3).upload_dataset(path))


def test_a_timeout_ends_the_upload_and_the_next_one_goes_on(do, suite, path):
    held = suite.faults.hold("WriteDataset")
    client = do.client()
    with pytest.raises(finetree.FinetreeTimeout):
        do(client.upload_dataset(path, timeout=0.3))
    held.set()
    assert do(client.upload_dataset(path)).state == dataset_pb2.DATASET_STATE_READY


def test_get_list_and_delete(do):
    client = do.client()
    names = [do(client.upload_dataset([{"text": str(n)}])).name for n in range(3)]
    assert [each.name for each in do.all(client.list_datasets(page_size=2))] == names[::-1]
    short = names[0].rpartition("/")[2]
    assert do(client.get_dataset(short)).name == names[0]
    do(client.delete_dataset(names[0]))
    with pytest.raises(finetree.NotFound) as caught:
        do(client.get_dataset(names[0]))
    assert caught.value.reason == "DATASET_NOT_FOUND"


@pytest.mark.parametrize("name", ["", "projects/p/jobs/1"])
def test_a_name_of_something_else(do, name):
    with pytest.raises(finetree.InvalidArgument, match="datasets"):
        do(do.client().get_dataset(name))


def test_rows_of_a_preview_are_fetched_page_by_page(do, suite):
    client = do.client()
    name = do(client.upload_dataset([{"text": "preview"}])).name
    suite.datasets.preview = [dataset_pb2.PreviewRow(split="SPLIT_TRAIN", row=n, truncated=n > 3) for n in range(1, 6)]
    try:
        assert [row.row for row in do.all(client.preview_dataset(name, page_size=2))] == [1, 2, 3, 4, 5]
        assert [row.row for row in do.all(client.preview_dataset(name, finding="TRUNCATED"))] == [4, 5]
        assert do.all(client.preview_dataset(job="1", split="evaluation")) == []
        with pytest.raises(finetree.InvalidArgument, match="no_target"):
            client.preview_dataset(name, finding="unheard-of")
        with pytest.raises(finetree.InvalidArgument, match="either a dataset or a job"):
            client.preview_dataset(name, job="1")
    finally:
        suite.datasets.preview = []


def test_an_open_file_is_uploaded_from_its_beginning_and_closed(do, suite):
    content = b'{"text": "one"}\n{"text": "two"}\n'
    file = io.BytesIO(content)
    file.read(5)
    dataset = do(do.client().upload_dataset(file, display_name="open.jsonl"))
    assert (suite.datasets.content(dataset.name), dataset.display_name) == (content, "open.jsonl")
    assert file.closed
