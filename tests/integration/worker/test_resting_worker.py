# SPDX-License-Identifier: Apache-2.0
"""The trials of a sweep in one worker that loads its base once: results are those of workers of their own."""

import asyncio
import importlib.util
import os
import signal
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest
from finetree_api.trainer.v1 import capacity_pb2, event_pb2, job_pb2, sweep_pb2, trainer_pb2
from finetree_api.types.v1 import method_pb2, run_spec_pb2, training_pb2
from google.protobuf import json_format

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

FOLDER = Path(__file__).parents[2]
HELD = "; the base was loaded already"
STEPS, LONG = 3, 12


def helper(name: str, file: Path) -> Any:
    """A module of other tests: test folders are no packages."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def task(**training: Any) -> job_pb2.TrainTask:
    """LoRA in float32 on the small model, a checkpoint after each step."""
    defaults = {"max_steps": STEPS, "effective_batch_size": 2, "micro_batch_size": 2, "sequence_length": 64}
    spec = run_spec_pb2.RunSpec(
        lora=method_pb2.Lora(rank=4, alpha=8, dropout=0.1),
        precision=training_pb2.PRECISION_FP32,
        training=training_pb2.Training(**(defaults | training)),
        checkpoints=training_pb2.Checkpoints(every_steps=1, keep=2),
    )
    return job_pb2.TrainTask(spec=spec)


class Trainer:
    """A trainer, what its jobs did and which processes they ran in."""

    def __init__(self, talk: Any, harness: Any, folder: Path) -> None:
        self.talk, self.harness, self.data = talk, harness, folder / "data"

    async def job(self, **training: Any) -> str:
        """The name of a new job."""
        rows = await self.talk.upload(self.harness.jsonl(self.harness.ROWS))
        template = self.harness.job_request(rows.name, "small", task=task(**training))
        request = trainer_pb2.CreateJobRequest(job=template)
        return str((await self.talk.stub.CreateJob(request)).job.name)

    async def events(self, job: str) -> list[event_pb2.JobEvent]:
        found: list[event_pb2.JobEvent] = await self.talk.events(job, seconds=100.0)
        return found

    def processes(self, *jobs: str) -> list[int]:
        """Process ids of all attempts of jobs, in their order."""
        with sqlite3.connect(f"file:{self.data / 'trainer.db'}?mode=ro", uri=True) as database:
            asked = "SELECT pid FROM attempts WHERE job_uid = ? ORDER BY attempt"
            return [row[0] for job in jobs for row in database.execute(asked, (job.rpartition("/")[2],))]

    def open_attempts(self) -> int:
        with sqlite3.connect(f"file:{self.data / 'trainer.db'}?mode=ro", uri=True) as database:
            return int(database.execute("SELECT count(*) FROM attempts WHERE ended = 0").fetchone()[0])

    async def rested(self) -> capacity_pb2.RestingWorker:
        """The worker that rests, once it does."""
        async with asyncio.timeout(60):
            while True:
                answer = await self.talk.stub.GetCapacity(capacity_pb2.GetCapacityRequest())
                found = [worker for device in answer.nodes[0].devices for worker in device.resting_workers]
                if found:
                    (only,) = found
                    return only
                await asyncio.sleep(0.02)

    def weights(self, job: str) -> dict[str, bytes]:
        """The files of a job's adapter that peft loads."""
        artifacts = sorted((self.data / "jobs" / job.rpartition("/")[2]).rglob("adapter_model.safetensors"))
        return {
            name: (artifacts[-1].parent / name).read_bytes() for name in (artifacts[-1].name, "adapter_config.json")
        }


def started(events: list[event_pb2.JobEvent]) -> list[event_pb2.AttemptStarted]:
    return [event.attempt_started for event in events if event.HasField("attempt_started")]


