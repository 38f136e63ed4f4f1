# SPDX-License-Identifier: Apache-2.0
"""Workers between two jobs: each has ended an attempt, and holds its base loaded for a job that needs the same.

The import of the training libraries and the load of a base are paid once for the trials of a sweep. What such a worker
holds is worth less than any job: one that starts in its place, and one that needs memory, has it end first. See
docs/decisions/0038-a-worker-stays-for-the-next-job-on-its-base.md.
"""

import asyncio
import hashlib
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from typing import Any

from finetree_api.trainer.v1 import capacity_pb2, job_pb2
from finetree_api.worker.v1 import worker_pb2

from finetree_trainer.clock import Clock, timestamp
from finetree_trainer.scheduling.devices import Slot
from finetree_trainer.store.jobs import JobRow
from finetree_trainer.workers.session import Rest, Worker
from finetree_trainer.workers.termination import SHUTDOWN, shut_down

Spawn = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]
"""Starts work in the background."""


def base_of(row: JobRow) -> str:
    """Name what a training job has loaded before it trains; "" for other jobs, whose workers end with them.

    Two jobs have the same name if they are of one project and load the same base in the same way. The worker looks
    again before it uses a base: at the files, and at everything that decides how they are read.
    """
    job = job_pb2.Job.FromString(row.record)
    if job.WhichOneof("task") != "train":
        return ""
    spec = job.train.spec
    messages = (spec.model, job.base, job.lineage.base, spec.init_from)
    method = "full" if spec.WhichOneof("method") == "full" else "adapted"
    quantized = (spec.qlora.quantization, spec.qlora.double_quantization) if spec.HasField("qlora") else ()
    parts: tuple[object, ...] = (row.project, spec.precision, spec.attention, method, quantized)
    digest = hashlib.sha256(repr(parts).encode())
    for message in messages:
        digest.update(message.SerializeToString(deterministic=True).hex().encode() + b"\n")
    return digest.hexdigest()


class RestingWorkers:
    """Those of a supervisor's workers that rest; `seconds` is how long each may, 0 for not at all."""

    def __init__(
        self, workers: Callable[[], Collection[Worker]], *, clock: Clock, seconds: float, spawn: Spawn
    ) -> None:
        self._workers, self._clock, self._seconds, self._spawn = workers, clock, seconds, spawn

    @property
    def allowed(self) -> bool:
        """Whether workers may rest."""
        return self._seconds > 0

    def begin(self, worker: Worker, row: JobRow, resting: worker_pb2.Resting) -> Worker:
        """Return the worker that takes the place of one whose attempt has ended, without anything of that attempt."""
        until = self._clock() + int(self._seconds * 1e6)
        rest = Rest(base_of(row), worker.slots, memory_bytes=resting.memory_bytes, until=until)
        rested = Worker(worker.id, worker.token_hash, worker.process, rest=rest, closing=True)
        self._spawn(self._end_in_time(rested))
        return rested

    async def _end_in_time(self, worker: Worker) -> None:
        await asyncio.sleep(self._seconds)
        while worker.starting or worker.closing:  # noqa: ASYNC110 - for as long as a transaction takes, which may come to nothing
            await asyncio.sleep(1.0)
        if worker.resting:
            self.dismiss(worker)

    def rank_slots(self, row: JobRow) -> dict[Slot, int]:
        """Rank the slots in which workers rest: -1 where one has loaded what a job needs, 1 for the others."""
        rests = [worker.rest for worker in self._resting() if worker.rest is not None]
        base = base_of(row) if rests else ""
        return {slot: -1 if rest.base == base else 1 for rest in rests for slot in rest.slots}

    def find(self, row: JobRow, slots: Sequence[Slot]) -> Worker | None:
        """Find a worker that has loaded what a job needs on the devices of these slots."""
        resting = self._resting()
        base = base_of(row) if resting else ""
        for worker in resting:
            if worker.rest and base and worker.rest.base == base and _devices(worker.rest.slots) == _devices(slots):
                return worker
        return None

    async def clear(self, slots: Iterable[Slot], *, keep: Worker) -> None:
        """End the workers that rest in these slots, but one, and wait until their memory is free."""
        wanted = set(slots)
        await self._end([w for w in self._resting() if w is not keep and w.rest and wanted & set(w.rest.slots)])

    async def end_all(self) -> bool:
        """End all workers that rest, and wait until their memory is free; return whether there were any."""
        return await self._end(self._resting())

    async def _end(self, workers: Sequence[Worker]) -> bool:
        if workers:
            # Each task ends with its worker, cancelled where the worker's end has been seen.
            await asyncio.wait([self.dismiss(worker) for worker in workers])
        return bool(workers)

    def dismiss_all(self) -> None:
        """Begin to end all workers that rest: somebody needs their memory."""
        for worker in self._resting():
            self.dismiss(worker)

    def dismiss(self, worker: Worker) -> "asyncio.Task[None]":
        """End a worker that rests; the task ends with it."""
        worker.done = True
        worker.send(SHUTDOWN)
        assert worker.process is not None  # noqa: S101 - only workers of this run of the service rest
        worker.termination = self._spawn(shut_down(worker.process))
        return worker.termination

    def held_bytes(self, device: str) -> int:
        """Memory of a device that ends with those who rest on it, bytes."""
        return sum(each.memory_bytes for each in self.describe(device))

    def describe(self, device: str) -> list[capacity_pb2.RestingWorker]:
        """Describe those that rest on a device of this machine."""
        rests = [worker.rest for worker in self._resting() if worker.rest is not None]
        return [
            capacity_pb2.RestingWorker(memory_bytes=rest.memory_bytes, expire_time=timestamp(rest.until))
            for rest in rests
            if any(slot.device == device for slot in rest.slots)
        ]

    def _resting(self) -> list[Worker]:
        return [worker for worker in self._workers() if worker.resting]


def _devices(slots: Iterable[Slot]) -> set[tuple[str, str]]:
    return {(slot.node, slot.device) for slot in slots}
