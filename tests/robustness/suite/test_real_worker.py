# SPDX-License-Identifier: Apache-2.0
"""The real trainer with the real worker and model: killed, left alone, cancelled. Promises G1, G5, G9, G10 and G11."""

import hashlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from finetree import Client, Unavailable
from finetree_api.trainer.v1 import capacity_pb2, event_pb2, job_pb2
from finetree_cli.backends.suite import Suite
from held_port import held_port

pytestmark = [pytest.mark.slow(80), pytest.mark.timeout(280)]

STEPS = 14
ROWS = [
    {"prompt": f"Name number {n} in words.", "completion": f"{n} is written so: {'one ' * n}"} for n in range(1, 17)
]


class Rig:
    """A running suite whose trainer can be killed and started again at its address, and a client of it."""

    def __init__(self, folder: Path, model: Path, worker_flag: str) -> None:
        self.data = folder / "trainer"
        shutil.copytree(model, self.data / "models" / model.name)
        self.worker_flag = worker_flag
        self.suite = Suite(folder, {"trainer": held_port()}, extra={"trainer": ("--no-prewarm", worker_flag)})
        self.suite.start()
        self.client = Client(**{f"{name}_address": address for name, address in self.suite.addresses.items()})
        self.dataset = self.client.upload_dataset(ROWS).name
        self.second: subprocess.Popen[bytes] | None = None

    def spec(self) -> dict[str, Any]:
        training = {"max_steps": STEPS, "effective_batch_size": 2, "micro_batch_size": 2, "sequence_length": 64}
        return {
            "model": {"name": "smollm2-135m-instruct"},
            "dataset": {"name": self.dataset},
            "lora": {},
            "training": training,
            "checkpoints": {"every_steps": 2},
        }

    def worker_pid(self, uid: str) -> int:
        with sqlite3.connect(f"file:{self.data / 'trainer.db'}?mode=ro", uri=True) as database:
            found = database.execute("SELECT pid FROM attempts WHERE job_uid = ? AND ended = 0", (uid,)).fetchone()
        return int(found[0])

    def kill_trainer_and_start_again(self) -> None:
        trainer = self.suite.children["trainer"]
        trainer.process.kill()
        trainer.process.wait()
        flags = ["--address", trainer.address, "--data-dir", str(self.data)]
        flags += ["--estimator-address", self.suite.addresses["estimator"], "--ready-file", str(self.data / "ready")]
        flags += ["--no-prewarm", self.worker_flag]
        command = [sys.executable, "-m", "finetree_trainer", *flags]
        self.second = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def close(self) -> None:
        self.client.close()
        if self.second is not None:
            self.second.terminate()
            self.second.wait(60)
        self.suite.stop()


@pytest.fixture(scope="module")
def rig(smollm2, worker_flag, tmp_path_factory) -> Iterator[Rig]:
    running = Rig(tmp_path_factory.mktemp("rig"), smollm2, worker_flag)
    yield running
    running.close()


def follow(job: Any, acts: dict[int, Callable[[], None]]) -> list[event_pb2.JobEvent]:
    """Every event of a job; each of `acts` is called once, when a step of its number or a later one is seen."""
    events, waiting = [], dict(acts)
    for event in job.events():
        events.append(event)
        step = event.step_metrics.step if event.WhichOneof("payload") == "step_metrics" else 0
        for number in [number for number in waiting if number <= step]:
            waiting.pop(number)()
    assert not waiting
    return events


def assert_whole(events: list[event_pb2.JobEvent], state: int) -> None:
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert [event.kind for event in events].count(event_pb2.EVENT_KIND_TERMINAL) == 1
    assert events[-1].terminal.state == state, events[-1].message


def weights(job: Any, folder: Path) -> str:
    job.download(folder)
    (found,) = folder.rglob("adapter_model.safetensors")
    return hashlib.sha256(found.read_bytes()).hexdigest()


def of(events: list[event_pb2.JobEvent], payload: str) -> list[Any]:
    return [getattr(event, payload) for event in events if event.WhichOneof("payload") == payload]