def losses(events: list[event_pb2.JobEvent]) -> list[float]:
    return [event.step_metrics.loss for event in events if event.HasField("step_metrics")]


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def swept(trainer: Trainer) -> sweep_pb2.Sweep:
    """A sweep of four trials that has ended."""
    rows = await trainer.talk.upload(trainer.harness.jsonl(trainer.harness.ROWS))
    job = trainer.harness.job_request(rows.name, "small", task=task())
    rates = [{"number": 1e-4 * trial} for trial in range(1, 5)]
    parameter = {"field_path": "training.learning_rate", "values": {"values": rates}}
    template = json_format.ParseDict({"parameters": [parameter]}, sweep_pb2.SweepTemplate(job=job))
    sweep = (await trainer.talk.stub.CreateSweep(sweep_pb2.CreateSweepRequest(sweep=template))).sweep
    async with asyncio.timeout(150):
        while not sweep.HasField("end_time"):
            request = sweep_pb2.GetSweepRequest(name=sweep.name, wait_seconds=5, known_update=sweep.update_time)
            sweep = (await trainer.talk.stub.GetSweep(request)).sweep
    return sweep


async def killed(trainer: Trainer, job: str, pid: int) -> list[event_pb2.JobEvent]:
    """All events of a job whose worker is killed after its second step."""
    await trainer.talk.until(job, lambda event: event.step_metrics.step == 2, seconds=60.0)
    os.kill(pid, signal.SIGKILL)
    return await trainer.events(job)


async def test_a_sweep_loads_its_base_once_and_each_trial_is_as_if_it_ran_alone(tmp_path: Path) -> None:
    harness = helper("trainer_harness", FOLDER / "contract" / "trainer" / "harness.py")
    learning = helper("learning_rig", FOLDER / "integration" / "estimator" / "test_learning.py")
    learning.random_model(tmp_path / "models" / "small")
    settings = {"worker_command": (), "worker_heartbeat": 20.0, "exit_grace": 15.0, "cpu_threads": 1}
    try:
        async with harness.trainer(tmp_path, **settings) as talk:
            trainer = Trainer(talk, harness, tmp_path)

            sweep = await swept(trainer)
            assert sweep.state == sweep_pb2.SWEEP_STATE_SUCCEEDED, sweep
            jobs = [trial.job for trial in sweep.trials]
            told = [await trainer.events(job) for job in jobs]
            first = trainer.processes(*jobs)
            assert (len(first), len(set(first))) == (4, 1), "the libraries were imported more than once"
            assert [started(events)[0].base_reused for events in told] == [False, True, True, True]
            assert [HELD in str(events) for events in told] == [False, True, True, True]
            resting = await trainer.rested()
            assert resting.memory_bytes > 2**20
            async with asyncio.timeout(60):
                while trainer.open_attempts():  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.02)
            # Were a base, or as much, left behind by each trial, the fourth would have two more than the second.
            memory = [
                [e.step_metrics.memory_bytes for e in events if e.HasField("step_metrics")][-1] for events in told
            ]
            assert memory[3] - memory[1] < 2 * (tmp_path / "models" / "small" / "model.safetensors").stat().st_size

            # The first one was alone in its process: the same job after four others ends in the same bytes.
            alone, again = jobs[0], await trainer.job(learning_rate=1e-4)
            events = await trainer.events(again)
            assert started(events)[0].base_reused
            assert losses(events) == losses(told[0])
            assert trainer.weights(again) == trainer.weights(alone)

            # Killed in its seventh job, it takes none of the others with it.
            whole = await trainer.job(max_steps=LONG)
            assert started(await trainer.events(whole))[0].base_reused
            job = await trainer.job(max_steps=LONG)
            events = await killed(trainer, job, first[0])
            assert trainer.processes(whole, job)[:2] == [first[0], first[0]]
            second = trainer.processes(job)[1]
            assert second != first[0]
            found = [(each.base_reused, each.restored_step > 0) for each in started(events)]
            assert found == [(True, False), (False, True)]
            assert trainer.weights(job) == trainer.weights(whole)
            for ended in (again, whole):
                assert (await talk.job(ended)).state == job_pb2.JOB_STATE_SUCCEEDED
                assert len(trainer.processes(ended)) == 1
            await trainer.rested()
    finally:
        harness.end_workers(tmp_path)
    # The service has ended it when it stopped.
    assert not alive(second)
