# SPDX-License-Identifier: Apache-2.0
"""Real training of a tiny model, whose worker dies at every place and at random moments: the weights stay the same."""

import asyncio
import contextlib
import json
import os
import random
import signal

import pytest
from campaign.arming import FOLDER, put
from campaign.campaign import OF_WORKER, Client, Service, rows, tiny_training
from campaign.history import History, violations
from finetree_api.trainer.v1 import event_pb2, job_pb2
from finetree_data.fail_points import VARIABLE

SEED = int(os.environ.get("FINETREE_SEED", "1")) or random.randrange(1, 10**6)
AT_RANDOM = int(os.environ.get("FINETREE_REAL_KILLS", "3"))
POINTS = int(os.environ.get("FINETREE_REAL_POINTS", "5"))
"""Fail points of the worker at which real training dies, beside those that only its loop has; `make soak` takes all."""
STEPS = 6
"""Each of them saves a checkpoint."""


async def kill_worker(service: Service, client: Client, job: str, step: int) -> None:
    """Kill the worker of a job, after a step."""
    talk = await service.up()
    with contextlib.suppress(AssertionError):
        await talk.until(job, lambda e: e.step_metrics.step >= step or e.HasField("terminal"), 60)
    attempts = service.folder / "data/workers"
    for note in attempts.glob("*/process.json"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            os.kill(json.loads(note.read_text())["pid"], signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_a_run_ends_in_the_same_weights_wherever_its_worker_dies(tmp_path, preloaded):
    print(f"FINETREE_SEED={SEED}")
    shuffle, history = random.Random(SEED), History()
    loaded = [preloaded(kind) for kind in ("trainer", "armed")]
    service = Service(tmp_path, *[each.wait() for each in loaded])
    loaded[1].make_tiny_model(tmp_path / "models/small")
    client = Client(service, history, 1, content=rows)
    client.template = {"model": "small", "task": tiny_training(STEPS, every=1)}
    await service.start()
    weights: dict[str, bytes] = {}
    own = [point for point in OF_WORKER if point.startswith("checkpoint.")]
    others = [point for point in OF_WORKER if point not in own]
    points = own + shuffle.sample(others, min(POINTS, len(others)))
    try:
        dataset = await client.upload(rows(1))
        for turn in ["", *points, *[f"random-{number}" for number in range(AT_RANDOM)]]:
            if turn in OF_WORKER:
                put(tmp_path / FOLDER, [turn])
            job = await client.create(dataset, f"request-{turn}")
            killing = None
            if turn.startswith("random"):
                killing = asyncio.create_task(kill_worker(service, client, job, shuffle.randint(1, STEPS - 1)))
            events = await client.follow(job)
            if killing is not None:
                await killing
            assert events[-1].terminal.state == job_pb2.JOB_STATE_SUCCEEDED, events[-1].message
            weights[turn] = await client.download(events)
            assert set(range(1, STEPS + 1)) == {e.step_metrics.step for e in events if e.HasField("step_metrics")}
            if turn:
                began = [e for e in events if e.kind == event_pb2.EVENT_KIND_ATTEMPT_STARTED]
                print(f"{turn}: goes on from step {began[-1].attempt_started.restored_step}")
            if turn in OF_WORKER:
                log = tmp_path / "data/jobs" / job.rpartition("/")[2] / "attempts/1/output.log"
                assert f"{VARIABLE}: {turn}" in log.read_text()
            await client.whole(job)
    finally:
        await service.kill()
    assert not violations(history)
    assert len(set(weights.values())) == 1, [turn for turn in weights if weights[turn] != weights[""]]
