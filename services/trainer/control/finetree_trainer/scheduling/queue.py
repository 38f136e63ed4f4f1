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
from finetree_trainer.joblog.transaction import Draft, FinishedError
from finetree_trainer.scheduling import devices
from finetree_trainer.scheduling.devices import Device
from finetree_trainer.store.jobs import JobRow

TOLD_POSITIONS = 20
"""Places in the queue whose changes are logged; with a thousand waiting, each start would else log as many events."""


@dataclass(slots=True)
class _Waiting:
    uid: str
    device: str
    suspended: bool
    kind: int
    told: tuple[int, str] = (0, "")


class Scheduler:
    """Starts waiting jobs, oldest first, as slots become free.

    `start(uid, slot, device, threads)` begins an attempt and says whether it did; `prewarm` is called when a worker
    should wait for the next job.
    """

    def __init__(self, log: EventLog, found: list[Device]) -> None:
        self._log = log
        self._devices = {device.id: device for device in found}
        self._holders: dict[str, str] = {slot: "" for device in found for slot in device.slot_ids()}
        self._kinds: dict[str, int] = {}
        self._wants: dict[str, str] = {}
        self._queue: dict[str, _Waiting] = {}
        self._news = asyncio.Event()
        self.start: Callable[[str, str, str, int], Awaitable[bool]] | None = None
        self.prewarm: Callable[[], None] = lambda: None
        log.listeners.append(self.note)

    def note(self, row: JobRow) -> None:
        """Follow a job's state: it waits, or it no longer does."""
        if row.record:
            self._wants[row.uid] = self._device_for(job_pb2.Job.FromString(row.record))
        if row.state in states.TERMINAL:
            self._wants.pop(row.uid, None)
        if row.state not in states.WAITING:
            if self._queue.pop(row.uid, None) is not None:
                self._news.set()
            return
        waiting = self._queue.get(row.uid)
        if waiting is None:
            self._queue[row.uid] = _Waiting(row.uid, self._wants[row.uid], row.suspended, row.kind)
            # Ids grow with time, so sorted by them the queue is in the order of creation, recovering jobs included.
            self._queue = dict(sorted(self._queue.items()))
            self._news.set()
        elif waiting.suspended != row.suspended:
            waiting.suspended = row.suspended
            self._news.set()

    def _device_for(self, record: job_pb2.Job) -> str:
        """The device of a job; one that has gone since keeps it waiting under the name that it asked for."""
        try:
            return devices.choose(list(self._devices.values()), record.spec.hardware).id
        except DomainError:
            return record.spec.hardware.accelerator

    def hold(self, slot: str, uid: str, kind: int) -> None:
        """Mark a slot as taken, at the start of the service."""
        self._holders[slot] = uid
        self._kinds[uid] = kind

    def release(self, slot: str) -> None:
        """A slot's process is proven dead."""
        if slot in self._holders:
            self._kinds.pop(self._holders[slot], None)
            self._holders[slot] = ""
        self._news.set()

    def wake(self) -> None:
        """Look again at who can start."""
        self._news.set()

    def place(self, uid: str) -> tuple[int, str]:
        """A job's position in the queue, from 1, and what it waits for, in words; (0, "") when it does not wait."""
        waiting = self._queue.get(uid)
        if waiting is None:
            return 0, ""
        ahead = 1
        for other in self._queue.values():
            if other is waiting:
                break
            ahead += other.device == waiting.device and not other.suspended
        return ahead, self._blocked_by(waiting, ahead)

    def length(self) -> int:
        """Jobs that wait."""
        return len(self._queue)

    def running_on(self, device: str) -> list[str]:
        """Jobs that hold a slot of a device."""
        return [uid for slot, uid in self._holders.items() if uid and devices.device_of(slot) == device]

    async def run(self) -> None:
        """Start jobs for ever."""
        while True:
            self._news.clear()
            await self._start_all()
            await self._tell_positions()
            self._maybe_prewarm()
            await self._news.wait()

    def _maybe_prewarm(self) -> None:
        free = any(not holder for holder in self._holders.values())
        # A PREPARE job is short, and whoever asked for it trains next: ten seconds of imports fit beside it.
        short = all(kind == job_pb2.JOB_KIND_PREPARE for kind in self._kinds.values())
        if free or short:
            self.prewarm()

    async def _start_all(self) -> None:
        for waiting in list(self._queue.values()):
            slot = None if waiting.suspended else self._free_slot(waiting.device)
            if slot is None or waiting.uid not in self._queue:
                continue
            self.hold(slot, waiting.uid, waiting.kind)
            if not await self._begin(waiting, slot):
                self.release(slot)

    async def _begin(self, waiting: _Waiting, slot: str) -> bool:
        assert self.start is not None  # noqa: S101 - set when the service is put together
        device = self._devices[waiting.device]
        try:
            return await self.start(waiting.uid, slot, device.id, device.threads)
        except DomainError as refusal:
            await self._fail(waiting.uid, refusal)
        except Exception as error:  # noqa: BLE001 - one job that cannot start must not stop the queue
            get_logger().error("job_not_started", job=waiting.uid, exc_info=error)
            self._queue.pop(waiting.uid, None)
        return False

    async def _fail(self, uid: str, refusal: DomainError) -> None:
        """A job whose inputs are gone, or whose folder cannot be made, has failed before it began."""

        def decide(draft: Draft, _connection: Connection) -> None:
            if draft.row.state in states.WAITING:
                error = status_pb2.Status(code=refusal.code, message=refusal.message)
                draft.finish(
                    job_pb2.JOB_STATE_FAILED,
                    refusal.reason,
                    refusal.message,
                    error=error,
                    category=job_pb2.FAILURE_CATEGORY_CAPACITY
                    if refusal.reason == "DISK_FULL"
                    else job_pb2.FAILURE_CATEGORY_USER,
                    retryable=refusal.retry_delay is not None,
                )

        await self._log.change(uid, decide)

    def _free_slot(self, device: str) -> str | None:
        slots = self._devices[device].slot_ids() if device in self._devices else []
        return next((slot for slot in slots if not self._holders[slot]), None)

    def _blocked_by(self, waiting: _Waiting, ahead: int) -> str:
        if waiting.suspended:
            return "suspended: it is not to be queued yet"
        running = len(self.running_on(waiting.device))
        return f"{ahead - 1} jobs ahead and {running} running on {waiting.device}"

    async def _tell_positions(self) -> None:
        changed: list[tuple[_Waiting, tuple[int, str]]] = []
        for waiting in list(self._queue.values())[:TOLD_POSITIONS]:
            place = self.place(waiting.uid)
            if place != waiting.told:
                changed.append((waiting, place))
        await asyncio.gather(*(self._tell(waiting, place) for waiting, place in changed))

    async def _tell(self, waiting: _Waiting, place: tuple[int, str]) -> None:
        position, blocked_by = waiting.told = place

        def decide(draft: Draft, _connection: Connection) -> None:
            if draft.row.state in states.WAITING:
                queued = event_pb2.QueueChanged(position=position, blocked_by=blocked_by)
                draft.add(event_pb2.JobEvent(queue_changed=queued, message=f"Position {position}: {blocked_by}."))

        # Gone meanwhile, or the disk is full: a place in the queue is worth neither an error nor a retry.
        with suppress(DomainError, FinishedError):
            await self._log.change(waiting.uid, decide)


def recover(scheduler: Scheduler, rows: Iterable[JobRow]) -> None:
    """Fill the queue from the store, at the start of the service."""
    for row in rows:
        scheduler.note(row)
