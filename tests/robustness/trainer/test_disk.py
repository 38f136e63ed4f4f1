# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: PT012 - which of the calls meets the full disk depends on the page that is full
"""A full disk: refused before, refused in the midst, and outlived while a job runs."""

import asyncio

import grpc
import pytest
from finetree_api.trainer.v1 import dataset_pb2, event_pb2, job_pb2, trainer_pb2
from trainer_harness import ROWS, assert_whole, jsonl, refusal, steps, trainer

CONTENT = jsonl(ROWS)
FULL = ("RESOURCE_EXHAUSTED", "DISK_FULL")


async def test_nothing_is_created_where_there_is_no_room(tmp_path):
    async with trainer(tmp_path, disk_reserve_bytes=10**18) as talk:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await talk.create_dataset(CONTENT)
        assert refusal(error.value)[:2] == FULL
        assert not (await talk.stub.ListDatasets(dataset_pb2.ListDatasetsRequest())).datasets
        request = trainer_pb2.CreateJobRequest(job=job_pb2.JobTemplate())
        request.job.train.spec.model.path = "tiny"
        request.job.train.spec.lora.SetInParent()
        request.job.train.spec.dataset.path = "train.jsonl"
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await talk.stub.CreateJob(request)
        assert refusal(error.value)[:2] == FULL
        assert not (await talk.stub.ListJobs(trainer_pb2.ListJobsRequest())).jobs


async def test_a_disk_that_fills_up_in_an_upload_keeps_what_is_committed(tmp_path):
    async with trainer(tmp_path) as talk:
        created = await talk.create_dataset(CONTENT)
        part = tmp_path / "data" / "uploads" / f"{created.uid}.part"
        # The kernel's own full device: every write to it fails with ENOSPC.
        part.symlink_to("/dev/full")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await talk.write(created.name, [(0, CONTENT)])
        assert refusal(error.value)[:2] == FULL
        shown = (await talk.stub.GetDataset(dataset_pb2.GetDatasetRequest(name=created.name))).dataset
        assert shown.committed_bytes == 0
        part.unlink()
        assert (await talk.write(created.name, [(0, CONTENT)])).state == dataset_pb2.DATASET_STATE_READY


async def limit_pages(talk, pages):
    """Let the database grow to so many pages: SQLite's own "disk is full"."""
    store = talk.application._store
    await store.write(lambda connection: connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}").scalar())


async def test_a_database_that_is_full_loses_no_event_and_stops_no_training(tmp_path):
    async with trainer(tmp_path, {"steps": 1000, "delay": 0.004}) as talk:
        job = await talk.train()
        await talk.until(job.name, lambda e: e.kind == event_pb2.EVENT_KIND_STEP_METRICS)
        await limit_pages(talk, 1)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            for number in range(100):
                await talk.create_dataset(CONTENT + b"\n" * number, labels={"x": "y" * 200})
        assert refusal(error.value)[:2] == FULL
        await asyncio.sleep(0.3)
        assert (await talk.job(job.name)).last_seq < 1000
        await limit_pages(talk, 10**6)
        events = await talk.events(job.name)
        assert_whole(events)
        assert steps(events) == [(1, step) for step in range(1, 1001)]
