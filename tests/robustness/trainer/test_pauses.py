# SPDX-License-Identifier: Apache-2.0
"""A real run that is paused, left alone over a restart of the service, and resumed ends in the same weights (G11)."""

import hashlib
import importlib.util
from pathlib import Path

import pytest
from finetree_api.trainer.v1 import event_pb2, job_pb2, trainer_pb2
from finetree_api.types.v1 import training_pb2
from trainer_harness import ROWS, assert_whole, job_request, jsonl, states, steps, trainer

pytestmark = pytest.mark.timeout(280)
STEPS = 120


def write_model(folder):
    file = Path(__file__).with_name("tiny_model.py")
    spec = importlib.util.spec_from_file_location("tiny_model", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.write(folder)


async def train(talk, dataset):
    template = job_request(dataset, "real")
    spec = template.train.spec
    spec.lora.rank, spec.lora.dropout = 4, 0.2
    spec.precision = training_pb2.PRECISION_FP32
    training = spec.training
    training.max_steps, training.effective_batch_size, training.micro_batch_size = STEPS, 4, 2
    training.sequence_length, training.learning_rate = 128, 5e-3
    return (await talk.stub.CreateJob(trainer_pb2.CreateJobRequest(job=template))).job.name


def adapter(tmp_path, name):
    """SHA-256 of the weights that a job has published."""
    (found,) = (tmp_path / "data" / "jobs" / name.rpartition("/")[2]).rglob("artifacts/*/adapter_model.safetensors")
    return hashlib.sha256(found.read_bytes()).hexdigest()


async def test_a_run_paused_over_a_restart_ends_in_the_weights_of_one_that_never_was(worker_command, tmp_path):
    write_model(tmp_path / "models" / "real")
    # Beside each other in two slots first, then one of them alone: neighbours change nothing either.
    settings = {"worker_command": worker_command, "cpu_slots": 2, "cpu_threads": 1}
    settings |= {"checkpoint_grace": 120.0, "exit_grace": 20.0}
    async with trainer(tmp_path, **settings) as talk:
        dataset = (await talk.upload(jsonl(ROWS))).name
        paused, straight = [await train(talk, dataset) for _ in range(2)]
        await talk.until(straight, lambda event: event.state_changed.current == job_pb2.JOB_STATE_PREPARING, 120)
        assert (await talk.job(paused)).state in {job_pb2.JOB_STATE_PREPARING, job_pb2.JOB_STATE_RUNNING}
        await talk.until(paused, lambda event: event.step_metrics.step >= 2, 120)
        await talk.pause(paused)
        assert_whole(await talk.events(straight, 120))
        await talk.until(paused, lambda event: event.state_changed.current == job_pb2.JOB_STATE_PAUSED, 120)
    async with trainer(tmp_path, **settings) as talk:
        assert (await talk.job(paused)).state == job_pb2.JOB_STATE_PAUSED
        await talk.resume(paused)
        events = await talk.events(paused, 120)
    assert_whole(events)
    assert states(events)[3:6] == ["PAUSING", "PAUSED", "QUEUED"]
    starts = [e.attempt_started for e in events if e.kind == event_pb2.EVENT_KIND_ATTEMPT_STARTED]
    assert starts[1].reason == event_pb2.ATTEMPT_REASON_RESUMED
    assert 2 <= starts[1].restored_step < STEPS
    # No step is taken twice and none is left out.
    assert [step for _, step in steps(events)] == list(range(1, STEPS + 1))
    assert adapter(tmp_path, paused) == adapter(tmp_path, straight)
