# SPDX-License-Identifier: Apache-2.0
"""Workers that rest after a job: who may take them, what ends them, and that none is in anybody's way."""

import asyncio
import dataclasses
import json
import signal
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest
from finetree_api.trainer.v1 import capacity_pb2, job_pb2, sweep_pb2, trainer_pb2
from finetree_api.types.v1 import hardware_pb2, run_spec_pb2, training_pb2
from finetree_trainer.scheduling.machine.meter import MachineMeter
from google.protobuf import json_format
from trainer_harness import ROWS, job_request, jsonl, server, trainer

WORKER = Path(__file__).with_name("resting_worker.py")
HELD_BYTES = 2**30


def command(tmp_path: Path, **script: Any) -> tuple[str, ...]:
    """The command of a worker with this script, which may be written again for later tasks."""
    file = tmp_path / "resting.json"
    file.write_text(json.dumps({"steps": 2} | script))
    return (sys.executable, str(WORKER), "--script", str(file))


def processes(tmp_path: Path) -> list[int]:
    """Process ids of all attempts so far, in the order of their beginning."""
    with sqlite3.connect(f"file:{tmp_path / 'data' / 'trainer.db'}?mode=ro", uri=True) as database:
        return [row[0] for row in database.execute("SELECT pid FROM attempts ORDER BY started")]


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def gone(pid: int, seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while alive(pid):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.02)


async def held(talk: Any) -> list[capacity_pb2.RestingWorker]:
    answer = await talk.stub.GetCapacity(capacity_pb2.GetCapacityRequest())
    return [worker for device in answer.nodes[0].devices for worker in device.resting_workers]


async def rested(talk: Any, count: int = 1) -> list[capacity_pb2.RestingWorker]:
    """The workers that rest, once they are so many."""
    async with asyncio.timeout(60):
        while len(found := await held(talk)) != count:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.02)
    return found


async def ended(talk: Any, job: job_pb2.Job) -> int:
    """The state in which a job ends."""
    return int((await talk.events(job.name))[-1].terminal.state)


async def create(talk: Any, spec: run_spec_pb2.RunSpec | None = None, project: str = "default") -> job_pb2.Job:
    parent = f"projects/{project}"
    dataset = (await talk.upload(jsonl(ROWS), parent=parent)).name
    task = job_pb2.TrainTask(spec=spec) if spec is not None else None
    request = trainer_pb2.CreateJobRequest(parent=parent, job=job_request(dataset, task=task))
    return (await talk.stub.CreateJob(request)).job


async def test_whoever_needs_another_base_gets_a_worker_of_its_own_and_the_memory(tmp_path: Path) -> None:
    async with trainer(tmp_path, worker_command=command(tmp_path), exit_grace=15.0) as talk:
        assert await ended(talk, await create(talk)) == job_pb2.JOB_STATE_SUCCEEDED
        (worker,) = await rested(talk)
        assert worker.memory_bytes == HELD_BYTES
        assert worker.expire_time.ToSeconds() > 0
        rate = run_spec_pb2.RunSpec(training=training_pb2.Training(learning_rate=3e-4))
        assert await ended(talk, await create(talk, rate)) == job_pb2.JOB_STATE_SUCCEEDED
        await rested(talk)
        # Other weights in memory, then another project: each time the worker before is dead before the next one loads.
        wide = run_spec_pb2.RunSpec(precision=training_pb2.PRECISION_FP32)
        assert await ended(talk, await create(talk, wide)) == job_pb2.JOB_STATE_SUCCEEDED
        first, second, third = processes(tmp_path)
        assert (first == second, alive(first)) == (True, False)
        await rested(talk)
        assert await ended(talk, await create(talk, wide, "other")) == job_pb2.JOB_STATE_SUCCEEDED
        fourth = processes(tmp_path)[3]
        assert third not in (first, fourth)
        assert not alive(third)
    # With the service.
    assert not alive(fourth)


async def test_a_job_on_several_devices_takes_no_worker_at_rest_and_leaves_none(tmp_path: Path) -> None:
    """Its processes talk to each other, which a worker that was started for another job may not."""
    async with trainer(tmp_path, worker_command=command(tmp_path), exit_grace=15.0) as talk:
        assert await ended(talk, await create(talk)) == job_pb2.JOB_STATE_SUCCEEDED
        await rested(talk)
        divided = run_spec_pb2.RunSpec(hardware=hardware_pb2.Hardware(cpu=hardware_pb2.CpuDevice(), count=2))
        assert await ended(talk, await create(talk, divided)) == job_pb2.JOB_STATE_SUCCEEDED
        assert await ended(talk, await create(talk)) == job_pb2.JOB_STATE_SUCCEEDED
        await rested(talk)
        first, second, third = processes(tmp_path)
        assert len({first, second, third}) == 3
        assert not alive(first)
        assert not alive(second)


