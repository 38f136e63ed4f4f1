# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN003 - fields of a protobuf message
"""PauseJob and ResumeJob: what runs gives its device back, what waits is suspended, both go on; also over restarts."""

import asyncio
import contextlib
import signal

import grpc
import pytest
from finetree_api.trainer.v1 import event_pb2, job_pb2
from trainer_harness import ROWS, assert_whole, jsonl, refusal, server, states, steps, trainer, write_script

STEP = event_pb2.EVENT_KIND_STEP_METRICS
LONG = {"steps": 1000, "delay": 0.01}


def is_step(event):
    return event.kind == STEP


def reached(state):
    return lambda event: event.kind == event_pb2.EVENT_KIND_STATE_CHANGED and event.state_changed.current == state


async def paused(talk, name, **fields):
    """Pause a job that has begun, and wait until it is."""
    await talk.until(name, is_step)
    asked = await talk.pause(name, **fields)
    # A worker may obey before the answer is made.
    assert asked.state in {job_pb2.JOB_STATE_PAUSING, job_pb2.JOB_STATE_PAUSED}
    await talk.until(name, reached(job_pb2.JOB_STATE_PAUSED))
    return await talk.job(name)


async def refused(call):
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return refusal(error.value)


async def test_a_paused_job_gives_its_device_to_others_and_goes_on_in_a_new_attempt(tmp_path):
    async with trainer(tmp_path, LONG) as talk:
        dataset = (await talk.upload(jsonl(ROWS))).name
        first = await talk.train(dataset=dataset)
        job = await paused(talk, first.name)
        assert (job.attempt, list(job.placements), job.queue_position) == (1, [], 0)
        assert job.state_reason.code == "PAUSED"
        assert job.HasField("pause_time")
        assert list(job.allowed_actions) == [job_pb2.JOB_ACTION_CANCEL, job_pb2.JOB_ACTION_RESUME]
        write_script(tmp_path, {"steps": 2})
        second = await talk.train(dataset=dataset)
        assert_whole(await talk.events(second.name))
        resumed = await talk.resume(first.name)
        assert not resumed.HasField("pause_time")
        waited = resumed.update_time.ToMicroseconds() - job.pause_time.ToMicroseconds()
        assert resumed.paused_duration.ToMicroseconds() == waited
        events = await talk.events(first.name)
        assert_whole(events)
        assert states(events) == [
            *("QUEUED", "PREPARING", "RUNNING", "PAUSING", "PAUSED"),
            *("QUEUED", "PREPARING", "RUNNING", "SUCCEEDED"),
        ]
        assert steps(events)[-2:] == [(2, 1), (2, 2)]
        reasons = [e.attempt_started.reason for e in events if e.kind == event_pb2.EVENT_KIND_ATTEMPT_STARTED]
        assert reasons == [event_pb2.ATTEMPT_REASON_FIRST, event_pb2.ATTEMPT_REASON_RESUMED]


async def test_a_job_that_waits_is_suspended_and_keeps_its_place_or_not(tmp_path):
    async with trainer(tmp_path, LONG) as talk:
        dataset = (await talk.upload(jsonl(ROWS))).name
        runs = await talk.train(dataset=dataset)
        await talk.until(runs.name, is_step)
        one, two, three = [(await talk.train(dataset=dataset)).name for _ in range(3)]

        async def positions() -> list[int]:
            return [(await talk.job(name)).queue_position for name in (one, two, three)]

        assert await positions() == [1, 2, 3]
        job = await talk.pause(one, keep_place=True)
        assert (job.state, job.suspended, job.state_reason.code) == (job_pb2.JOB_STATE_QUEUED, True, "SUSPENDED")
        assert not job.HasField("pause_time"), "no attempt has begun, so that no limit counts"
        assert (await positions())[1:] == [1, 2]
        job = await talk.resume(one)
        assert (job.suspended, job.queue_position, job.state_reason.code) == (False, 1, "WAITING_FOR_DEVICE")
        await talk.pause(one)
        await talk.resume(one)
        assert await positions() == [3, 1, 2]
        for name in (one, two, three, runs.name):
            await talk.cancel(name)


async def test_a_job_created_suspended_is_lifted(tmp_path):
    async with trainer(tmp_path) as talk:
        job = await talk.train(suspended=True)
        assert job_pb2.JOB_ACTION_RESUME in job.allowed_actions
        assert not (await talk.resume(job.name)).suspended
        assert_whole(await talk.events(job.name))


