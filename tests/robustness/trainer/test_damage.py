# SPDX-License-Identifier: Apache-2.0
"""A damaged data folder: what is whole is served, what is not is named, and nothing of it ends in a traceback."""

import random
import shutil
import sqlite3
from contextlib import closing

import grpc
import pytest
from finetree_api.trainer.v1 import artifact_pb2, dataset_pb2, event_log_pb2, trainer_pb2
from finetree_runtime.config.settings import SettingsError
from trainer_harness import ROWS, assert_whole, jsonl, refusal, trainer

BLOCK = "first_seq = (SELECT MAX(first_seq) FROM event_blocks WHERE job_uid = ?)"
DAMAGES = {
    "a missing block": (f"DELETE FROM event_blocks WHERE job_uid = ? AND {BLOCK}", "EVENTS_DAMAGED", None),
    "a bent block": (
        f"UPDATE event_blocks SET crc = crc + 1 WHERE job_uid = ? AND {BLOCK}",
        "EVENTS_DAMAGED",
        None,
    ),
    "a number that is too high": ("UPDATE jobs SET last_seq = last_seq + 3 WHERE uid = ?", "EVENTS_DAMAGED", None),
    "a bent snapshot": ("UPDATE jobs SET snapshot = x'ffff' WHERE uid = ?", None, "RECORD_DAMAGED"),
    "a bent record": ("UPDATE job_records SET record = 'text' WHERE uid = ?", None, "RECORD_DAMAGED"),
}


async def reason_of(call):
    """The reason of a refused call; None where it is answered."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return refusal(error)[1]
    return None


@pytest.fixture
async def data(tmp_path):
    """A data folder with a damaged job to be and a whole one; the names of both, and of their dataset."""
    async with trainer(tmp_path, {"steps": 20}) as talk:
        first = await talk.train()
        await talk.events(first.name)
        second = await talk.train()
        await talk.events(second.name)
        dataset = (await talk.stub.ListDatasets(dataset_pb2.ListDatasetsRequest())).datasets[0]
    return first, second, dataset


def run_sql(tmp_path, statement, *values: str):
    with closing(sqlite3.connect(tmp_path / "data" / "trainer.db")) as connection, connection:
        assert connection.execute(statement, values).rowcount == 1


async def test_what_is_damaged_is_named_and_everything_else_is_served(tmp_path, data):
    first, second, dataset = data
    kept = tmp_path / "kept"
    shutil.copytree(tmp_path / "data", kept)
    for what, (statement, of_events, of_job) in DAMAGES.items():
        shutil.rmtree(tmp_path / "data")
        shutil.copytree(kept, tmp_path / "data")
        run_sql(tmp_path, statement, *[first.uid] * statement.count("?"))
        async with trainer(tmp_path) as talk:
            assert_whole(await talk.events(second.name))
            listed = (await talk.stub.ListJobs(trainer_pb2.ListJobsRequest())).jobs
            assert [job.name for job in listed] == [second.name, first.name], what
            assert listed[1].state_reason.code == (of_job or "DONE")
            get = trainer_pb2.GetJobRequest(name=first.name)
            assert await reason_of(talk.stub.GetJob(get)) == of_job, what
            assert await reason_of(talk.events(first.name)) == of_events, what
            page = event_log_pb2.ListEventsRequest(name=first.name, page_size=1000)
            assert await reason_of(talk.stub.ListEvents(page)) == of_events, what
            assert (await talk.stub.GetDataset(dataset_pb2.GetDatasetRequest(name=dataset.name))).dataset == dataset


async def test_a_damaged_dataset_is_listed_and_named(tmp_path, data):
    dataset = data[2]
    run_sql(tmp_path, "UPDATE datasets SET record = x'00' WHERE uid = ?", dataset.uid)
    async with trainer(tmp_path) as talk:
        content = jsonl([*ROWS, ROWS[0]])
        other = await talk.write((await talk.create_dataset(content)).name, [(0, content)])
        listed = (await talk.stub.ListDatasets(dataset_pb2.ListDatasetsRequest())).datasets
        assert [found.name for found in listed] == [other.name, dataset.name]
        assert listed[1].sha256 == dataset.sha256
        assert (
            await reason_of(talk.stub.GetDataset(dataset_pb2.GetDatasetRequest(name=dataset.name))) == "RECORD_DAMAGED"
        )


@pytest.mark.parametrize("damage", ["none of its bytes", "its first page", "a page"])
async def test_a_database_that_cannot_be_opened_ends_the_start_with_its_name(tmp_path, data, damage):
    file = tmp_path / "data" / "trainer.db"
    content = bytearray(file.read_bytes())
    match damage:
        case "none of its bytes":
            content[:] = b"hello " * 1000
        case "its first page":
            content[:100] = bytes(100)
        case _:
            content[4096 : 4096 * 3] = bytes(4096 * 2)
    file.write_bytes(content)
    with pytest.raises(SettingsError, match=r"trainer\.db in it is damaged .* backup") as error:
        async with trainer(tmp_path):
            pass
    assert error.value.reason == "DATA_DIR_DAMAGED"


async def test_a_damaged_file_of_an_artifact_is_named_and_nothing_of_it_is_sent(tmp_path):
    async with trainer(tmp_path, {"steps": 1, "artifact": True}) as talk:
        job = await talk.train()
        await talk.events(job.name)
        (made,) = (await talk.stub.ListArtifacts(artifact_pb2.ListArtifactsRequest(parent=job.name))).artifacts
        (file,) = made.files
        on_disk = next((tmp_path / "data/jobs").rglob(file.path))
        whole = on_disk.read_bytes()

        async def download(**part: int) -> bytes:
            received = b""
            request = artifact_pb2.DownloadArtifactRequest(name=made.name, path=file.path, **part)
            try:
                async for response in talk.stub.DownloadArtifact(request):
                    received += response.chunk
            except grpc.aio.AioRpcError as error:
                return b"refused" if refusal(error)[1] == "ARTIFACT_DAMAGED" and not received else received
            return received

        shuffle = random.Random(1)
        for _ in range(20):
            damaged, bit = bytearray(whole), shuffle.randrange(8 * len(whole))
            damaged[bit // 8] ^= 1 << bit % 8
            on_disk.write_bytes(damaged)
            assert await download() == b"refused"
            assert await download(offset=5, limit=7) == b"refused"
        on_disk.write_bytes(whole)
        assert await download(offset=5, limit=7) == whole[5:12]
        assert await download() == whole
