# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN002, ANN003 - arguments are fields of protobuf messages
"""Two workers for one job: only the present attempt is heard. The test itself speaks for the stale one."""

import asyncio
import contextlib
import json
import os
import signal

import grpc
import pytest
from finetree_api.trainer.v1 import event_pb2, job_pb2
from finetree_api.worker.v1 import worker_pb2, worker_pb2_grpc
from trainer_harness import OPTIONS, assert_whole, refusal, states, steps, trainer

SILENT = {"never_attach": True}
UNKNOWN = ("UNAUTHENTICATED", "WORKER_TOKEN_INVALID")


async def secret(tmp_path, count=1):
    """Address, token and process of the newest worker, of which there have been so many."""
    async with asyncio.timeout(60):
        while True:
            found = sorted((tmp_path / "data" / "workers").glob("*/secret.txt"))
            if len(found) >= 1 and count <= len(list((tmp_path / "data" / "workers").iterdir())):
                text = found[-1].read_text().split()
                if len(text) == 2:
                    return (*text, json.loads(found[-1].with_name("process.json").read_text())["pid"])
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def attached(address, **hello):
    """A stream that has said hello, and the answer to it."""
    async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
        call = worker_pb2_grpc.WorkerServiceStub(channel).Attach()
        fields = {"protocol_version": 1, **hello}
        await call.write(worker_pb2.AttachRequest(hello=worker_pb2.Hello(**fields)))
        yield call, await asyncio.wait_for(call.read(), 60)
        call.cancel()