async def test_a_cancelled_job_and_a_failed_one_leave_no_process(tmp_path: Path) -> None:
    settings = {"worker_command": command(tmp_path, steps=1000, seconds=0.02), "cancel_grace": 15.0}
    async with trainer(tmp_path, **settings, exit_grace=15.0) as talk:
        job = await create(talk)
        await talk.until(job.name, lambda event: event.step_metrics.step == 2)
        await talk.cancel(job.name)
        assert await ended(talk, job) == job_pb2.JOB_STATE_CANCELLED
        await gone(processes(tmp_path)[0])
        command(tmp_path, fails=True)
        assert await ended(talk, await create(talk)) == job_pb2.JOB_STATE_FAILED
        await gone(processes(tmp_path)[1])


async def test_a_trial_that_its_sweep_stops_leaves_its_worker_to_the_next_one(tmp_path: Path) -> None:
    script = {"steps": 150, "seconds": 0.02, "losses": {"2": 3.0, "4": 2.5, "8": 1.5, "32": 4.0}}
    settings = {"worker_command": command(tmp_path, **script), "cancel_grace": 15.0, "exit_grace": 15.0}
    async with trainer(tmp_path, **settings) as talk:
        evaluation = training_pb2.Evaluation(split_fraction=0.1, every_steps=2)
        task = job_pb2.TrainTask(spec=run_spec_pb2.RunSpec(evaluation=evaluation))
        job = job_request((await talk.upload(jsonl(ROWS))).name, task=task)
        ranks = [{"number": rank} for rank in (4, 2, 32, 8)]
        asked = {"parameters": [{"field_path": "lora.rank", "values": {"values": ranks}}], "halving": {}}
        template = json_format.ParseDict(asked | {"max_parallel": 1}, sweep_pb2.SweepTemplate(job=job))
        sweep = (await talk.stub.CreateSweep(sweep_pb2.CreateSweepRequest(sweep=template))).sweep
        async with asyncio.timeout(60):
            while not sweep.HasField("end_time"):
                known = sweep_pb2.GetSweepRequest(name=sweep.name, wait_seconds=5, known_update=sweep.update_time)
                sweep = (await talk.stub.GetSweep(known)).sweep
        states = [sweep_pb2.TrialState.Name(trial.state).removeprefix("TRIAL_STATE_") for trial in sweep.trials]
        assert states == ["SUCCEEDED", "STOPPED", "STOPPED", "SUCCEEDED"]
        found = processes(tmp_path)
        assert (len(found), len(set(found))) == (4, 1)


async def test_a_worker_at_rest_gives_way_to_a_job_in_another_slot_that_needs_its_memory(
    tmp_path: Path, monkeypatch: Any
) -> None:
    resting: list[int] = []
    read = MachineMeter.read
    monkeypatch.setattr(
        MachineMeter,
        "read",
        lambda meter: dataclasses.replace(
            read(meter), total=2**40, free=0 if resting and alive(resting[0]) else 2**39, sessions={}
        ),
    )
    settings = {"worker_command": command(tmp_path, steps=1000, seconds=0.02), "cpu_slots": 2}
    async with trainer(tmp_path, **settings, exit_grace=15.0, cancel_grace=15.0) as talk:
        # The rows of a PREPARE job wait for memory only beside a run.
        running = await create(talk)
        await talk.until(running.name, lambda event: event.step_metrics.step == 1)
        command(tmp_path)
        wide = run_spec_pb2.RunSpec(precision=training_pb2.PRECISION_FP32)
        assert await ended(talk, await create(talk, wide)) == job_pb2.JOB_STATE_SUCCEEDED
        await rested(talk)
        resting.append(processes(tmp_path)[1])
        checked = await talk.prepare(dataset=(await talk.upload(jsonl(ROWS))).name, model="")
        assert await ended(talk, checked) == job_pb2.JOB_STATE_SUCCEEDED
        assert not alive(resting[0])
        assert alive(processes(tmp_path)[0])
        await talk.cancel(running.name)
        assert await ended(talk, running) == job_pb2.JOB_STATE_CANCELLED


@pytest.mark.parametrize("seconds", [0.0, 0.05])
async def test_a_worker_rests_no_longer_than_it_may(tmp_path: Path, seconds: float) -> None:
    async with trainer(tmp_path, worker_command=command(tmp_path), exit_grace=15.0, base_rest=seconds) as talk:
        assert await ended(talk, await create(talk)) == job_pb2.JOB_STATE_SUCCEEDED
        await gone(processes(tmp_path)[0])
        assert not await held(talk)


async def test_a_worker_at_rest_dies_with_the_service_also_with_a_killed_one(tmp_path: Path) -> None:
    async with server(tmp_path, {}, worker_command=command(tmp_path), exit_grace=15.0) as (running, talk):
        assert await ended(talk, await create(talk)) == job_pb2.JOB_STATE_SUCCEEDED
        await rested(talk)
        (pid,) = processes(tmp_path)
        running.process.send_signal(signal.SIGKILL)
        await gone(pid)
