# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ASYNC110 - what is waited for is another process, or shows in an answer alone
"""The store goes away: at every write of the control plane, on a disk that is really full, behind another's lock."""

import asyncio
import contextlib
import errno
import functools
import inspect
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import grpc
import psutil
import pytest
from finetree_api.trainer.v1 import capacity_pb2, event_pb2, job_pb2, trainer_pb2
from finetree_trainer import outages
from finetree_trainer.api import worker_servicer
from finetree_trainer.estimator import EstimateUnavailableError
from finetree_trainer.jobs import observations
from finetree_trainer.jobs.lifecycle import time_limits
from finetree_trainer.store.writer import Writer
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2, health_pb2_grpc
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy.exc import OperationalError
from trainer_harness import (
    ROWS,
    FixedEstimator,
    Server,
    assert_whole,
    job_request,
    jsonl,
    refusal,
    states,
    steps,
    trainer,
)

STEP = event_pb2.EVENT_KIND_STEP_METRICS
SERVICE = "finetree_api.trainer.v1.TrainerService"
REFUSED_COMMITS = 6
"""Transactions that an outage refuses: as many as a lock of 30 s does with the writer's patience of 5 s."""
AWAY = {"full": ("RESOURCE_EXHAUSTED", "DISK_FULL"), "locked": ("UNAVAILABLE", "STORE_UNAVAILABLE")}
"""What a client is told. Another database has faults of its own: test_postgresql_faults.py adds them here."""


