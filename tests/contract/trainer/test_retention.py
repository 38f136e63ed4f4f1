# SPDX-License-Identifier: Apache-2.0
"""Retention removes what is old or too much, never what is used or pinned, and says before and after what it does."""

import asyncio
import os
import sqlite3

import grpc
import pytest
from finetree_api.trainer.v1 import (
    artifact_pb2,
    checkpoint_pb2,
    dataset_pb2,
    event_log_pb2,
    job_pb2,
    retention_pb2,
    trainer_pb2,
)
from finetree_cli import __main__ as command
from finetree_trainer.jobs.retention import sweep as sweeping
from sqlalchemy.exc import DBAPIError
from trainer_harness import ROWS, jsonl, refusal, trainer

SCRIPT = {"steps": 6, "checkpoints": [2, 4, 6], "adapter": True}
MONTH = 31 * 86_400 * 1_000_000


async def refused(call) -> tuple:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return refusal(error.value)


async def ended(talk, **fields) -> job_pb2.Job:  # noqa: ANN003 - fields of the template
    """A job that has ended, and whose worker is gone: else its folder still changes."""
    job = await talk.train(**fields)
    await talk.events(job.name)
    async with asyncio.timeout(60):
        while talk.application._supervisor.worker_of(job.uid, 1) is not None:  # noqa: ASYNC110 - has no event
            await asyncio.sleep(0.01)
    return await talk.job(job.name)


def make_old(tmp_path, *uids: str) -> None:
    """Have jobs, and everything that they made, end a month earlier."""
    with sqlite3.connect(tmp_path / "data/trainer.db") as database:
        for uid in uids:
            database.execute("UPDATE jobs SET end_time = end_time - ?, update_time = 1 WHERE uid = ?", (MONTH, uid))
            database.execute("UPDATE artifacts SET create_time = create_time - ? WHERE job_uid = ?", (MONTH, uid))
            for place in (tmp_path / "data/jobs" / uid / "checkpoints").glob("step-*"):
                os.utime(place, (1, 1))


async def storage(talk, **fields) -> retention_pb2.GetStorageResponse:  # noqa: ANN003 - fields of the request
    return await talk.stub.GetStorage(retention_pb2.GetStorageRequest(**fields))


async def checkpoints(talk, job) -> list[int]:
    listed = await talk.stub.ListCheckpoints(checkpoint_pb2.ListCheckpointsRequest(parent=job.name))
    return [each.step for each in listed.checkpoints]


async def test_old_checkpoints_artifacts_and_datasets_go_and_what_is_pinned_or_used_stays(tmp_path):
    async with trainer(tmp_path, SCRIPT, retention_age=30 * 86_400.0) as talk:
        dataset = (await talk.upload(jsonl(ROWS))).name
        unused = (await talk.upload(jsonl(ROWS[:5]))).name
        old, new = await ended(talk, dataset=dataset), await ended(talk, dataset=dataset)
        pin = checkpoint_pb2.UpdateCheckpointRequest(name=f"{old.name}/checkpoints/4", pinned=True)
        await talk.stub.UpdateCheckpoint(pin)
        make_old(tmp_path, old.uid)
        with sqlite3.connect(tmp_path / "data/trainer.db") as database:
            database.execute("UPDATE datasets SET update_time = 1")
        told = await storage(talk)
        named = [(removal.name, removal.cause) for removal in told.removals]
        age = retention_pb2.REMOVAL_CAUSE_AGE
        assert sorted(named) == sorted(
            [(f"{old.name}/checkpoints/6", age), (f"{old.name}/artifacts/adapter", age), (unused, age)]
        )
        used = {(usage.project, usage.kind): usage for usage in told.usage}
        place = used["projects/default", retention_pb2.STORAGE_KIND_CHECKPOINTS]
        files = (tmp_path / "data/jobs").glob("*/checkpoints/step-*/*")
        assert (place.count, place.size_bytes) == (4, sum(file.stat().st_size for file in files))
        assert place.max_age.seconds == 30 * 86_400
        await talk.application._retention.sweep()
        assert (await checkpoints(talk, old), await checkpoints(talk, new)) == ([4], [4, 6])
        listed = await talk.stub.ListArtifacts(artifact_pb2.ListArtifactsRequest(parent=old.name))
        assert not listed.artifacts
        assert not list((tmp_path / "data/jobs" / old.uid).glob("attempts/*/artifacts/*"))
        gone = await refused(talk.stub.GetDataset(dataset_pb2.GetDatasetRequest(name=unused)))
        assert gone[:2] == ("NOT_FOUND", "DATASET_NOT_FOUND")
        assert (await talk.stub.GetDataset(dataset_pb2.GetDatasetRequest(name=dataset))).dataset.name == dataset
        assert not (await storage(talk)).removals


