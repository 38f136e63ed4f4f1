# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ASYNC110, PLW2901 - a process that is gone sets no event; the client is made anew with each server
"""kill -9 of the service and of workers: nothing acknowledged is lost, nothing is told twice or out of order."""

import asyncio
import contextlib
import json
import os
import signal

import grpc
import psutil
import pytest
from finetree_api.trainer.v1 import event_log_pb2, event_pb2, job_pb2, trainer_pb2
from finetree_data.exchange.journal import events_after
from finetree_trainer import application
from trainer_harness import ROWS, Server, assert_whole, jsonl, server, states, steps, trainer

STEP = event_pb2.EVENT_KIND_STEP_METRICS


def worker_pids(tmp_path):
    notes = (tmp_path / "data" / "workers").glob("*/process.json")
    found = []
    for note in notes:
        # The service deletes the folder of a worker that is proven dead.
        with contextlib.suppress(FileNotFoundError):
            found.append(json.loads(note.read_text())["pid"])
    return found


def lives(pid):
    """Whether a process runs; one that is dead and not yet collected by its new parent does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def all_gone(tmp_path, seconds=60.0):
    async with asyncio.timeout(seconds):
        while any(lives(pid) for pid in worker_pids(tmp_path)):
            await asyncio.sleep(0.02)


async def after_step(talk, job, step):
    await talk.until(job.name, lambda e: e.kind == STEP and e.step_metrics.step >= step)


async def test_a_killed_service_loses_nothing_and_its_worker_comes_back(tmp_path):
    async with server(tmp_path, {"steps": 250, "delay": 0.02}) as (running, talk):
        job = await talk.train()
        await after_step(talk, job, 5)
        before = []
        call = talk.stub.WatchJob(event_log_pb2.WatchJobRequest(name=job.name))
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
            async for batch in call:
                before.extend(batch.events)
                if len(before) > 40:
                    break
        pids = worker_pids(tmp_path)
        await running.kill()
        assert all(lives(pid) for pid in pids)
        talk = await running.start()
        events = await talk.events(job.name)
        assert_whole(events)
        assert events[: len(before)] == before
        # One attempt went through: the worker was never started again, and each of its steps is there once.
        assert steps(events) == [(1, step) for step in range(1, 251)]
        assert states(events) == ["QUEUED", "PREPARING", "RUNNING", "SUCCEEDED"]


async def test_a_service_killed_again_and_again_keeps_every_event_once(tmp_path):
    async with server(tmp_path, {"steps": 120, "delay": 0.01}) as (running, talk):
        job = await talk.train()
        for step in (5, 40):
            await after_step(talk, job, step)
            await running.kill()
            talk = await running.start()
        events = await talk.events(job.name)
        assert_whole(events)
        assert steps(events) == [(1, step) for step in range(1, 121)]


async def test_a_worker_that_ends_while_the_service_is_down_is_read_from_its_journal(tmp_path):
    script = {"steps": 12, "delay": 0.02, "offline_after": 4}
    async with server(tmp_path, script) as (running, talk):
        job = await talk.train()
        await after_step(talk, job, 4)
        attempt = tmp_path / "data" / "jobs" / job.uid / "attempts" / "1"
        async with asyncio.timeout(60):
            while not any(event.HasField("outcome") for event in events_after(attempt, 0)):
                await asyncio.sleep(0.02)
        await running.kill()
        for pid in worker_pids(tmp_path):
            os.kill(pid, signal.SIGKILL)
        talk = await running.start()
        events = await talk.events(job.name)
        assert_whole(events)
        assert steps(events) == [(1, step) for step in range(1, 13)]
        assert events[-1].terminal.state == job_pb2.JOB_STATE_SUCCEEDED


async def test_an_acknowledged_job_survives_and_the_same_request_finds_it(tmp_path):
    async with server(tmp_path, {"steps": 2}) as (running, talk):
        dataset = (await talk.upload(jsonl(ROWS))).name
        job = await talk.train(dataset=dataset, request_id="r1", suspended=True)
        await running.kill()
        talk = await running.start()
        assert (await talk.train(dataset=dataset, request_id="r1", suspended=True)).name == job.name
        assert (await talk.job(job.name)).blocked_by.startswith("suspended")


async def test_a_cancel_outlives_the_service(tmp_path):
    async with server(tmp_path, {"steps": 1000, "delay": 0.02, "deaf": True}, cancel_grace=1.0) as (running, talk):
        job = await talk.train()
        await after_step(talk, job, 2)
        await talk.cancel(job.name)
        await running.kill()
        talk = await running.start()
        events = await talk.events(job.name)
        assert_whole(events)
        assert events[-1].terminal.state == job_pb2.JOB_STATE_CANCELLED
        await all_gone(tmp_path)


@pytest.mark.parametrize(
    ("modes", "save"),
    [
        ([trainer_pb2.CANCEL_MODE_CHECKPOINT], True),
        ([trainer_pb2.CANCEL_MODE_NOW], False),
        ([trainer_pb2.CANCEL_MODE_CHECKPOINT, trainer_pb2.CANCEL_MODE_NOW], False),
    ],
)
async def test_a_cancel_that_saves_first_does_so_also_after_the_service_was_killed(tmp_path, monkeypatch, modes, save):
    from finetree_trainer.workers.supervisor import Supervisor

    script = {"steps": 1000, "delay": 0.02, "deaf": True}
    running = Server(tmp_path, script, cancel_grace=5.0, checkpoint_grace=5.0)
    # Killed once the last cancel is in the log, before the worker is told.
    running.within = ("env", f"FINETREE_FAIL_POINT=cancel.after_commit:{len(modes)}")
    talk = await running.start()
    job = await talk.train()
    await after_step(talk, job, 2)
    with contextlib.suppress(grpc.aio.AioRpcError):
        for mode in modes:
            await talk.cancel(job.name, mode)
    assert await asyncio.wait_for(running.process.wait(), 60) == -signal.SIGKILL
    await running.kill()
    told, cancel = [], Supervisor.cancel

    def listen(self, uid, attempt, *, save, **more) -> None:  # noqa: ANN003
        told.append(save)
        cancel(self, uid, attempt, save=save, **more)

    monkeypatch.setattr(Supervisor, "cancel", listen)
    async with trainer(tmp_path, script) as talk:
        events = await talk.events(job.name)
    assert_whole(events)
    assert events[-1].terminal.state == job_pb2.JOB_STATE_CANCELLED
    assert told == [save]


async def test_sigterm_leaves_the_worker_and_ends_with_zero(tmp_path):
    async with server(tmp_path, {"steps": 200, "delay": 0.02}) as (running, talk):
        job = await talk.train()
        await after_step(talk, job, 3)
        assert await running.stop() == 0
        assert all(lives(pid) for pid in worker_pids(tmp_path))
        talk = await running.start()
        events = await talk.events(job.name)
        assert_whole(events)
        assert steps(events) == [(1, step) for step in range(1, 201)]


async def test_a_killed_worker_is_followed_by_another_attempt(tmp_path):
    async with trainer(tmp_path, {"steps": 10, "delay": 0.01, "kill_at": {"1": 6, "2": 4}}) as talk:
        job = await talk.train()
        events = await talk.events(job.name)
        assert_whole(events)
        assert steps(events) == [
            *((1, step) for step in range(1, 6)),
            *((2, step) for step in range(1, 4)),
            *((3, step) for step in range(1, 11)),
        ]
        assert states(events) == [
            *("QUEUED", "PREPARING", "RUNNING", "RECOVERING", "PREPARING", "RUNNING", "RECOVERING"),
            *("PREPARING", "RUNNING", "SUCCEEDED"),
        ]
        reasons = [e.attempt_started.reason for e in events if e.kind == event_pb2.EVENT_KIND_ATTEMPT_STARTED]
        recovered = event_pb2.ATTEMPT_REASON_RECOVERED
        assert reasons == [event_pb2.ATTEMPT_REASON_FIRST, recovered, recovered]
        assert any("SIGKILL" in e.message for e in events)


def hidden(tmp_path):
    return sorted(path.name for path in (tmp_path / "data" / "jobs").rglob(".*"))


async def test_what_a_killed_worker_has_half_written_is_removed(tmp_path):
    script = {"steps": 4, "kill_at": {"1": 3, "2": 3}, "drafts": True, "artifact": True}
    async with trainer(tmp_path, script) as talk:
        job = await talk.train()
        assert_whole(await talk.events(job.name))
        async with asyncio.timeout(60):
            while hidden(tmp_path):
                await asyncio.sleep(0.02)
        artifacts = tmp_path / "data" / "jobs" / job.uid / "attempts" / "3" / "artifacts"
        assert (artifacts / "adapter" / "weights.bin").is_file()
        # Each of the two that were killed in the middle of a save had left 2000 bytes and more.
        dead = [tmp_path / "data" / "jobs" / job.uid / "attempts" / n / "artifacts" for n in ("1", "2")]
        places = [tmp_path / "data" / "jobs" / job.uid / "checkpoints", *dead]
        assert sum(file.stat().st_size for place in places for file in place.rglob("*")) == 0
    left = tmp_path / "data" / "jobs" / job.uid / "checkpoints" / ".step-9.1.tmp"
    left.mkdir(parents=True)
    async with trainer(tmp_path, script), asyncio.timeout(60):
        while left.exists():
            await asyncio.sleep(0.02)


async def test_a_worker_that_dies_each_time_fails_the_job_within_its_budget(tmp_path):
    async with trainer(tmp_path, {"steps": 10, "kill_at": {"1": 2, "2": 2, "3": 2}}) as talk:
        job = await talk.train()
        events = await talk.events(job.name)
        assert_whole(events)
        terminal = events[-1].terminal
        assert terminal.state == job_pb2.JOB_STATE_FAILED
        assert terminal.failure_category == job_pb2.FAILURE_CATEGORY_SYSTEM
        assert terminal.retryable
        assert (await talk.job(job.name)).state_reason.code == "WORKER_LOST"
        assert events[-1].attempt == 3


async def test_an_interruption_costs_nothing_of_the_failure_budget(tmp_path):
    async with trainer(tmp_path, {"steps": 3, "outcome": "interrupted_once"}, system_retries=0) as talk:
        job = await talk.train()
        events = await talk.events(job.name)
        assert_whole(events)
        assert events[-1].terminal.state == job_pb2.JOB_STATE_SUCCEEDED
        assert "RECOVERING" in states(events)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGXCPU])
async def test_a_worker_killed_while_it_is_cancelled_ends_cancelled(tmp_path, number):
    async with trainer(tmp_path, {"steps": 1000, "delay": 0.02, "deaf": True}, cancel_grace=5.0) as talk:
        job = await talk.train()
        await after_step(talk, job, 2)
        await talk.cancel(job.name)
        for pid in worker_pids(tmp_path):
            os.kill(pid, number)
        events = await talk.events(job.name)
        assert_whole(events)
        assert events[-1].terminal.state == job_pb2.JOB_STATE_CANCELLED


async def test_a_prewarmed_worker_takes_the_job_and_does_not_outlive_the_service(tmp_path):
    async with trainer(tmp_path, {"profile": 1e12, "steps": 2}, prewarm=True) as talk:
        await talk.measured()
        warm = worker_pids(tmp_path)
        assert len(warm) == 1
        job = await talk.train()
        assert_whole(await talk.events(job.name))
    await all_gone(tmp_path)


async def test_a_worker_whose_outcome_was_shown_but_not_yet_noted_does_not_outlive_the_service(tmp_path, monkeypatch):
    from finetree_trainer.joblog import states
    from finetree_trainer.joblog.log import EventLog

    change, never = EventLog.change, asyncio.Event()

    async def held(*arguments: object, **options: object) -> object:
        """Watchers see an outcome as soon as it is stored; whoever stored it goes on later, here never."""
        stored = await change(*arguments, **options)
        if stored.row.state in states.TERMINAL:
            await never.wait()
        return stored

    monkeypatch.setattr(EventLog, "change", held)
    async with trainer(tmp_path, {"steps": 2, "linger": True}) as talk:
        assert_whole(await talk.events((await talk.train()).name))
    await all_gone(tmp_path)


async def test_a_service_that_stops_while_it_begins_an_attempt_costs_the_job_none(tmp_path, monkeypatch):
    from finetree_trainer.joblog.log import EventLog

    change, never = EventLog.change, asyncio.Event()

    async def held(*arguments: object, **options: object) -> object:
        """The attempt is stored and shown; whoever began it would go on later, and meets the end of the service."""
        stored = await change(*arguments, **options)
        if stored.row.state == job_pb2.JOB_STATE_PREPARING:
            await never.wait()
        return stored

    script = {"steps": 3, "start_delay": 1.0}
    with monkeypatch.context() as patch:
        patch.setattr(EventLog, "change", held)
        async with trainer(tmp_path, script) as talk:
            job = await talk.train()
            await talk.until(job.name, lambda e: e.state_changed.current == job_pb2.JOB_STATE_PREPARING)
    async with trainer(tmp_path, script) as talk:
        events = await talk.events(job.name)
        assert_whole(events)
        assert steps(events) == [(1, 1), (1, 2), (1, 3)]


async def test_a_job_whose_dead_worker_is_buried_while_the_service_starts_is_not_forgotten(tmp_path, monkeypatch):
    """What the start read of it before says that it runs; the queue must not take that for news."""
    async with trainer(tmp_path, {"steps": 1000, "delay": 0.05}) as talk:
        job = await talk.train()
        await after_step(talk, job, 1)
        process = talk.application._supervisor.worker_of(job.uid, 1).process
    os.kill(process.pid, signal.SIGKILL)
    await process.dead.wait()
    recall = application.recall_use

    async def when_it_is_buried(log, use, *, node) -> None:
        while (await log.row(job.uid)).state != job_pb2.JOB_STATE_RECOVERING:
            await asyncio.sleep(0.01)
        await recall(log, use, node=node)

    monkeypatch.setattr(application, "recall_use", when_it_is_buried)
    async with trainer(tmp_path, {"steps": 4}) as talk:
        events = await talk.events(job.name)
    assert_whole(events)
    assert states(events) == ["QUEUED", "PREPARING", "RUNNING", "RECOVERING", "PREPARING", "RUNNING", "SUCCEEDED"]


async def test_a_dead_prewarmed_worker_harms_no_job(tmp_path):
    async with trainer(tmp_path, {"profile": 1e12, "steps": 2}, prewarm=True) as talk:
        await talk.measured()
        os.kill(worker_pids(tmp_path)[0], signal.SIGKILL)
        assert_whole(await talk.events((await talk.train()).name))


async def test_a_folder_of_a_newer_version_is_not_touched(tmp_path):
    import sqlite3

    running = Server(tmp_path, {})
    talk = await running.start()
    await talk.upload(jsonl(ROWS))
    await running.kill()
    database = sqlite3.connect(tmp_path / "data" / "trainer.db")
    database.execute("UPDATE meta SET value = '99' WHERE key = 'schema_version'")
    database.commit()
    database.close()
    with pytest.raises(AssertionError):
        await running.start()
    assert running.process is not None
    assert running.process.returncode == 2
