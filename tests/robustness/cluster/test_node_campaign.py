# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ASYNC110 - each fault takes what any of them needs; processes of others set no event
"""Nodes die, freeze and are taken back, the head dies and the trainer is started anew, while jobs train.

FINETREE_NODE_KILLS is how many nodes are killed; without it the campaign is left out (`make soak`).
"""

import asyncio
import collections
import contextlib
import itertools
import json
import os
import random
import signal
import time

import psutil
import pytest
from cluster_nodes import capacity, node_of, on, steps
from finetree_api.trainer.v1 import artifact_pb2, job_pb2
from scripted_training import weights_after
from trainer_harness import jsonl, trainer

KILLS = int(os.environ.get("FINETREE_NODE_KILLS", "0"))
SEED = int(os.environ.get("FINETREE_SEED", "0")) or random.randrange(1, 10**6)
NUMBERS = itertools.count()
"""For names of nodes."""
LEASE = {"orphan_grace": 10.0, "checkpoint_grace": 10.0, "worker_heartbeat": 2.0}
"""Short ones, so that the campaign does not wait long for what is frozen."""
pytestmark = [
    pytest.mark.skipif(not KILLS, reason="FINETREE_NODE_KILLS is not set: make soak"),
    pytest.mark.timeout(7200),
]


def worker_of(tmp_path) -> psutil.Process:
    """The process of the only worker that lives."""
    alive = []
    for note in (tmp_path / "data" / "workers").glob("*/process.json"):
        with contextlib.suppress(psutil.NoSuchProcess, OSError, ValueError):
            alive.append(psutil.Process(json.loads(note.read_text())["pid"]))
    assert len(alive) == 1
    return alive[0]


async def train(talk, number: int):
    """A job on rows of its own; the job, and the rows."""
    rows = [{"messages": [{"role": "user", "content": f"{number}?"}, {"role": "assistant", "content": str(number)}]}]
    content = jsonl(rows * 20)
    return await talk.train(dataset=(await talk.upload(content)).name), content


async def at_step(talk, job, step: int) -> None:
    """Wait until a job has come so far."""
    await talk.until(job.name, lambda event: event.step_metrics.step >= step, 600)


async def assert_whole(talk, job, content: bytes) -> int:
    """Every promise of the log, and the weights of a run that nothing has interrupted; its attempts."""
    events = await talk.events(job.name, 900)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert [event.HasField("terminal") for event in events] == [False] * (len(events) - 1) + [True]
    assert events[-1].terminal.state == job_pb2.JOB_STATE_SUCCEEDED, events[-1]
    numbers = [event.attempt for event in events]
    assert numbers == sorted(numbers)
    taken = collections.defaultdict(list)
    for attempt, step in steps(events):
        taken[attempt].append(step)
    for restored in (event for event in events if event.HasField("attempt_started")):
        first = restored.attempt_started.restored_step + 1
        # A worker that is killed may take its last events with it, never one between two others.
        assert taken[restored.attempt] == list(range(first, first + len(taken[restored.attempt])))
    assert taken[numbers[-1]][-1:] in ([8], [])
    name = f"{job.name}/artifacts/adapter"
    request = artifact_pb2.DownloadArtifactRequest(name=name, path="weights.bin")
    pieces = [piece.chunk async for piece in talk.stub.DownloadArtifact(request)]
    assert b"".join(pieces) == weights_after(content)
    return numbers[-1]


async def kill_node(nodes, talk, job, tmp_path) -> None:
    """Kill the node of a job, with everything of Ray on it; another one comes."""
    nodes.kill(node_of(await capacity(talk, nodes.names), job.name))
    nodes.have(*nodes.names, f"n{next(NUMBERS)}")


async def freeze_worker(nodes, talk, job, tmp_path) -> None:
    """Stop a worker and its actor until the lease is over and another attempt has begun; then let both go on."""
    worker = worker_of(tmp_path)
    actor = worker.parent()
    assert actor is not None
    for each in (worker, actor):
        each.suspend()
    try:
        await talk.until(job.name, lambda event: event.attempt == 2, 600)
    finally:
        for each in (worker, actor):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.resume()
    async with asyncio.timeout(120):
        while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.1)


async def give_notice(nodes, talk, job, tmp_path) -> None:
    """Tell a worker to end, as where its node is taken back."""
    worker_of(tmp_path).send_signal(signal.SIGTERM)


FAULTS = (kill_node, kill_node, freeze_worker, give_notice, None)
"""What happens to a job; None: the trainer is started anew."""


async def test_nodes_die_and_no_promise_is_broken(nodes, tmp_path):
    chance, began, jobs = random.Random(SEED), time.monotonic(), itertools.count()
    done: collections.Counter[str] = collections.Counter()
    settings = on(nodes, 0.5, system_retries=99, **LEASE)
    nodes.have(*(f"n{next(NUMBERS)}" for _ in range(2)))
    while done["kill_node"] < KILLS:
        fault = chance.choice(FAULTS)
        async with trainer(tmp_path, **settings) as talk:
            await capacity(talk, nodes.names)
            job, content = await train(talk, next(jobs))
            await at_step(talk, job, chance.randrange(1, 5))
            if fault is not None:
                await fault(nodes, talk, job, tmp_path)
                done["attempts"] += await assert_whole(talk, job, content)
        if fault is None:
            async with trainer(tmp_path, **settings) as talk:
                assert await assert_whole(talk, job, content) == 1
                done["attempts"] += 1
        done[fault.__name__ if fault is not None else "restart"] += 1
    # Last, since nothing of this cluster is left afterwards.
    async with trainer(tmp_path, **settings) as talk:
        job, content = await train(talk, next(jobs))
        await at_step(talk, job, 1)
        nodes.tell("kill-head")
        assert await assert_whole(talk, job, content) == 1
        later, _ = await train(talk, next(jobs))
        await talk.until(later.name, lambda event: event.queue_changed.code == "WAITING_FOR_NODE", 600)
        await talk.cancel(later.name)
    done["head killed"] += 1
    print(f"FINETREE_SEED={SEED}: {dict(done)} in {time.monotonic() - began:.0f} s")  # noqa: T201 - figures of a campaign
