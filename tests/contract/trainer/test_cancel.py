# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ASYNC110 - a process that is gone sets no event
import asyncio

import psutil
import pytest
from finetree_api.trainer.v1 import event_pb2, job_pb2, trainer_pb2
from trainer_harness import ROWS, assert_whole, jsonl, states, trainer, write_whole_script

STEP = event_pb2.EVENT_KIND_STEP_METRICS


def workers(tmp_path):
    """Processes that a trainer of this folder has started, and what these have started."""
    return [
        process.info["cmdline"]
        for process in psutil.process_iter(["cmdline", "cwd", "status"])
        if str(tmp_path) in (process.info["cwd"] or "") and process.info["status"] != psutil.STATUS_ZOMBIE
    ]


async def gone(tmp_path, seconds=60.0):
    async with asyncio.timeout(seconds):
        while workers(tmp_path):
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("mode", [trainer_pb2.CANCEL_MODE_NOW, trainer_pb2.CANCEL_MODE_CHECKPOINT])
async def test_a_running_job_ends_cancelled_and_leaves_no_process(tmp_path, serve, mode):
    async with serve(tmp_path, {"steps": 1000, "delay": 0.01}) as talk:
        job = await talk.train()
        await talk.until(job.name, lambda e: e.kind == STEP)
        asked = await talk.cancel(job.name, mode)
        # A worker may obey before the answer is made.
        assert asked.state in {job_pb2.JOB_STATE_CANCELLING, job_pb2.JOB_STATE_CANCELLED}
        assert job_pb2.JOB_ACTION_CANCEL not in asked.allowed_actions
        events = await talk.events(job.name)
        assert_whole(events)
        assert states(events)[-2:] == ["CANCELLING", "CANCELLED"]
        await gone(tmp_path)


async def test_a_worker_that_does_not_listen_is_ended_with_everything_it_started(tmp_path):
    command = write_whole_script(tmp_path, {"steps": 1000, "delay": 0.01, "deaf": True, "child": True})
    async with trainer(tmp_path, worker_command=command) as talk:
        job = await talk.train()
        await talk.until(job.name, lambda e: e.kind == STEP)
        assert len(workers(tmp_path)) == 2
        await talk.cancel(job.name)
        events = await talk.events(job.name)
        assert_whole(events)
        assert events[-1].terminal.state == job_pb2.JOB_STATE_CANCELLED
        await gone(tmp_path)


async def test_a_worker_that_stays_after_its_end_is_ended_and_its_slot_given_on(tmp_path):
    command = write_whole_script(tmp_path, {"linger": True, "child": True})
    async with trainer(tmp_path, worker_command=command) as talk:
        dataset = (await talk.upload(jsonl(ROWS))).name
        jobs = [await talk.train(dataset=dataset) for _ in range(2)]
        for job in jobs:
            assert_whole(await talk.events(job.name))
        await gone(tmp_path)


@pytest.mark.parametrize("script", [{"start_delay": 30}, {"never_attach": True}])
async def test_a_job_whose_worker_still_starts_is_cancelled(tmp_path, script):
    async with trainer(tmp_path, worker_command=write_whole_script(tmp_path, script)) as talk:
        job = await talk.train()
        await talk.until(job.name, lambda e: e.state == job_pb2.JOB_STATE_PREPARING)
        await talk.cancel(job.name)
        events = await talk.events(job.name)
        assert_whole(events)
        assert states(events) == ["QUEUED", "PREPARING", "CANCELLING", "CANCELLED"]
        await gone(tmp_path)


@pytest.mark.parametrize("phase", [job_pb2.JOB_PHASE_LOAD_MODEL, job_pb2.JOB_PHASE_TOKENIZE, job_pb2.JOB_PHASE_SAVE])
async def test_a_job_is_cancelled_in_every_phase(tmp_path, phase):
    async with trainer(tmp_path, {"phases": [phase], "steps": 1000, "delay": 0.3}) as talk:
        job = await talk.train()
        await talk.until(job.name, lambda e: e.phase_progress.phase == phase)
        await talk.cancel(job.name)
        events = await talk.events(job.name)
        assert_whole(events)
        assert events[-1].terminal.state == job_pb2.JOB_STATE_CANCELLED
        await gone(tmp_path)


async def test_a_waiting_job_is_cancelled_at_once_and_cancelling_twice_changes_nothing(tmp_path, serve):
    async with serve(tmp_path) as talk:
        job = await talk.train(suspended=True)
        first = await talk.cancel(job.name)
        assert first.state == job_pb2.JOB_STATE_CANCELLED
        again = await talk.cancel(job.name)
        assert again.last_seq == first.last_seq
        events = await talk.events(job.name)
        assert_whole(events)
        assert (await talk.job(job.name)).queue_position == 0


async def test_cancelling_an_ended_job_changes_nothing(tmp_path, serve):
    async with serve(tmp_path) as talk:
        job = await talk.train()
        await talk.events(job.name)
        assert (await talk.cancel(job.name)).state == job_pb2.JOB_STATE_SUCCEEDED


async def test_a_worker_that_never_attaches_is_given_up_after_its_attempts(tmp_path):
    async with trainer(tmp_path, {"never_attach": True}, start_time=0.3) as talk:
        job = await talk.train()
        events = await talk.events(job.name)
        assert_whole(events)
        assert states(events) == [
            *("QUEUED", "PREPARING", "RECOVERING", "PREPARING", "RECOVERING", "PREPARING"),
            "FAILED",
        ]
        assert events[-1].terminal.failure_category == job_pb2.FAILURE_CATEGORY_SYSTEM
        assert "did not attach" in events[-1].message
        await gone(tmp_path)
