# SPDX-License-Identifier: Apache-2.0
"""The command trains the small model in two processes of a CPU: streamed, paused and resumed, and cancelled."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress

import psutil
import pytest
from finetree import Client
from finetree_api.trainer.v1 import job_pb2
from finetree_api.types.v1 import hardware_pb2
from finetree_cli.backends.suite import Suite

pytestmark = [pytest.mark.slow(90), pytest.mark.timeout(900)]
RANK = "finetree_worker.process.rank"


@pytest.fixture(scope="module")
def two_threads(tmp_path_factory, smollm2) -> Iterator[Suite]:
    """A suite whose CPU slot has two threads, on any machine, and that finds the small model in a folder."""
    flags = ("--no-prewarm", "--cpu-threads", "2", "--model-roots", str(smollm2.parent))
    with Suite(tmp_path_factory.mktemp("suite"), extra={"trainer": flags}) as running:
        yield running


@pytest.fixture
def client(two_threads) -> Iterator[Client]:
    with Client(**{f"{name}_address": address for name, address in two_threads.addresses.items()}) as found:
        yield found


@pytest.fixture
def train(two_threads, smollm2, tmp_path):
    """Run `finetree train` on a job file with these options; the id of the job."""
    rows = [{"prompt": f"What is {i} plus {i + 1}?", "completion": f"It is {2 * i + 1}."} for i in range(16)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = (
        f"model: {{path: {smollm2.name}}}\n"
        "lora: {rank: 4}\ndataset: {path: train.jsonl}\nhardware: {cpu: {}}\n"
        "training: {max_steps: 200, effective_batch_size: 4, micro_batch_size: 2, sequence_length: 64, "
        "learning_rate: 1.0e-3}\n"
        "checkpoints: {every_steps: 1}\n"
    )
    addresses = [word for name, at in two_threads.addresses.items() for word in (f"--{name}", at)]

    def run(*options: str, steps: int = 200) -> str:
        # So many that none is done before it is told to stop.
        (tmp_path / "job.yaml").write_text(text.replace("max_steps: 200", f"max_steps: {steps}"))
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
    job = client.job(train("--devices", "2", "--sharding", "fsdp", steps=10))
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
    job = client.job(train("--devices", "2"))
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