def test_a_report_keeps_rows_for_a_preview_and_tokens_for_the_runs_that_follow(rig):
    dataset = rig.client.upload_dataset([*ROWS, ROWS[0]]).name
    spec = {**rig.spec(), "dataset": {"name": dataset}}
    prepare = rig.client.prepare(model=spec["model"], dataset=spec["dataset"], sequence_length=64)
    (report,) = of(list(prepare.events()), "dataset_report")
    assert (report.rows, list(report.duplicates.rows), report.tokens_from_cache) == (17, [17], False)
    learned = "".join(span.text for span in report.example_spans if span.trained)
    assert learned == ROWS[0]["completion"] + "<|im_end|>"
    rows = list(rig.client.preview_dataset(dataset, page_size=5))
    assert [row.row for row in rows] == list(range(1, 18))
    assert [row.row for row in rig.client.preview_dataset(dataset, finding="TRUNCATED")] == list(report.truncated.rows)
    spec["training"] = {**spec["training"], "max_steps": 1, "sequence_length": 48}
    (report,) = of(list(rig.client.train(spec).events()), "dataset_report")
    assert report.tokens_from_cache


def test_a_killed_trainer_ends_no_attempt_and_a_killed_worker_changes_no_weight(rig, tmp_path):
    straight = rig.client.train(rig.spec())
    straight.wait(timeout=200, check=True)
    job = rig.client.train(rig.spec())
    # The worker goes first: while the trainer is away the next one may well come to its end.
    acts = {3: lambda: os.kill(rig.worker_pid(job.uid), signal.SIGKILL), 7: rig.kill_trainer_and_start_again}
    events = follow(job, acts)
    assert_whole(events, job_pb2.JOB_STATE_SUCCEEDED)
    starts = of(events, "attempt_started")
    # Each worker says what holds for it: what the service has found this system to allow.
    capacity = rig.client.capacity().confinement
    holds = {it.name for it in capacity if it.state == capacity_pb2.CONFINEMENT_STATE_HOLDS}
    assert all(holds <= {*start.confinement} for start in starts)
    assert len(starts) == 2, "the killed trainer ended an attempt"
    assert (starts[0].restored_step, max(event.attempt for event in events)) == (0, 2)
    assert starts[1].restored_step >= 2
    # A step goes back only with a new attempt, and none is left out.
    steps = [(event.attempt, event.step_metrics.step) for event in events if event.HasField("step_metrics")]
    assert steps == sorted(steps)
    assert {step for _, step in steps} == set(range(1, STEPS + 1))
    assert weights(job, tmp_path / "job") == weights(straight, tmp_path / "straight")


def test_cancel_while_training_ends_the_worker(rig):
    job = rig.client.train(rig.spec())
    pids: list[int] = []

    def cancel() -> None:
        pids.append(rig.worker_pid(job.uid))
        job.cancel()

    started = time.monotonic()
    events = follow(job, {2: cancel})
    assert_whole(events, job_pb2.JOB_STATE_CANCELLED)
    assert time.monotonic() - started < 200
    deadline = time.monotonic() + 60
    while Path(f"/proc/{pids[0]}").exists():
        assert time.monotonic() < deadline, "the worker still lives"
        time.sleep(0.05)


def test_a_served_model_answers_and_is_loaded_again_after_kill_9(rig):
    said = [{"role": "user", "content": "What is the capital of France?"}]
    with rig.client.serve("smollm2-135m-instruct", max_context_tokens=256, max_parallel=2) as serving:
        first = serving.chat(said, max_new_tokens=8)
        assert "Paris" in first["base"]
        with serving.generate("Once upon a time", max_new_tokens=200) as answers:
            assert next(answers).text
            os.kill(rig.worker_pid(serving.job.uid), signal.SIGKILL)
            with pytest.raises(Unavailable, match="WORKER_LOST"):
                answers.read()
        again = next(
            event for event in serving.job.events() if event.attempt == 2 and event.state == job_pb2.JOB_STATE_RUNNING
        )
        assert again.job_uid == serving.job.uid
        assert serving.chat(said, max_new_tokens=8) == first
    assert serving.job.wait(timeout=60).state == job_pb2.JOB_STATE_CANCELLED
