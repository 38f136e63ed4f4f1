# SPDX-License-Identifier: Apache-2.0
"""The queue: jobs wait in the order of their priority and place for slots of the devices that they can run on."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from finetree_api.trainer.v1 import event_pb2, job_pb2
from finetree_runtime.errors import DomainError, to_status
from sqlalchemy import Connection

from finetree_trainer.clock import timestamp
from finetree_trainer.joblog import states
from finetree_trainer.joblog.log import EventLog
from finetree_trainer.joblog.transaction import FinishedError, Transaction
from finetree_trainer.outages import Pauses, is_outage, log_failure
from finetree_trainer.scheduling import place
from finetree_trainer.scheduling.devices import CPU, PREPARING, Device, Slot, matching
from finetree_trainer.scheduling.positions import Group, Positions
from finetree_trainer.store.jobs import JobRow

PREPARE_BYTES = 2 * 1024**3
"""Free memory beside a run on the CPU that a PREPARE job waits for: its process has 0.9 GB after its imports, and had
0.8 GB at the peak of a million rows (benchmarks/results/worker/data_memory.json has the slope)."""
ANNOUNCED_POSITIONS = 20
"""Places at the head of the queue whose changes are logged: else each start would log as many events as jobs wait."""


@dataclass(frozen=True, slots=True)
class Position:
    """A job's place in the queue, from 1, and what it waits for, in words; 0 and "" for a job that does not wait."""

    number: int = 0
    blocked_by: str = ""


@dataclass(frozen=True, slots=True)
class Demand:
    """The devices that a job needs: their kind, for people, how many, and the ids of those that it can run on.

    `candidates` is empty for a job whose devices no longer exist: it waits. `prepares`: it takes the slot for PREPARE
    jobs alone. `memory` is what must be free on a device before it starts there, bytes.
    """

    kind: str
    count: int
    candidates: frozenset[tuple[str, str]]
    prepares: bool = False
    memory: int = 0

    def takes(self, slot: Slot) -> bool:
        """Return whether the job can run in a slot."""
        return (slot.node, slot.device) in self.candidates and (slot.index == PREPARING) == self.prepares

    def group(self) -> Group:
        """What the job competes for."""
        return Group(self.kind, self.candidates, self.prepares)


@dataclass(slots=True)
class _Waiting:
    row: JobRow
    demand: Demand
    group: Group
    announced: Position = Position()
    trouble: str = ""
    """Why it could not be started the last time."""
    not_before: int = 0
    """When its next attempt begins at the earliest, microseconds since 1970; 0: at once."""

    @property
    def uid(self) -> str:
        return self.row.uid

    @property
    def counts(self) -> bool:
        return not self.row.suspended


@dataclass(frozen=True, slots=True)
class Holder:
    """The job that holds a slot."""

    uid: str
    name: str
    task: int


