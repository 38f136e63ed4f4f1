# SPDX-License-Identifier: Apache-2.0
"""The command trains a tiny model in two processes of a CPU: streamed, paused and resumed, and cancelled."""

import json
import runpy
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from finetree import Client
from finetree_api.trainer.v1 import job_pb2
from finetree_api.types.v1 import hardware_pb2
from finetree_cli.backends.suite import Suite

pytestmark = [pytest.mark.slow(40), pytest.mark.timeout(900)]
RANK = "finetree_worker.process.rank"
MODEL = "tiny"
TINY = runpy.run_path(str(Path(__file__).parents[2] / "robustness/trainer/tiny_model.py"))


@pytest.fixture(scope="module")
def two_threads(worker_flag, tmp_path_factory) -> Iterator[Suite]:
    """A suite whose CPU slot has two threads, on any machine, and that finds a tiny model in a folder."""
    roots = tmp_path_factory.mktemp("models")
    TINY["write"](roots / MODEL)
    flags = ("--no-prewarm", "--cpu-threads", "2", "--model-roots", str(roots), worker_flag)
    with Suite(tmp_path_factory.mktemp("suite"), extra={"trainer": flags}) as running:
        yield running


@pytest.fixture
def client(two_threads) -> Iterator[Client]:
    with Client(**{f"{name}_address": address for name, address in two_threads.addresses.items()}) as found:
        yield found


@pytest.fixture
def train(two_threads, tmp_path):
    """Run `finetree train` on a job file with these options; the id of the job."""
    rows = [{"prompt": f"What is {i} plus {i + 1}?", "completion": f"It is {2 * i + 1}."} for i in range(64)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = (
        f"model: {{path: {MODEL}}}\n"
        "lora: {rank: 4}\ndataset: {path: train.jsonl}\nhardware: {cpu: {}}\n"
        "training: {max_steps: STEPS, effective_batch_size: 64, micro_batch_size: 2, sequence_length: 128, "
        "learning_rate: 1.0e-3}\n"
        "checkpoints: {every_steps: 1}\n"
    )
    addresses = [word for name, at in two_threads.addresses.items() for word in (f"--{name}", at)]

    def run(*options: str, steps: int) -> str:
        (tmp_path / "job.yaml").write_text(text.replace("STEPS", str(steps)))
        command = [sys.executable, "-m", "finetree_cli", "train", str(tmp_path / "job.yaml"), "--detach", "--json"]
        done = subprocess.run([*command, *options, *addresses], check=False, capture_output=True, timeout=120)
        assert done.returncode == 0, done.stderr.decode()
        name: str = json.loads(done.stdout)["name"]
        return name

    return run


def ranks_alive() -> list[int]:
    """Process ids of ranks that this test's services have started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            found += [process.pid] if RANK in process.cmdline() else []
    return found


def test_a_sharded_run_is_streamed_paused_and_resumed(client, train):
    job = client.job(train("--devices", "2", "--sharding", "fsdp", steps=12))
    for event in job.events():
        if event.step_metrics.step == 1:
            break
    job.pause()
    for event in job.events():
        if event.state == job_pb2.JOB_STATE_PAUSED:
            break
    assert not ranks_alive()
    job.resume()
    events = list(job.events())

    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert events[-1].terminal.state == job_pb2.JOB_STATE_SUCCEEDED
    started = [event.attempt_started for event in events if event.HasField("attempt_started")]
    ranks = [(attempt.environment["ranks"], attempt.environment["sharding"]) for attempt in started]
    assert ranks == [("2", "full")] * 2
    steps = [event for event in events if event.HasField("step_metrics")]
    assert next(event.step_metrics.step for event in steps if event.attempt == 2) > 1
    found = client.get_job(job.name)
    assert found.train.spec.hardware.count == 2
    assert found.train.spec.hardware.sharding == hardware_pb2.SHARDING_FULL
    assert all([rank.rank for rank in step.step_metrics.ranks] == [0, 1] for step in steps)


def test_copies_are_trained_and_cancelled_without_a_trace(client, train):
    job = client.job(train("--devices", "2", steps=100_000))
    steps = []
    for event in job.events():
        if event.HasField("step_metrics"):
            steps.append(event)
            break
    assert len(ranks_alive()) == 1
    job.cancel()
    events = list(job.events())

    assert events[-1].terminal.state == job_pb2.JOB_STATE_CANCELLED
    assert not ranks_alive()
    assert [rank.rank for rank in steps[0].step_metrics.ranks] == [0, 1]