async def test_what_cannot_be_paused_or_resumed_is_refused_by_name_and_changes_nothing(tmp_path):
    async with trainer(tmp_path, {"steps": 3}) as talk:
        dataset = (await talk.upload(jsonl(ROWS))).name
        prepares = (await talk.prepare(dataset=dataset, model="")).name
        trained = (await talk.train(dataset=dataset)).name
        for name in (prepares, trained):
            await talk.events(name)
            last = (await talk.job(name)).last_seq
            code, reason, info, _ = await refused(talk.pause(name))
            assert (code, reason) == ("FAILED_PRECONDITION", "JOB_NOT_PAUSABLE")
            assert info.metadata["task"] == ("PREPARE" if name == prepares else "TRAIN")
            code, reason, info, _ = await refused(talk.resume(name))
            assert (code, reason) == ("FAILED_PRECONDITION", "JOB_NOT_PAUSED")
            assert info.metadata["state"] == "SUCCEEDED"
            assert (await talk.job(name)).last_seq == last


async def test_the_same_request_pauses_once(tmp_path):
    async with trainer(tmp_path, LONG) as talk:
        job = await paused(talk, (await talk.train()).name, request_id="once")
        again = await talk.pause(job.name, request_id="once")
        assert (again.state, again.last_seq) == (job_pb2.JOB_STATE_PAUSED, job.last_seq)
        assert (await refused(talk.pause(job.name, request_id="once", keep_place=True)))[1] == "REQUEST_ID_REUSED"
        assert (await refused(talk.pause(job.name)))[1] == "JOB_NOT_PAUSABLE"
        assert (await talk.cancel(job.name)).state == job_pb2.JOB_STATE_CANCELLED
        assert_whole(await talk.events(job.name))


async def test_a_worker_that_does_not_listen_is_ended_and_its_job_paused(tmp_path):
    async with trainer(tmp_path, LONG | {"deaf": True}) as talk:
        job = await paused(talk, (await talk.train()).name)
        assert "Its worker ended before" in job.state_reason.text
        await talk.cancel(job.name)


async def test_cancel_overrules_a_pause(tmp_path):
    async with trainer(tmp_path, LONG | {"deaf": True}, checkpoint_grace=30.0) as talk:
        name = (await talk.train()).name
        await talk.until(name, is_step)
        assert (await talk.pause(name)).state == job_pb2.JOB_STATE_PAUSING
        await talk.cancel(name)
        events = await talk.events(name)
        assert_whole(events)
        assert states(events)[-3:] == ["PAUSING", "CANCELLING", "CANCELLED"]


async def test_pauses_hold_over_restarts_of_the_service(tmp_path):
    async with server(tmp_path, LONG | {"deaf": True}, checkpoint_grace=1.5) as (running, before):
        dataset = (await before.upload(jsonl(ROWS))).name
        name, waits = [(await before.train(dataset=dataset)).name for _ in range(2)]
        await before.until(name, is_step)
        await before.pause(waits, keep_place=True)
        assert (await before.pause(name)).state == job_pb2.JOB_STATE_PAUSING
        await running.kill()
        talk = await running.start()
        await talk.until(name, reached(job_pb2.JOB_STATE_PAUSED))
        await running.kill()
        write_script(tmp_path, {"steps": 2})
        # Killed once more when the attempt after the pause has begun, and its worker does not know of it.
        running.within = ("env", "FINETREE_FAIL_POINT=attempt.after_begin")
        talk = await running.start()
        job = await talk.job(name)
        assert (job.state, job.HasField("pause_time")) == (job_pb2.JOB_STATE_PAUSED, True)
        assert (await talk.job(waits)).suspended
        with contextlib.suppress(grpc.aio.AioRpcError):
            await talk.resume(name)
        assert await asyncio.wait_for(running.process.wait(), 60) == -signal.SIGKILL
        running.within = ()
        talk = await running.start()
        for each in (name, waits):
            if each == waits:
                await talk.resume(each)
            events = await talk.events(each)
            assert_whole(events)
            assert events[-1].terminal.state == job_pb2.JOB_STATE_SUCCEEDED
            if each == name:
                starts = [e.attempt_started for e in events if e.kind == event_pb2.EVENT_KIND_ATTEMPT_STARTED]
                assert starts[-1].reason == event_pb2.ATTEMPT_REASON_RESUMED
