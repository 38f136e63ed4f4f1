# SPDX-License-Identifier: Apache-2.0
"""A model of the worker: its journal and checkpoints are real files, its training is arithmetic."""

import asyncio
import contextlib
import json
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetree_api.trainer.v1 import event_pb2, job_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_data.exchange import journal
from virtual_loop import Process

if TYPE_CHECKING:
    from machine import Machine

KINDS = {
    "cancelled": worker_pb2.OUTCOME_KIND_CANCELLED,
    "interrupted": worker_pb2.OUTCOME_KIND_INTERRUPTED,
    "paused": worker_pb2.OUTCOME_KIND_PAUSED,
    "": worker_pb2.OUTCOME_KIND_SUCCEEDED,
}


def trained(weights: int, step: int) -> int:
    """One step of the model's training: what comes out depends on every step before."""
    return zlib.crc32(f"{weights}/{step}".encode())


def weights_after(steps: int) -> int:
    """The weights of a run that nothing disturbs."""
    weights = 0
    for step in range(1, steps + 1):
        weights = trained(weights, step)
    return weights


class WorkerModel:
    """Attaches, takes one task, trains it from its newest checkpoint on, reports, exits."""

    def __init__(self, machine: "Machine", pid: int, token: str) -> None:
        self._machine, self.pid, self._token = machine, pid, token
        self.process = Process(f"worker-{pid}")
        self.task: Any = None
        self.job = ""
        self.ended = False
        """Whether it has reported its outcome, or was told to go."""
        self.memory = 1 << 28
        """Bytes that it holds."""
        self.turns = 0
        """Grows while it does something."""
        self._events: list[Any] = []
        self._acknowledged = self._sent = 0
        self._news, self._has_task = asyncio.Event(), asyncio.Event()
        self._stop = ""
        self._journal: Any = None
        self._heard = machine.loop.time()
        self._grace = 900.0
        self._connection: Any = None

    async def run(self) -> None:
        """Everything that the process does."""
        from machine import DownError

        machine = self._machine
        await asyncio.sleep(machine.chance.uniform(0.5, 6.0))
        work = asyncio.ensure_future(self._work())
        while not work.done() or self._acknowledged < len(self._events):
            if machine.loop.time() - self._heard > self._grace:
                machine.seen["a worker gave an absent trainer up"] += 1
                self._stop = self._stop or "interrupted"
                if work.done() or self.task is None:
                    break
            with contextlib.suppress(DownError):
                await self._attach()
            await asyncio.sleep(machine.chance.choice((0.05, 0.5, 2.0, 12.0)))
        machine.kill_worker(self.pid, "it exited with status 0")

    def on_sigterm(self) -> None:
        """SIGTERM: an idle worker goes, one at work saves a checkpoint and stops."""
        if self.task is None:
            self._machine.kill_worker(self.pid, "it exited with status 0")
        self._stop = self._stop or "interrupted"

    def close(self) -> None:
        """What the operating system does when the process is gone."""
        if self._journal is not None:
            self._journal.close()
        if self._connection is not None:
            self._connection.cut()

    async def _attach(self) -> None:
        from machine import DownError

        connection = self._connection = self._machine.connect()
        connection.write(worker_pb2.AttachRequest(hello=self._hello()))
        sender: Any = None
        try:
            while True:
                response = await connection.read()
                self._heard = self._machine.loop.time()
                if response is None:  # it does not know this worker
                    self._machine.seen["a worker was sent away"] += 1
                    self._machine.kill_worker(self.pid, "it exited with status 77")
                    return
                self._take_message(response)
                if sender is None:
                    sender = asyncio.ensure_future(self._send(connection))
        except DownError:
            connection.cut()
            raise
        finally:
            if sender is not None:
                sender.cancel()

    def _take_message(self, response: Any) -> None:
        match response.WhichOneof("message"):
            case "welcome":
                self._acknowledged = self._sent = response.welcome.acknowledged
                self._grace = response.welcome.orphan_grace.ToNanoseconds() / 1e9
                if response.welcome.HasField("task"):
                    self._take(response.welcome.task)
            case "task":
                self._take(response.task)
            case "acknowledge":
                self._acknowledged = max(self._acknowledged, response.acknowledge.acknowledged)
                if self._acknowledged > len(self._events):
                    self._machine.violations.append("an event was acknowledged that was never made")
            case "fenced":
                self._machine.seen["a worker was fenced"] += 1
                self._machine.kill_worker(self.pid, "it exited with status 77")
            case "command":
                self._obey(response.command)
        self._news.set()

    def _obey(self, command: Any) -> None:
        if command.kind == worker_pb2.COMMAND_KIND_SHUTDOWN:
            self.ended = True
            self._machine.kill_worker(self.pid, "it exited with status 0")
        elif command.kind == worker_pb2.COMMAND_KIND_CANCEL:
            self._stop = "cancelled"
        elif command.kind == worker_pb2.COMMAND_KIND_PAUSE:
            self._stop = self._stop or "paused"

    async def _send(self, connection: Any) -> None:
        while True:
            fresh = self._events[self._sent : self._sent + 4]
            if fresh:
                connection.write(worker_pb2.AttachRequest(events=worker_pb2.WorkerEventBatch(events=fresh)))
                self._sent += len(fresh)
                continue
            self._news.clear()
            try:
                await asyncio.wait_for(self._news.wait(), 5.0)
            except TimeoutError:
                connection.write(worker_pb2.AttachRequest(heartbeat=worker_pb2.WorkerHeartbeat()))
            self.turns += 1

    def _hello(self) -> worker_pb2.Hello:
        hello = worker_pb2.Hello(protocol_version=1, token=self._token, pid=self.pid)
        if self.task is not None:
            hello.job, hello.attempt, hello.token = self.task.job, self.task.attempt, self.task.token
            hello.task_kind = job_pb2.TASK_KIND_TRAIN
        return hello

    def _take(self, task: Any) -> None:
        if self.task is None:
            self.task, self.job = task, task.job_uid
            self._machine.took_task(self)
            self._journal = (Path(task.folders.work_dir) / journal.FILE_NAME).open("ab")
            self._has_task.set()

    def _emit(self, event: Any = None, outcome: Any = None) -> None:
        numbered = worker_pb2.WorkerEvent(worker_seq=len(self._events) + 1, event=event, outcome=outcome)
        self._journal.write(journal.encode(numbered))
        self._journal.flush()
        self._events.append(numbered)
        self._news.set()

    async def _work(self) -> None:
        await self._has_task.wait()
        task, chance = self.task, self._machine.chance
        file = Path(task.folders.checkpoint_dir) / "model.json"
        restored = json.loads(file.read_text()) if file.exists() else {"step": 0, "weights": 0}
        if restored["step"]:
            self._machine.seen["a worker resumed from a checkpoint"] += 1
        step, weights, steps = restored["step"], restored["weights"], task.train.spec.training.max_steps
        started = event_pb2.AttemptStarted(restored_step=step, engine="model")
        self._emit(event_pb2.JobEvent(attempt_started=started))
        while step < steps and not self._stop:
            await asyncio.sleep(chance.uniform(0.1, 3.0))
            self.turns += 1
            step += 1
            weights = trained(weights, step)
            metrics = event_pb2.StepMetrics(step=step, total_steps=steps, loss=1.0 / step, learning_rate=1e-3)
            self._emit(event_pb2.JobEvent(step_metrics=metrics))
            if step % 3 == 0 or self._stop:
                self._save(file, step, weights)
        if self._stop in ("interrupted", "paused"):
            self._save(file, step, weights)
        outcome = worker_pb2.TaskOutcome(kind=KINDS[self._stop])
        outcome.summary.final_loss = float(weights)
        outcome.summary.steps = step
        self._emit(outcome=outcome)
        self.ended = True

    def _save(self, file: Path, step: int, weights: int) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_name(".model.json")
        draft.write_text(json.dumps({"step": step, "weights": weights}))
        draft.rename(file)
        self._emit(event_pb2.JobEvent(checkpoint_saved=event_pb2.CheckpointSaved(step=step, size_bytes=1)))