async def test_whole_jobs_go_by_the_file_of_limits_and_say_so_afterwards(tmp_path, monkeypatch, capsys):
    file = tmp_path / "retention.toml"
    file.write_text('[default]\njobs = { age = "30d" }\n[projects.other]\njobs = { age = "1s" }\n')
    async with trainer(tmp_path, SCRIPT, retention_file=file) as talk:
        old, new = await ended(talk), await ended(talk)
        make_old(tmp_path, old.uid)
        assert (await talk.job(old.name)).expire_time.ToMicroseconds() < new.end_time.ToMicroseconds()
        monkeypatch.setenv("FINETREE_TRAINER_ADDRESS", talk.address)
        code = await asyncio.to_thread(command.run, ["storage", "--dry-run", "--all-projects"])
        out, err = capsys.readouterr()
        assert (code, old.name in out, "30 d" in out) == (0, True, True), (out, err)
        await talk.application._retention.sweep()
        for call in (
            talk.stub.GetJob(trainer_pb2.GetJobRequest(name=old.name)),
            talk.stub.ListEvents(event_log_pb2.ListEventsRequest(name=old.name)),
        ):
            code, reason, info, _ = await refused(call)
            assert (code, reason) == ("NOT_FOUND", "JOB_EXPIRED")
            assert info.metadata["expire_time"].startswith("20")
        assert (await talk.job(new.name)).name == new.name
        assert not (tmp_path / "data/jobs" / old.uid).exists()


async def test_a_sweep_that_fails_in_one_part_does_the_others_and_is_tried_again(tmp_path, monkeypatch):
    async with trainer(tmp_path, SCRIPT, retention_age=30 * 86_400.0) as talk:
        first, second = await ended(talk), await ended(talk)
        make_old(tmp_path, first.uid, second.uid)
        broken = {(first.uid, 4)}
        discard = sweeping.CheckpointKeeping.discard

        async def fails(self, job, step):  # noqa: ANN202 - as the one that it replaces
            if (job.id, step) in broken:
                raise OSError(28, "No space left on device")
            return await discard(self, job, step)

        monkeypatch.setattr(sweeping.CheckpointKeeping, "discard", fails)
        retention = talk.application._retention

        async def damaged() -> None:
            raise DBAPIError("SELECT", None, sqlite3.DatabaseError("disk image is malformed"))

        retention._parts = {"first": damaged} | retention._parts
        await retention.sweep()
        assert (await checkpoints(talk, first), await checkpoints(talk, second)) == ([4], [])
        broken.clear()
        await retention.sweep()
        assert await checkpoints(talk, first) == []


async def test_too_many_bytes_lose_the_oldest(tmp_path):
    async with trainer(tmp_path, SCRIPT) as talk:
        jobs = [await ended(talk) for _ in range(2)]
        told = {usage.kind: usage for usage in (await storage(talk)).usage}
        size = told[retention_pb2.STORAGE_KIND_CHECKPOINTS].size_bytes
        assert told[retention_pb2.STORAGE_KIND_CHECKPOINTS].max_bytes == 0
    file = tmp_path / "retention.toml"
    file.write_text(f"[default]\ncheckpoints = {{ bytes = {size - 1} }}\n")
    async with trainer(tmp_path, SCRIPT, retention_file=file) as talk:
        await talk.application._retention.sweep()
        assert [await checkpoints(talk, job) for job in jobs] == [[6], [4, 6]]
        assert not (await storage(talk)).removals