class JobQueue:
    """Starts waiting jobs in their order as slots become free.

    `start(uid, slots)` begins an attempt and returns whether it did; `prewarm` is called when a worker should load its
    libraries for the next job.
    """

    def __init__(self, log: EventLog, devices: Iterable[Device]) -> None:
        self._log = log
        self._devices = list(devices)
        slots = [slot for device in self._devices for slot in device.slots()]
        slots += [Slot(device.node, CPU, PREPARING) for device in self._devices if device.id == CPU]
        self._holders: dict[Slot, Holder | None] = dict.fromkeys(slots)
        self._demands: dict[str, Demand] = {}
        self._waiting: dict[str, _Waiting] = {}
        self._positions = Positions()
        self._wake = asyncio.Event()
        self._pauses = Pauses()
        self._troubled = False
        """Whether something could not be started in this round, so that there is another one without news."""
        self.start: Callable[[str, tuple[Slot, ...]], Awaitable[bool]] | None = None
        self.prewarm: Callable[[], None] = lambda: None
        self.rank_slots: Callable[[JobRow], Mapping[Slot, int]] = lambda _row: {}
        """Ranks slots for a job: free ones of a lower rank come first; those that are not named have 0."""
        self.make_room: Callable[[], None] = lambda: None
        """Ends the workers that rest; `wake` is called when their memory is free."""
        self.about_holder: Callable[[str], str] = lambda _uid: ""
        """Says when a job gives up the slots that it holds, in words; empty: when its work is done."""
        log.listeners.append(self._on_change)

    def recover(self, rows: Iterable[JobRow]) -> None:
        """Fill the queue from the store, at the start of the service."""
        for row in rows:
            self._on_change(row)

    def _on_change(self, row: JobRow) -> None:
        """Queue a job that waits now, and drop one that no longer does."""
        if row.record:
            self._demands[row.uid] = self._demand_of(job_pb2.Job.FromString(row.record))
        if row.state in states.TERMINAL:
            self._demands.pop(row.uid, None)
        if row.state not in states.WAITING:
            if self._waiting.pop(row.uid, None) is not None:
                self._positions.clear()
                self._wake.set()
            return
        waiting = self._waiting.get(row.uid)
        if waiting is None:
            self._append(row, self._demands[row.uid])
        elif (row.suspended, row.priority, row.place) != (
            waiting.row.suspended,
            waiting.row.priority,
            waiting.row.place,
        ):
            waiting.row = row
            self._sort()
        else:
            return
        reason = job_pb2.Job.FromString(row.snapshot).state_reason
        self._waiting[row.uid].not_before = reason.next_attempt_time.ToMicroseconds()
        self._wake.set()

    def _append(self, row: JobRow, demand: Demand) -> None:
        """Add a job, as a rule behind all others; one that recovers or has a higher priority comes between them."""
        added, newest = _Waiting(row, demand, demand.group()), next(reversed(self._waiting.values()), None)
        self._waiting[row.uid] = added
        if newest is None or place.order(newest.row) < place.order(row):
            self._positions.append(added)
        else:
            self._sort()

    def _sort(self) -> None:
        self._waiting = dict(sorted(self._waiting.items(), key=lambda item: place.order(item[1].row)))
        self._positions.clear()

    def _demand_of(self, record: job_pb2.Job) -> Demand:
        task = record.WhichOneof("task")
        if task not in ("train", "evaluate", "serve"):
            return _demand([device for device in self._devices if device.id == CPU], 1, prepares=True)
        hardware = record.train.spec.hardware
        if task != "train":
            hardware = record.serve.hardware if task == "serve" else record.evaluate.hardware
        memory = int(record.estimate.device_bytes.expected) if task == "serve" else 0
        try:
            return _demand(matching(self._devices, hardware), max(1, hardware.count), memory=memory)
        except DomainError:
            return Demand(hardware.accelerator or CPU, hardware.count, frozenset())

    def hold(self, slots: Iterable[Slot], holder: Holder) -> None:
        """Mark slots as held by a job."""
        self._holders |= dict.fromkeys(slots, holder)

    def release(self, slots: Iterable[Slot], uid: str) -> None:
        """Free those slots of a job whose process is proven dead that no other job has been given since."""
        self._free(slots, uid)
        self._wake.set()

    def _free(self, slots: Iterable[Slot], uid: str) -> None:
        for slot in slots:
            holder = self._holders.get(slot)
            if holder is not None and holder.uid == uid:
                self._holders[slot] = None

    def holders(self) -> Mapping[Slot, Holder | None]:
        """Every slot, with the job that holds it."""
        return self._holders

    def wake(self) -> None:
        """Look again for jobs that can start."""
        self._wake.set()

    def position(self, uid: str) -> Position:
        """A job's place among the jobs that wait for the same devices."""
        waiting = self._waiting.get(uid)
        if waiting is None:
            return Position()
        number = self._positions.number(uid, self._waiting.values(), len(self._waiting))
        return Position(number, self._blocked_by(waiting, number))

    def competitors(self, uid: str) -> list[JobRow]:
        """Rows of the jobs that wait for the same devices as a waiting one, suspended ones too, in their order."""
        waiting = self._waiting.get(uid)
        if waiting is None:
            return []
        return [
            other.row
            for other in self._waiting.values()
            if other is not waiting and other.group.overlaps(waiting.group)
        ]

    def is_wanted(self, uid: str) -> bool:
        """Return whether a job waits for a slot that this one holds."""
        held = [slot for slot, holder in self._holders.items() if holder is not None and holder.uid == uid]
        free = [slot for slot, holder in self._holders.items() if holder is None]
        return any(
            not waiting.row.suspended
            and any(waiting.demand.takes(slot) for slot in held)
            and sum(waiting.demand.takes(slot) for slot in free) < waiting.demand.count
            for waiting in self._waiting.values()
        )

    def has_free_slot(self, device: Device) -> bool:
        """Return whether a job could begin on a device now."""
        return any(self._holders.get(slot) is None for slot in device.slots())

    def __len__(self) -> int:
        """Jobs that wait."""
        return len(self._waiting)

    def running_on(self, device: Device) -> list[str]:
        """Names of the jobs that hold a slot of a device."""
        place = device.node, device.id
        return [
            holder.name
            for slot, holder in self._holders.items()
            if holder is not None and (slot.node, slot.device) == place
        ]

    async def run(self) -> None:
        """Start jobs until cancelled."""
        while True:
            self._wake.clear()
            self._troubled = False
            await self._start_all()
            await self._announce_positions()
            self._maybe_prewarm()
            await self._rest()

    async def _rest(self) -> None:
        """Wait for news, or for the next try where something could not be started."""
        if not self._troubled:
            self._pauses.reset()
        pause, now = self._pauses.following() if self._troubled else None, self._log.clock()
        later = [waiting.not_before - now for waiting in self._waiting.values() if waiting.not_before > now]
        if later:
            pause = min(later) / 1e6 if pause is None else min(pause, min(later) / 1e6)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), pause)

    def _maybe_prewarm(self) -> None:
        # A PREPARE job is often followed by a TRAIN job: ten seconds of imports fit beside it. Beside a run that takes
        # the last slot they would not.
        if any(holder is None for slot, holder in self._holders.items() if slot.index != PREPARING):
            try:
                self.prewarm()
            except Exception as error:  # noqa: BLE001 - what only saves time must not stop the queue
                self._troubled = True
                log_failure(error, doing="prewarm_worker")

    async def _start_all(self) -> None:
        # Of a thousand jobs that wait for one kind of device, the first one's answer is that of all.
        without_slots: set[Demand] = set()
        for waiting in list(self._waiting.values()):
            row = waiting.row
            waiting.trouble = ""
            if row.suspended or waiting.not_before > self._log.clock() or waiting.demand in without_slots:
                continue
            slots = self._free_slots(waiting.demand, row)
            if not slots:
                without_slots.add(waiting.demand)
                continue
            if row.uid not in self._waiting:
                continue
            self.hold(slots, Holder(row.uid, row.name, row.task))
            if not await self._begin(waiting, slots):
                # Without waking this loop: what could not be started now is tried again after a pause.
                self._free(slots, row.uid)

    def _free_slots(self, demand: Demand, row: JobRow) -> tuple[Slot, ...]:
        """Free slots for a job, one of each device; none when it cannot have all that it needs."""
        if demand.prepares and not self._has_room_beside_runs():
            self.make_room()
            return ()
        rank = self.rank_slots(row)
        free: dict[tuple[str, str], Slot] = {}
        for slot, holder in sorted(self._holders.items(), key=lambda pair: rank.get(pair[0], 0)):
            if holder is None and demand.takes(slot) and self._has_memory(slot, demand):
                free.setdefault((slot.node, slot.device), slot)
        chosen = tuple(free.values())[: demand.count]
        return chosen if len(chosen) == demand.count else ()

    def _has_memory(self, slot: Slot, demand: Demand) -> bool:
        """Return whether what a job needs is free on a slot's device; where not, that is tried again after a pause."""
        if not demand.memory:
            return True
        device = next(device for device in self._devices if (device.node, device.id) == (slot.node, slot.device))
        enough = device.free_bytes() >= demand.memory
        if not enough:
            self._troubled = True
            self.make_room()
        return enough

    def _has_room_beside_runs(self) -> bool:
        """Return whether a PREPARE job's process would not take the memory of a run on the CPU."""
        if all(holder is None for slot, holder in self._holders.items() if slot.device == CPU):
            return True
        return all(device.free_bytes() >= PREPARE_BYTES for device in self._devices if device.id == CPU)

    async def _begin(self, waiting: _Waiting, slots: tuple[Slot, ...]) -> bool:
        try:
            return await self._start_or_fail(waiting.row.uid, slots)
        except Exception as error:  # noqa: BLE001 - one job that cannot start now must not stop the queue
            why = error.reason if isinstance(error, DomainError) else type(error).__name__
            waiting.trouble = f"it could not be started ({why}) and is tried again"
            self._troubled = True
            log_failure(error, doing="start_job", job=waiting.row.uid)
        return False

    async def _start_or_fail(self, uid: str, slots: tuple[Slot, ...]) -> bool:
        assert self.start is not None  # noqa: S101 - set when the service is put together
        try:
            return await self.start(uid, slots)
        except DomainError as refusal:
            if is_outage(refusal):
                raise
            await self._fail(uid, refusal)
        return False

    async def _fail(self, uid: str, refusal: DomainError) -> None:
        """Fail a job whose inputs no longer exist."""

        def decide(transaction: Transaction, _connection: Connection) -> None:
            if transaction.row.state in states.WAITING:
                transaction.finish(
                    job_pb2.JOB_STATE_FAILED,
                    refusal.reason,
                    refusal.message,
                    error=to_status(refusal),
                    category=job_pb2.FAILURE_CATEGORY_USER,
                    retryable=refusal.retry_delay is not None,
                )

        await self._log.change(uid, decide)

    def _blocked_by(self, waiting: _Waiting, number: int) -> str:
        if waiting.row.suspended:
            return "suspended: it is not queued until it is resumed"
        if waiting.trouble:
            return waiting.trouble
        if waiting.not_before > self._log.clock():
            return f"its next attempt begins at {timestamp(waiting.not_before).ToDatetime():%H:%M:%S} UTC"
        demand = waiting.demand
        if demand.prepares and not self._has_room_beside_runs():
            return f"{PREPARE_BYTES >> 30} GiB of memory must be free beside the running job"
        holders = [holder for slot, holder in self._holders.items() if holder is not None and demand.takes(slot)]
        about = [text for text in (self.about_holder(holder.uid) for holder in holders) if text]
        blocked = f"{number - 1} jobs ahead and {len(holders)} running on {demand.kind}"
        if demand.memory and not holders:
            blocked = f"{demand.memory / 1e9:.1f} GB of memory must be free on {demand.kind}"
        return "; ".join([blocked, *about])

    async def _announce_positions(self) -> None:
        changed: list[tuple[_Waiting, Position]] = []
        for waiting in list(self._waiting.values())[:ANNOUNCED_POSITIONS]:
            position = self.position(waiting.row.uid)
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
            await self._log.change(waiting.row.uid, decide)


def _demand(candidates: list[Device], count: int, *, prepares: bool = False, memory: int = 0) -> Demand:
    places = frozenset((device.node, device.id) for device in candidates)
    return Demand(candidates[0].kind, count, places, prepares, memory)
