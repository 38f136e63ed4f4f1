# SPDX-License-Identifier: Apache-2.0
"""The queue: jobs wait in the order of their creation for a slot of their device."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from finetree_api.trainer.v1 import event_pb2, job_pb2
from finetree_runtime.errors import DomainError
from finetree_runtime.server.logging import get_logger
from google.rpc import status_pb2
from sqlalchemy import Connection

from finetree_trainer.joblog import states
from finetree_trainer.joblog.log import EventLog
from finetree_trainer.joblog.transaction import FinishedError, Transaction
from finetree_trainer.scheduling import devices
from finetree_trainer.scheduling.devices import Device
from finetree_trainer.store.jobs import JobRow

ANNOUNCED_POSITIONS = 20
"""Places at the head of the queue whose changes are logged: else each start would log as many events as jobs wait."""


@dataclass(frozen=True, slots=True)
class Position:
    """A job's place in the queue, from 1, and what it waits for, in words; 0 and "" for a job that does not wait."""

    number: int = 0
    blocked_by: str = ""


@dataclass(slots=True)
class _Waiting:
    uid: str
    device: str
    suspended: bool
    kind: int
    announced: Position = Position()


class JobQueue:
    """Starts waiting jobs, oldest first, as slots become free.

    `start(uid, slot)` begins an attempt and returns whether it did; `prewarm` is called when a worker should load its
    libraries for the next job.
    """

    def __init__(self, log: EventLog, found: list[Device]) -> None:
        self._log = log
        self._devices = {device.id: device for device in found}
        self._holders: dict[str, str] = {slot: "" for device in found for slot in device.slot_ids()}
        self._kinds: dict[str, int] = {}
        self._wanted: dict[str, str] = {}
        self._waiting: dict[str, _Waiting] = {}
        self._wake = asyncio.Event()
        self.start: Callable[[str, str], Awaitable[bool]] | None = None
        self.prewarm: Callable[[], None] = lambda: None
        log.listeners.append(self._on_change)

    def recover(self, rows: Iterable[JobRow]) -> None:
        """Fill the queue from the store, at the start of the service."""
        for row in rows:
            self._on_change(row)

    def _on_change(self, row: JobRow) -> None:
        """Queue a job that waits now, and drop one that no longer does."""
        if row.record:
            self._wanted[row.uid] = self._device_for(job_pb2.Job.FromString(row.record))
        if row.state in states.TERMINAL:
            self._wanted.pop(row.uid, None)
        if row.state not in states.WAITING:
            if self._waiting.pop(row.uid, None) is not None:
                self._wake.set()
            return
        waiting = self._waiting.get(row.uid)
        if waiting is None:
            self._waiting[row.uid] = _Waiting(row.uid, self._wanted[row.uid], row.suspended, row.kind)
            # Ids grow with time, so sorted by them the queue is in the order of creation, recovering jobs included.
            self._waiting = dict(sorted(self._waiting.items()))
            self._wake.set()
        elif waiting.suspended != row.suspended:
            waiting.suspended = row.suspended
            self._wake.set()

    def _device_for(self, record: job_pb2.Job) -> str:
        """The device of a job; a job whose device no longer exists waits under the name that it asked for."""
        try:
            return devices.choose(list(self._devices.values()), record.spec.hardware).id
        except DomainError:
            return record.spec.hardware.accelerator

    def hold(self, slot: str, uid: str, kind: int) -> None:
        """Mark a slot as held by a job."""
        self._holders[slot] = uid
        self._kinds[uid] = kind

    def release(self, slot: str) -> None:
        """Free a slot whose process is proven dead."""
        if slot in self._holders:
            self._kinds.pop(self._holders[slot], None)
            self._holders[slot] = ""
        self._wake.set()

    def wake(self) -> None:
        """Look again for jobs that can start."""
        self._wake.set()

    def position(self, uid: str) -> Position:
        """A job's place in the queue of its device."""
        waiting = self._waiting.get(uid)
        if waiting is None:
            return Position()
        number = 1
        for other in self._waiting.values():
            if other is waiting:
                break
            number += other.device == waiting.device and not other.suspended
        return Position(number, self._blocked_by(waiting, number))

    def __len__(self) -> int:
        """Jobs that wait."""
        return len(self._waiting)

    def running_on(self, device: str) -> list[str]:
        """Jobs that hold a slot of a device."""
        return [uid for slot, uid in self._holders.items() if uid and devices.device_of(slot) == device]

    async def run(self) -> None:
        """Start jobs until cancelled."""
        while True:
            self._wake.clear()
            await self._start_all()
            await self._announce_positions()
            self._maybe_prewarm()
            await self._wake.wait()

    def _maybe_prewarm(self) -> None:
        free = any(not holder for holder in self._holders.values())
        # A PREPARE job is short and often followed by a TRAIN job: ten seconds of imports fit beside it.
        short = all(kind == job_pb2.TASK_KIND_PREPARE for kind in self._kinds.values())
        if free or short:
            self.prewarm()

    async def _start_all(self) -> None:
        for waiting in list(self._waiting.values()):
            slot = None if waiting.suspended else self._free_slot(waiting.device)
            if slot is None or waiting.uid not in self._waiting:
                continue
            self.hold(slot, waiting.uid, waiting.kind)
            if not await self._begin(waiting, slot):
                self.release(slot)

    async def _begin(self, waiting: _Waiting, slot: str) -> bool:
        assert self.start is not None  # noqa: S101 - set when the service is put together
        try:
            return await self.start(waiting.uid, slot)
        except DomainError as refusal:
            await self._fail(waiting.uid, refusal)
        except Exception as error:  # noqa: BLE001 - one job that cannot start must not stop the queue
            get_logger().error("job_not_started", job=waiting.uid, exc_info=error)
            self._waiting.pop(waiting.uid, None)
        return False

    async def _fail(self, uid: str, refusal: DomainError) -> None:
        """Fail a job whose inputs no longer exist, or whose folder cannot be made, before its first attempt."""
        full = refusal.reason == "DISK_FULL"

        def decide(transaction: Transaction, _connection: Connection) -> None:
            if transaction.row.state in states.WAITING:
                transaction.finish(
                    job_pb2.JOB_STATE_FAILED,
                    refusal.reason,
                    refusal.message,
                    error=status_pb2.Status(code=refusal.code, message=refusal.message),
                    category=job_pb2.FAILURE_CATEGORY_CAPACITY if full else job_pb2.FAILURE_CATEGORY_USER,
                    retryable=refusal.retry_delay is not None,
                )

        await self._log.change(uid, decide)

    def _free_slot(self, device: str) -> str | None:
        slots = self._devices[device].slot_ids() if device in self._devices else []
        return next((slot for slot in slots if not self._holders[slot]), None)

    def _blocked_by(self, waiting: _Waiting, number: int) -> str:
        if waiting.suspended:
            return "suspended: the job is not queued yet"
        running = len(self.running_on(waiting.device))
        return f"{number - 1} jobs ahead and {running} running on {waiting.device}"

    async def _announce_positions(self) -> None:
        changed: list[tuple[_Waiting, Position]] = []
        for waiting in list(self._waiting.values())[:ANNOUNCED_POSITIONS]:
            position = self.position(waiting.uid)
            if position != waiting.announced:
                changed.append((waiting, position))
        await asyncio.gather(*(self._announce(waiting, position) for waiting, position in changed))

    async def _announce(self, waiting: _Waiting, position: Position) -> None:
        waiting.announced = position

        def decide(transaction: Transaction, _connection: Connection) -> None:
            if transaction.row.state in states.WAITING:
                queued = event_pb2.QueueChanged(position=position.number, blocked_by=position.blocked_by)
                text = f"Position {position.number}: {position.blocked_by}."
                transaction.add(event_pb2.JobEvent(queue_changed=queued, message=text))

        # Ended meanwhile, or the disk is full: a place in the queue is worth neither an error nor a retry.
        with suppress(DomainError, FinishedError):
            await self._log.change(waiting.uid, decide)