async def refused(address, **hello):
    """Code and reason that a hello is refused with."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        async with attached(address, **hello):
            pass
    return refusal(error.value)[:2]


async def receive(call, kind, seconds=60.0):
    """The next message of a kind."""
    async with asyncio.timeout(seconds):
        while True:
            response = await call.read()
            assert response is not grpc.aio.EOF, f"the stream ended before {kind}"
            if response.WhichOneof("message") == kind:
                return getattr(response, kind)


def step(seq, number=None):
    event = event_pb2.JobEvent(step_metrics=event_pb2.StepMetrics(step=number or seq, total_steps=9))
    return worker_pb2.WorkerEvent(worker_seq=seq, event=event)


def batch(*events):
    return worker_pb2.AttachRequest(events=worker_pb2.WorkerEventBatch(events=events))


def outcome(seq):
    done = worker_pb2.TaskOutcome(kind=worker_pb2.OUTCOME_KIND_SUCCEEDED)
    return worker_pb2.WorkerEvent(worker_seq=seq, outcome=done)


async def task_of(call, answer):
    return answer.welcome.task if answer.welcome.HasField("task") else await receive(call, "task")


async def test_the_events_of_a_stale_attempt_are_refused(tmp_path):
    async with trainer(tmp_path, SILENT) as talk:
        job = await talk.train()
        address, token, pid = await secret(tmp_path)
        async with attached(address, token=token) as (call, answer):
            old = await task_of(call, answer)
            await call.write(batch(step(1), step(2)))
            assert (await receive(call, "acknowledge")).acknowledged == 2
            # The process dies, which is proven; the stream that speaks for it stays open and goes on talking.
            os.kill(pid, signal.SIGKILL)
            await talk.until(job.name, lambda e: e.attempt == 2)
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await call.write(batch(step(3), outcome(4)))
        identity = {"task_kind": job_pb2.TASK_KIND_TRAIN, "job": old.job}
        async with attached(address, attempt=1, token=old.token, **identity) as (_, answer):
            assert answer.fenced.current_attempt == 2
        address, token, _ = await secret(tmp_path)
        async with attached(address, token=token) as (call, answer):
            new = await task_of(call, answer)
            assert new.attempt == 2
            assert new.token != old.token
            assert await refused(address, attempt=2, token=old.token, **identity) == UNKNOWN
            await call.write(batch(step(1), outcome(2)))
            events = await talk.events(job.name)
        assert_whole(events)
        assert steps(events) == [(1, 1), (1, 2), (2, 1)]
        assert states(events)[-1] == "SUCCEEDED"


async def test_what_is_sent_again_is_logged_once_and_a_gap_is_never_filled(tmp_path):
    async with trainer(tmp_path, SILENT) as talk:
        job = await talk.train()
        address, token, _ = await secret(tmp_path)
        async with attached(address, token=token) as (call, answer):
            task = await task_of(call, answer)
            await call.write(batch(step(1), step(2), step(3)))
            await receive(call, "acknowledge")
            await call.write(batch(step(2), step(3), step(4)))
            assert (await receive(call, "acknowledge")).acknowledged == 4
            await call.write(batch(step(6)))
            with pytest.raises(AssertionError, match="the stream ended"):
                await receive(call, "acknowledge")
        identity = {"task_kind": job_pb2.TASK_KIND_TRAIN, "job": task.job, "attempt": 1, "token": task.token}
        async with attached(address, **identity) as (call, answer):
            assert answer.welcome.acknowledged == 4
            await call.write(batch(step(5), step(6), outcome(7)))
            events = await talk.events(job.name)
        assert_whole(events)
        assert steps(events) == [(1, number) for number in range(1, 7)]


async def test_a_newer_stream_of_a_worker_replaces_the_older_one(tmp_path):
    async with trainer(tmp_path, SILENT) as talk:
        job = await talk.train()
        address, token, _ = await secret(tmp_path)
        async with attached(address, token=token) as (older, answer):
            task = await task_of(older, answer)
            identity = {"task_kind": job_pb2.TASK_KIND_TRAIN, "job": task.job, "attempt": 1, "token": task.token}
            async with attached(address, **identity) as (newer, _):
                async with asyncio.timeout(60):
                    while await older.read() is not grpc.aio.EOF:
                        pass
                await newer.write(batch(step(1), outcome(2)))
                assert_whole(await talk.events(job.name))


@pytest.mark.parametrize(
    ("hello", "expected"),
    [
        ({"token": "guess"}, UNKNOWN),
        ({"token": "guess", "task_kind": job_pb2.TASK_KIND_TRAIN, "job": "x"}, UNKNOWN),
        ({"token": "guess", "protocol_version": 2}, ("FAILED_PRECONDITION", "PROTOCOL_VERSION_MISMATCH")),
        ({"token": "guess", "protocol_version": 0}, ("FAILED_PRECONDITION", "PROTOCOL_VERSION_MISMATCH")),
    ],
)
async def test_a_stranger_is_sent_away(tmp_path, hello, expected):
    async with trainer(tmp_path, SILENT) as talk:
        job = await talk.train()
        address, _, _ = await secret(tmp_path)
        assert await refused(address, **hello) == expected
        await talk.cancel(job.name)


async def test_a_worker_cannot_speak_for_the_service(tmp_path):
    async with trainer(tmp_path, SILENT) as talk:
        job = await talk.train()
        address, token, _ = await secret(tmp_path)
        forged = [
            event_pb2.JobEvent(terminal=event_pb2.Terminal(state=job_pb2.JOB_STATE_FAILED)),
            event_pb2.JobEvent(state_changed=event_pb2.StateChanged(current=job_pb2.JOB_STATE_FAILED)),
            event_pb2.JobEvent(log_line=event_pb2.LogLine(text="x" * 2_000_000)),
            event_pb2.JobEvent(job="another", seq=77, attempt=9, log_line=event_pb2.LogLine(text="fine")),
        ]
        async with attached(address, token=token) as (call, answer):
            await task_of(call, answer)
            numbered = [worker_pb2.WorkerEvent(worker_seq=i, event=e) for i, e in enumerate(forged, start=1)]
            await call.write(batch(*numbered, outcome(5)))
            events = await talk.events(job.name)
        assert_whole(events)
        assert states(events)[-1] == "SUCCEEDED"
        assert [e.alert.code for e in events if e.kind == event_pb2.EVENT_KIND_ALERT] == ["EVENT_TOO_LARGE"]
        assert {(e.job, e.attempt) for e in events if e.kind == event_pb2.EVENT_KIND_LOG_LINE} == {(job.name, 1)}


async def test_a_worker_of_which_nothing_can_be_known_is_waited_out(tmp_path):
    grace = {"orphan_grace": 1.0, "checkpoint_grace": 0.2}
    async with trainer(tmp_path, {**SILENT}, **grace) as talk:
        job = await talk.train()
        _, _, pid = await secret(tmp_path)
    # Without its lock nobody can say whether the worker lives.
    for lock in (tmp_path / "data" / "workers").glob("*/alive.lock"):
        lock.unlink()
    async with trainer(tmp_path, {"steps": 2}, **grace) as talk:
        assert (await talk.job(job.name)).attempt == 1
        assert (await talk.job(job.name)).state == job_pb2.JOB_STATE_PREPARING
        events = await talk.events(job.name)
        assert_whole(events)
        assert events[-1].attempt == 2
        lost = next(e for e in events if e.state_changed.reason.code == "WORKER_LOST")
        started = next(e for e in events if e.attempt == 1)
        assert lost.event_time.ToMicroseconds() - started.event_time.ToMicroseconds() >= 1_200_000
    os.kill(pid, signal.SIGKILL)
