# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN003 - keyword arguments here are fields of the request
"""What a PREPARE job kept of a dataset's rows, page by page."""

import grpc
import pytest
from finetree_api.trainer.v1 import dataset_pb2, job_pb2
from finetree_api.types.v1 import training_data_pb2
from trainer_harness import ROWS, jsonl, refusal, trainer


def kept(count=7, characters=0):
    """Rows of both splits: every third is cut, every sixth left out."""
    return [
        {
            "split": "SPLIT_TRAIN" if number <= count - 2 else "SPLIT_EVALUATION",
            "row": number,
            "tokens": 9,
            "truncated": number % 3 == 0,
            "dropped": number % 6 == 0,
            "spans": [{"text": f"row {number}" + "x" * characters, "tokens": 9, "trained": True}],
        }
        for number in range(1, count + 1)
    ]


async def prepared(talk, dataset=""):
    job = await talk.prepare(dataset=dataset or (await talk.upload(jsonl(ROWS))).name)
    assert (await talk.events(job.name))[-1].terminal.state == job_pb2.JOB_STATE_SUCCEEDED
    return job


async def pages(talk, **fields):
    found, token = [], ""
    while True:
        answer = await talk.stub.PreviewDataset(dataset_pb2.PreviewDatasetRequest(page_token=token, **fields))
        found.append([row.row for row in answer.rows])
        token = answer.next_page_token
        if not token:
            return found


async def refused(talk, **fields):
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await talk.stub.PreviewDataset(dataset_pb2.PreviewDatasetRequest(**fields))
    return refusal(error.value)[:2]


async def test_rows_come_in_pages_and_by_finding(tmp_path, serve):
    async with serve(tmp_path, {"preview": kept()}) as talk:
        dataset = await talk.upload(jsonl(ROWS))
        job = await prepared(talk, dataset.name)
        name, filters = dataset.name, dataset_pb2.PreviewFilter
        assert await pages(talk, dataset=name, page_size=3) == [[1, 2, 3], [4, 5, 6], [7]]
        assert await pages(talk, dataset=name, filter=filters.PREVIEW_FILTER_TRUNCATED) == [[3, 6]]
        assert await pages(talk, dataset=name, filter=filters.PREVIEW_FILTER_DROPPED) == [[6]]
        assert await pages(talk, dataset=name, filter=filters.PREVIEW_FILTER_NO_TARGET) == [[]]
        assert await pages(talk, dataset=name, split=training_data_pb2.SPLIT_EVALUATION, page_size=1) == [[6], [7]]
        assert await pages(talk, job=job.name) == [[1, 2, 3, 4, 5, 6, 7]]
        answer = await talk.stub.PreviewDataset(dataset_pb2.PreviewDatasetRequest(dataset=name, page_size=1))
        assert (answer.job, answer.rows[0].spans[0].text) == (job.name, "row 1")


async def test_the_newest_report_is_shown_and_a_page_goes_on_in_its_own(tmp_path):
    from trainer_harness import write_script

    async with trainer(tmp_path, {"preview": kept(4)}) as talk:
        name = (await talk.upload(jsonl(ROWS))).name
        older = await prepared(talk, name)
        request = dataset_pb2.PreviewDatasetRequest(dataset=name, page_size=2)
        first = await talk.stub.PreviewDataset(request)
        write_script(tmp_path, {"preview": kept(2)})
        newer = await prepared(talk, name)
        request.page_token = first.next_page_token
        assert (await talk.stub.PreviewDataset(request)).job == older.name
        request.page_token = ""
        assert (await talk.stub.PreviewDataset(request)).job == newer.name


async def test_a_page_is_bounded_in_bytes(tmp_path, serve):
    async with serve(tmp_path, {"preview": kept(5, characters=400_000)}) as talk:
        job = await prepared(talk)
        assert await pages(talk, job=job.name, page_size=100) == [[1, 2], [3, 4], [5]]


async def test_rows_of_a_deleted_dataset_are_not_shown(tmp_path, serve):
    async with serve(tmp_path, {"preview": kept()}) as talk:
        dataset = await talk.upload(jsonl(ROWS))
        job = await prepared(talk, dataset.name)
        await talk.stub.DeleteDataset(dataset_pb2.DeleteDatasetRequest(name=dataset.name))
        assert await refused(talk, job=job.name) == ("FAILED_PRECONDITION", "NO_PREVIEW")
        assert await refused(talk, dataset=dataset.name) == ("NOT_FOUND", "DATASET_NOT_FOUND")


async def test_what_cannot_be_shown_is_refused(tmp_path, serve):
    async with serve(tmp_path) as talk:
        dataset = await talk.upload(jsonl(ROWS))
        assert await refused(talk, dataset=dataset.name) == ("FAILED_PRECONDITION", "NO_PREVIEW")
        job = await prepared(talk, dataset.name)
        assert await refused(talk, job=job.name) == ("FAILED_PRECONDITION", "NO_PREVIEW")
        assert await refused(talk, job=dataset.name.replace("datasets", "jobs")) == ("NOT_FOUND", "JOB_NOT_FOUND")
        unknown = job.name.replace("jobs", "datasets")
        assert await refused(talk, dataset=unknown) == ("NOT_FOUND", "DATASET_NOT_FOUND")
        assert await refused(talk) == ("INVALID_ARGUMENT", "INVALID_REQUEST")
        assert await refused(talk, job=job.name, page_token="x") == ("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID")
        assert await refused(talk, dataset=dataset.name, split=9) == ("INVALID_ARGUMENT", "INVALID_REQUEST")