@pytest.fixture
def soon(monkeypatch):
    """Pauses and ticks as short as a test's."""
    monkeypatch.setattr(outages, "FIRST_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(outages, "LONGEST_RETRY_SECONDS", 0.05)
    monkeypatch.setattr(worker_servicer, "RETRY_SECONDS", 0.02)
    monkeypatch.setattr(time_limits, "TICK_SECONDS", 0.05)
    monkeypatch.setattr(observations, "FIRST_DELAY_SECONDS", 0.05)


class Lock:
    """Another process's write lock on the database, without the writer's patience."""

    def __init__(self, talk) -> None:
        store = talk.application._store
        raw = sqlite3.connect(store._writing.url.database, isolation_level=None, check_same_thread=False)
        self.other = raw

    def begin(self) -> None:
        self.other.execute("BEGIN IMMEDIATE")

    def end(self) -> None:
        self.other.execute("ROLLBACK")

    def close(self) -> None:
        self.other.close()


class FullDisk:
    """A commit that fails as on a full disk."""

    def __init__(self, talk) -> None:
        self.full = False
        sqlalchemy_event.listen(talk.application._store._writing, "commit", self._commit)

    def _commit(self, _connection) -> None:
        if self.full:
            cause = sqlite3.OperationalError("database or disk is full")
            cause.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise OperationalError("COMMIT", None, cause)

    def begin(self) -> None:
        self.full = True

    def end(self) -> None:
        self.full = False

    def close(self) -> None:
        self.full = False


FAULTS = {"full": FullDisk, "locked": Lock}


def writer_of(run) -> str:
    """Which function of the control plane decides what a piece of work writes."""
    while isinstance(run, functools.partial):
        run = run.func
    inner = inspect.getclosurevars(run).nonlocals
    deciding = inner.get("decide") or inner.get("make") or run
    return f"{deciding.__module__.rpartition('.')[2]}.{deciding.__qualname__}"


async def impatient(talk) -> None:
    store = talk.application._store
    if store._writing.dialect.name == "sqlite":
        await store.write(lambda connection: connection.exec_driver_sql("PRAGMA busy_timeout = 0").scalar())


@contextlib.contextmanager
def outage_at_every_write(talk, kind, monkeypatch):
    """The first time that a function writes, the store goes away with it; the value is the names of those met."""
    fault = FAULTS[kind](talk)
    commit, met, left = Writer._commit, [], 0

    def refuse(self, connection, group) -> None:
        nonlocal left
        fresh = [name for name in {writer_of(work.run) for work in group} if name not in met]
        if fresh and not left:
            met.extend(fresh)
            left = REFUSED_COMMITS
            fault.begin()
        commit(self, connection, group)
        if left:
            left -= 1
            if not left:
                fault.end()

    monkeypatch.setattr(Writer, "_commit", refuse)
    yield met
    monkeypatch.undo()
    if left:
        fault.end()
    fault.close()


async def insist(kind, call):
    """What a client does: the same call again for as long as the store is away, and for no other reason."""
    while True:
        try:
            return await call()
        except grpc.aio.AioRpcError as error:
            if refusal(error)[:2] != AWAY[kind]:
                raise
            await asyncio.sleep(0.005)


async def health_of(talk) -> int:
    stub = health_pb2_grpc.HealthStub(talk.channel)
    return (await stub.Check(health_pb2.HealthCheckRequest(service=SERVICE))).status


async def free_slots(talk) -> int:
    node = (await talk.stub.GetCapacity(capacity_pb2.GetCapacityRequest())).nodes[0]
    return next(device.free_slots for device in node.devices if device.id == "cpu")


@pytest.mark.parametrize("kind", ["full", "locked"])
async def test_an_outage_at_every_write_costs_no_job(tmp_path, monkeypatch, soon, kind):
    script = {"steps": 12, "delay": 0.01, "kill_at": {"1": 5}, "summary": {"steps": 12, "total_seconds": 1.0}}
    estimator = FixedEstimator()
    estimator.failure = EstimateUnavailableError("down")
    async with trainer(tmp_path, script, estimator) as talk:
        await impatient(talk)
        with outage_at_every_write(talk, kind, monkeypatch) as met:
            content = jsonl(ROWS)
            made = await insist(kind, lambda: talk.create_dataset(content))
            dataset = await insist(kind, lambda: talk.write(made.name, [(0, content)]))

            async def create(name, template=None) -> job_pb2.Job:
                template = job_request(dataset.name, **(template or {}))
                request = trainer_pb2.CreateJobRequest(job=template, request_id=name)
                return (await insist(kind, lambda: talk.stub.CreateJob(request))).job

            ran = await create("ran")
            deadline = Timestamp()
            deadline.FromNanoseconds(time.time_ns() + 10**9)
            late = await create("late", {"suspended": True, "deadline": deadline})
            unwanted = await create("unwanted")
            request = trainer_pb2.CreateJobRequest(job=job_request(""), request_id="without-rows")
            request.job.train.spec.dataset.path = "train.jsonl"
            without_rows = (await insist(kind, lambda: talk.stub.CreateJob(request))).job
            (tmp_path / "rows" / "train.jsonl").unlink()
            events = await talk.events(ran.name)
            await insist(kind, lambda: talk.cancel(unwanted.name))
            ends = [await talk.events(job.name) for job in (late, unwanted)]
            failed = (await talk.events(without_rows.name))[-1].terminal
            async with asyncio.timeout(60):
                while "observations.ObservationReporter._postpone" not in met:
                    await asyncio.sleep(0.02)
                estimator.failure = None
                while await free_slots(talk) == 0 or "observations._remove" not in met:
                    await asyncio.sleep(0.02)
        assert_whole(events)
        # The worker's death costs an attempt, and no outage does.
        assert steps(events) == [*((1, step) for step in range(1, 5)), *((2, step) for step in range(1, 13))]
        assert events[-1].terminal.state == job_pb2.JOB_STATE_SUCCEEDED
        for told in ends:
            assert_whole(told)
            assert told[-1].terminal.state == job_pb2.JOB_STATE_CANCELLED
        assert failed.state == job_pb2.JOB_STATE_FAILED
        assert failed.failure_category == job_pb2.FAILURE_CATEGORY_USER
        assert estimator.reported.qsize() >= 1
        assert {
            *("jobs.Jobs.create.<locals>.make", "jobs.Jobs.cancel.<locals>.decide"),
            *("waiting.announce.<locals>.decide", "starting._fail.<locals>.decide"),
            *("supervisor.Supervisor.start.<locals>.begin", "supervisor.Supervisor.ingest.<locals>.add"),
            *("recovery._replay.<locals>.add", "recovery.close_attempt.<locals>.close"),
        } <= set(met)
        assert await health_of(talk) == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("kind", ["full", "locked"])
async def test_an_outage_while_a_worker_comes_back_to_another_service_costs_no_attempt(
    tmp_path, monkeypatch, soon, kind
):
    late = {"steps": 3, "start_delay": 1.5}
    async with trainer(tmp_path, late) as talk:
        job = await talk.train()
        await talk.until(job.name, lambda e: e.state_changed.current == job_pb2.JOB_STATE_PREPARING)
    async with trainer(tmp_path, late) as talk:
        await impatient(talk)
        with outage_at_every_write(talk, kind, monkeypatch) as met:
            events = await talk.events(job.name)
        assert_whole(events)
        assert steps(events) == [(1, 1), (1, 2), (1, 3)]
        assert "supervisor.Supervisor.task_for.<locals>.<lambda>" in met


async def test_a_job_that_meets_a_locked_database_waits_and_says_so(tmp_path, soon):
    async with trainer(tmp_path, {"steps": 2}) as talk:
        await impatient(talk)
        lock, queue = Lock(talk), talk.application._queue
        start = queue.start

        async def start_behind_a_lock(uid, slots) -> bool:
            queue.start = start
            lock.begin()
            return await start(uid, slots)

        queue.start = start_behind_a_lock
        job = await talk.train()
        async with asyncio.timeout(60):
            while not (told := (await talk.job(job.name)).blocked_by).startswith("it could not be started"):
                await asyncio.sleep(0.01)
        assert told == "it could not be started (STORE_UNAVAILABLE) and is tried again"
        lock.end()
        lock.close()
        events = await talk.events(job.name)
        assert_whole(events)
        assert states(events) == ["QUEUED", "PREPARING", "RUNNING", "SUCCEEDED"]


async def test_a_full_disk_where_a_worker_starts_costs_no_attempt(tmp_path, soon, monkeypatch):
    from finetree_trainer.workers import process, task

    async with trainer(tmp_path, {"steps": 2}) as talk:
        refused = []
        for module in (process, task):
            make = module.own_folder

            def fail_first(folder, user, make=make, module=module) -> Path:
                if refused.count(module) < 3:
                    refused.append(module)
                    raise OSError(errno.ENOSPC, "No space left on device")
                return make(folder, user)

            monkeypatch.setattr(module, "own_folder", fail_first)
        events = await talk.events((await talk.train()).name)
        assert_whole(events)
        assert states(events) == ["QUEUED", "PREPARING", "RUNNING", "SUCCEEDED"]
        assert events[-1].attempt == 1
        assert len(refused) == 6


async def test_a_loop_that_has_died_ends_readiness(tmp_path, monkeypatch):
    async with trainer(tmp_path, {"steps": 2}) as talk:
        assert await health_of(talk) == health_pb2.HealthCheckResponse.SERVING
        queue = talk.application._queue
        monkeypatch.setattr(queue, "_announce_positions", lambda: 1 / 0)
        queue.wake()
        async with asyncio.timeout(60):
            while await health_of(talk) != health_pb2.HealthCheckResponse.NOT_SERVING:
                await asyncio.sleep(0.01)
        # It stays so, whatever else of the service becomes ready.
        await talk.application._service.set_ready(ready=True)
        assert await health_of(talk) == health_pb2.HealthCheckResponse.NOT_SERVING


SMALL_DISK = 'mount -t tmpfs -o size=6m tmpfs "$0" && exec "$@"'


def small_disk(folder: Path) -> tuple[str, ...]:
    """A command that runs another with a file system of 6 MB at a folder, which nobody else sees."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", SMALL_DISK, str(folder))
    if (
        shutil.which("unshare") is None
        or subprocess.run([*command, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("this machine lets nobody mount a file system of his own")
    return command


def fill(file: Path) -> None:
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as stream:
        while stream.write(b"x" * 4096):
            pass


async def test_a_worker_that_dies_on_a_full_disk_frees_its_slot_and_its_job_goes_on(tmp_path):
    running = Server(tmp_path, {"steps": 300, "delay": 0.02}, disk_reserve_bytes=0)
    data = tmp_path / "data"
    running.within = small_disk(data)
    try:
        talk = await running.start()
        inside = Path(f"/proc/{running.process.pid}/root") / data.relative_to("/")
        job = await talk.train()
        await talk.until(job.name, lambda e: e.kind == STEP)
        (tmp_path / "script.json").write_text(json.dumps({"steps": 3}))
        note = json.loads(next((inside / "workers").glob("*/process.json")).read_text())
        fill(inside / "filler")
        with contextlib.suppress(ProcessLookupError):
            os.kill(note["pid"], signal.SIGKILL)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await talk.create_dataset(b"{}\n", labels={"x": "y"})
        assert refusal(error.value)[:2] == AWAY["full"]
        async with asyncio.timeout(60):
            while await free_slots(talk) == 0:
                await asyncio.sleep(0.02)
        assert (await talk.job(job.name)).state == job_pb2.JOB_STATE_RUNNING
        (inside / "filler").unlink()
        events = await talk.events(job.name)
        assert_whole(events)
        assert states(events) == [
            *("QUEUED", "PREPARING", "RUNNING", "RECOVERING", "PREPARING", "RUNNING", "SUCCEEDED"),
        ]
        assert events[-1].attempt == 2
    finally:
        if running.process.returncode is None:
            for worker in psutil.Process(running.process.pid).children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    worker.kill()
        await running.kill()
