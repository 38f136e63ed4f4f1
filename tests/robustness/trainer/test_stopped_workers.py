# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ASYNC110 - a process that is stopped sets no event
"""Workers that live and do nothing: they are ended, and another attempt follows."""

import asyncio
import os
import signal

import psutil
from finetree_api.trainer.v1 import event_pb2, job_pb2
from trainer_harness import assert_whole, states, steps, trainer, write_script

STEP = event_pb2.EVENT_KIND_STEP_METRICS
NO_CHECKS = {"worker_heartbeat": 3600.0, "orphan_grace": 100 * 3600.0}
"""An interval so long that no check comes but those that the test makes, and a lease of many of them."""


async def stop_and_check(talk, worker) -> None:
    """Stop a worker, and let the service look for its heartbeats until the worker is dead."""
    os.kill(worker.process.pid, signal.SIGSTOP)
    async with asyncio.timeout(60):
        while psutil.Process(worker.process.pid).status() != psutil.STATUS_STOPPED:
            await asyncio.sleep(0.01)
        while not worker.process.dead.is_set():
            talk.application._supervisor.heartbeats.check()
            await asyncio.sleep(0.02)


async def test_a_stopped_worker_is_ended_and_its_job_goes_on(tmp_path):
    async with trainer(tmp_path, {"steps": 1000, "delay": 0.02}, **NO_CHECKS) as talk:
        job = await talk.train()
        await talk.until(job.name, lambda e: e.kind == STEP and e.step_metrics.step == 3)
        write_script(tmp_path, {"steps": 20})  # of the next attempt
        await stop_and_check(talk, talk.application._supervisor.worker_of(job.uid, 1))
        events = await talk.events(job.name)
    assert_whole(events)
    assert states(events) == ["QUEUED", "PREPARING", "RUNNING", "RECOVERING", "PREPARING", "RUNNING", "SUCCEEDED"]
    assert steps(events)[-20:] == [(2, step) for step in range(1, 21)]
    lost = next(e.state_changed.reason for e in events if e.state_changed.current == job_pb2.JOB_STATE_RECOVERING)
    assert lost.code == "WORKER_LOST"
    assert "its process did nothing meanwhile" in lost.text


async def test_a_stopped_idle_worker_is_ended_before_it_gets_a_job(tmp_path):
    script = {"profile": 1e12, "steps": 2}
    async with trainer(tmp_path, script, prewarm=True, **NO_CHECKS) as talk:
        await talk.measured()
        (worker,) = talk.application._supervisor._workers.values()
        await stop_and_check(talk, worker)
        events = await talk.events((await talk.train()).name)
    assert_whole(events)
    assert events[-1].attempt == 1


async def test_the_service_looks_for_heartbeats_by_itself(tmp_path):
    # The scripted worker says something each second, and each of its steps.
    async with trainer(tmp_path, {"steps": 1000, "delay": 0.02}, worker_heartbeat=1.0) as talk:
        job = await talk.train()
        await talk.until(job.name, lambda e: e.kind == STEP and e.step_metrics.step == 3)
        write_script(tmp_path, {"steps": 20})
        os.kill(talk.application._supervisor.worker_of(job.uid, 1).process.pid, signal.SIGSTOP)
        events = await talk.events(job.name)
    assert_whole(events)
    assert events[-1].attempt >= 2  # a busy machine may stop the next one too
