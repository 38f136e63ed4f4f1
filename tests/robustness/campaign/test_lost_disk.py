# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ASYNC110 - what is waited for is another process
"""Real training whose machine dies and loses its checkpoints: it goes on from the object store, to the same weights."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from campaign.campaign import Client, Service, rows
from campaign.history import History, violations
from campaign.preloaded import TINY_MODEL, Starter
from finetree_api.trainer.v1 import event_pb2, job_pb2

STEPS = 120
"""So many that the run goes on for seconds after its first checkpoint is uploaded."""


def task() -> job_pb2.TrainTask:
    """A checkpoint after every ten steps, of which two are kept."""
    made = job_pb2.TrainTask()
    training, spec = made.spec.training, made.spec
    training.max_steps, training.effective_batch_size, training.micro_batch_size = STEPS, 2, 2
    training.sequence_length = 64
    spec.checkpoints.every_steps, spec.checkpoints.keep = 10, 2
    return made


def workers(folder: Path) -> list[int]:
    """Process ids of the workers."""
    return [json.loads(note.read_text())["pid"] for note in folder.glob("data/workers/*/process.json")]


async def kill_workers(folder: Path) -> None:
    """Kill every worker, and wait until none is left; nobody starts another."""
    async with asyncio.timeout(60):
        for pid in workers(folder):
            with contextlib.suppress(ProcessLookupError):
                while True:
                    os.kill(pid, signal.SIGKILL)
                    await asyncio.sleep(0.02)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_run_whose_checkpoints_are_lost_with_the_disk_goes_on_from_the_store(tmp_path, preloaded, object_store):
    bucket, history = object_store.new_bucket(), History()
    loaded = [preloaded(kind) for kind in ("trainer", "worker")]
    options = object_store.options_file(tmp_path)
    place = {"object_store": f"s3://{bucket}/finetree", "object_store_options_file": options}
    service = Service(tmp_path, *[each.wait() for each in loaded], **place)
    made = Starter(loaded[1].path, [TINY_MODEL, str(tmp_path / "models/small")], (1, 2))
    assert made.wait() == 0
    made.close()
    client = Client(service, history, 1, content=rows)
    client.template = {"model": "small", "task": task()}
    assert await service.start()
    try:
        dataset = await client.upload(rows(1))
        whole = await client.create(dataset, "whole")
        wanted = await client.download(await client.follow(whole))

        job = await client.create(dataset, "killed")
        below = f"finetree/manifests/jobs/{job.rpartition('/')[2]}/checkpoints/"
        async with asyncio.timeout(120):
            while not any(key.startswith(below) for key in object_store.keys(bucket)):
                await asyncio.sleep(0.02)
        await service.kill()
        await kill_workers(tmp_path)
        lost = tmp_path / "data/jobs" / job.rpartition("/")[2] / "checkpoints"
        assert lost.is_dir()
        shutil.rmtree(lost)
        shutil.rmtree(tmp_path / "data/datasets")
        stored = [int(key[-13:-5]) for key in object_store.keys(bucket) if key.startswith(below)]
        assert max(stored) < STEPS

        assert await service.start()
        events = await client.follow(job)
        assert events[-1].terminal.state == job_pb2.JOB_STATE_SUCCEEDED, events[-1].message
        began = [event.attempt_started for event in events if event.kind == event_pb2.EVENT_KIND_ATTEMPT_STARTED]
        assert len(began) == 2
        assert began[-1].restored_step == max(stored)
        assert await client.download(events) == wanted
        for name in (whole, job):
            await client.whole(name)
    finally:
        await service.kill()
    assert not violations(history)
