# SPDX-License-Identifier: Apache-2.0
"""The queue: jobs wait in the order of their priority and place for slots of the devices that they can run on."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from finetree_api.trainer.v1 import event_pb2, job_pb2
from finetree_runtime.errors import DomainError, to_status
from sqlalchemy import Connection

from finetree_trainer.clock import timestamp
from finetree_trainer.joblog import states
from finetree_trainer.joblog.log import EventLog
from finetree_trainer.joblog.transaction import FinishedError, Transaction
from finetree_trainer.outages import Pauses, is_outage, log_failure
from finetree_trainer.scheduling import place
from finetree_trainer.scheduling.backfill import Passed
from finetree_trainer.scheduling.demand import Demand, demand_of
from finetree_trainer.scheduling.devices import PREPARING, Device, Slot, all_slots
from finetree_trainer.scheduling.fit import (
    MEMORY_IN_USE,
    WAITING_FOR_DEVICE,
    WAITING_FOR_NODE,
    Blocked,
    Holder,
    NotPlacedError,
    Round,
)
from finetree_trainer.scheduling.memory import MemoryLedger
from finetree_trainer.scheduling.positions import Group, Positions
from finetree_trainer.store.jobs import JobRow

ANNOUNCED_POSITIONS = 20
"""Places at the head of the queue whose changes are logged: else each start would log as many events as jobs wait."""
MEMORY_POLL_SECONDS = 2.0
"""Time between two looks at memory that a job waits for; one takes some milliseconds."""
NAMED_HOLDERS = 4
"""Running jobs that the reason of a waiting one names."""


@dataclass(frozen=True, slots=True)
class Position:
    """A job's place in the queue, from 1, and what it waits for, in words; 0 and "" for a job that does not wait.

    `code` is the stable name of what it waits for; "" where that is none of the machine's.
    """

    number: int = 0
    blocked_by: str = ""
    code: str = ""

    def says_the_same(self, other: "Position") -> bool:
        """Return whether nothing else than figures of memory, which change all the time, tells the two apart."""
        same = (self.number, self.code) == (other.number, other.code)
        return same and (self.code == MEMORY_IN_USE or self.blocked_by == other.blocked_by)


@dataclass(slots=True)
class _Waiting:
    row: JobRow
    demand: Demand
    group: Group
    announced: Position = Position()
    trouble: Blocked | None = None
    """Why it could not be started the last time."""
    blocked: Blocked | None = None
    """What was in its way at the last look, where slots were not."""
    passed: Passed = field(default_factory=Passed)
    not_before: int = 0
    """When its next attempt begins at the earliest, microseconds since 1970; 0: at once."""

    @property
    def uid(self) -> str:
        return self.row.uid

    @property
    def counts(self) -> bool:
        return not self.row.suspended


class JobQueue:
    """Starts waiting jobs in their order as slots become free.

    `start(uid, slots)` begins an attempt and returns whether it did; `prewarm` is called when a worker should load its
    libraries for the next job.
    """

    def __init__(self, log: EventLog, devices: Sequence[Device], memory: MemoryLedger) -> None:
        self._log, self._memory = log, memory
        memory.promised = self._promised
        self._devices = devices
        self._holders: dict[Slot, Holder | None] = dict.fromkeys(all_slots(devices))
        self._demands: dict[str, Demand] = {}
        self._records: dict[str, bytes] = {}
        """What the demands were read from."""
        self._ended: set[str] = set()
        """Jobs that have ended and hold a slot still."""
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
        self.may_start: Callable[[JobRow], Blocked | None] = lambda _row: None
        """Says why a job may not start now although its devices are free, as a limit of its project; None: it may. It
        is asked of each waiting job in each round; `wake` is called when an answer may have changed."""
        log.listeners.append(self._on_change)

    def recover(self, rows: Iterable[JobRow]) -> None:
        """Fill the queue from the store, at the start of the service."""
        for row in rows:
            self._on_change(row)

    def _on_change(self, row: JobRow) -> None:
        """Queue a job that waits now, and drop one that no longer does."""
        if row.record:
            self._records[row.uid] = row.record
            self._demands[row.uid] = self._demand(row.uid)
        if row.state in states.TERMINAL:
            # What its process was promised is its until it is dead.
            self._ended.add(row.uid)
            self._forget(row.uid)
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

    def _demand(self, uid: str) -> Demand:
        return demand_of(job_pb2.Job.FromString(self._records[uid]), self._devices)

    def follow_devices(self) -> None:
        """Take devices that have come, and leave those that have gone as their jobs' processes are proven dead."""
        there = all_slots(self._devices)
        for slot in [each for each, holder in self._holders.items() if holder is None and each not in there]:
            del self._holders[slot]
        for slot in there:
            self._holders.setdefault(slot, None)
        for waiting in self._waiting.values():
            waiting.demand = self._demands[waiting.uid] = self._demand(waiting.uid)
            waiting.group = waiting.demand.group()
        self._positions.clear()
        self._wake.set()

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
        self._forget(uid)

    def _forget(self, uid: str) -> None:
        """Drop what is known of a job that has ended and holds no slot any more."""
        held = any(holder is not None and holder.uid == uid for holder in self._holders.values())
        if uid in self._ended and not held:
            self._ended.discard(uid)
            self._demands.pop(uid, None)
            self._records.pop(uid, None)

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
        blocked = self._blocked_by(waiting, number)
        return Position(number, blocked.text, blocked.code)

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
        """Return whether a job waits for a slot that this one holds, or for memory that jobs hold."""
        held = [slot for slot, holder in self._holders.items() if holder is not None and holder.uid == uid]
        free = [slot for slot, holder in self._holders.items() if holder is None]
        return any(
            not waiting.row.suspended
            and (
                (waiting.blocked is not None and waiting.blocked.ours and bool(held))
                or (
                    any(waiting.demand.takes(slot) for slot in held)
                    and sum(waiting.demand.takes(slot) for slot in free) < waiting.demand.count
                )
            )
            for waiting in self._waiting.values()
        )

    def _promised(self) -> dict[str, Demand]:
        """Demands of the jobs that hold slots."""
        uids = {holder.uid for holder in self._holders.values() if holder is not None}
        return {uid: self._demands[uid] for uid in uids if uid in self._demands}

    def holders_on(self, device: Device) -> dict[Slot, Holder]:
        """The jobs that hold slots of a device, those that only prepare too."""
        return {
            slot: holder
            for slot, holder in self._holders.items()
            if holder is not None and (slot.node, slot.device) == device.place
        }

    def has_free_slot(self, device: Device) -> bool:
        """Return whether a job could begin on a device now."""
        return any(self._holders.get(slot) is None for slot in device.slots())

    def __len__(self) -> int:
        """Jobs that wait."""
        return len(self._waiting)

    def running_on(self, device: Device) -> list[str]:
        """Names of the jobs that hold a slot of a device."""
        return [holder.name for holder in self.holders_on(device).values()]

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
        if any(each.blocked is not None and each.blocked.code == MEMORY_IN_USE for each in self._waiting.values()):
            # Other programs do not tell when they give it back.
            pause = MEMORY_POLL_SECONDS if pause is None else min(pause, MEMORY_POLL_SECONDS)
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
        # Of a thousand jobs that wait for the same, the first one's answer is that of all.
        blocked: dict[Demand, tuple[_Waiting, Blocked]] = {}
        round_: Round | None = None
        for waiting in list(self._waiting.values()):
            waiting.trouble = None
            if waiting.row.suspended or waiting.not_before > self._log.clock():
                continue
            if waiting.demand in blocked:
                waiting.blocked = blocked[waiting.demand][1]
                continue
            waiting.blocked = self.may_start(waiting.row)
            if waiting.blocked is None:
                round_ = round_ or await self._look(blocked)
                if await self._start_one(waiting, round_, blocked):
                    # What is free and promised has changed.
                    round_ = None

    async def _start_one(
        self, waiting: _Waiting, round_: Round, blocked: dict[Demand, tuple[_Waiting, Blocked]]
    ) -> bool:
        """Start a job, or note what is in its way; return whether anything was begun."""
        row, demand = waiting.row, waiting.demand
        found = round_.choose(demand, row.name, self.rank_slots(row))
        if isinstance(found, Blocked):
            waiting.blocked, blocked[demand] = found, (waiting, found)
            round_.keep(demand, row.name, found, waiting.passed)
            if found.code == MEMORY_IN_USE:
                self.make_room()
            return False
        if row.uid not in self._waiting:
            return False
        self.hold(found, Holder(row.uid, row.name, row.task))
        if not await self._begin(waiting, found):
            # Without waking this loop: what could not be started now is tried again after a pause.
            self._free(found, row.uid)
            return True
        for other, why in blocked.values():
            if round_.passes(demand, found, other.demand, why):
                other.passed.add(self._log.clock())
        return True

    async def _look(self, blocked: Mapping[Demand, tuple[_Waiting, Blocked]]) -> Round:
        """Begin a round, or go on with one after a start: what was kept before is kept again."""
        round_ = Round(self._holders, await self._memory.look(), now=self._log.clock())
        for waiting, why in blocked.values():
            round_.keep(waiting.demand, waiting.row.name, why, waiting.passed)
        return round_

    async def _begin(self, waiting: _Waiting, slots: tuple[Slot, ...]) -> bool:
        try:
            return await self._start_or_fail(waiting.row.uid, slots)
        except NotPlacedError as error:
            waiting.trouble = Blocked(WAITING_FOR_NODE, str(error))
            self._troubled = True
        except Exception as error:  # noqa: BLE001 - one job that cannot start now must not stop the queue
            why = error.reason if isinstance(error, DomainError) else type(error).__name__
            waiting.trouble = Blocked("", f"it could not be started ({why}) and is tried again")
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

    def _blocked_by(self, waiting: _Waiting, number: int) -> Blocked:
        if waiting.row.suspended:
            return Blocked("", "suspended: it is not queued until it is resumed")
        if waiting.trouble:
            return waiting.trouble
        if waiting.not_before > self._log.clock():
            when = f"{timestamp(waiting.not_before).ToDatetime():%H:%M:%S} UTC"
            return Blocked("", f"its next attempt begins at {when}")
        demand, blocked = waiting.demand, waiting.blocked
        if blocked is not None and blocked.code != WAITING_FOR_DEVICE:
            return blocked
        held: dict[Holder, list[str]] = {}
        for slot, holder in self._holders.items():
            if holder is not None and demand.takes(slot):
                held.setdefault(holder, []).append(slot.device)
        named = [f"{', '.join(at)}: {holder.name.rpartition('/')[2]}" for holder, at in held.items()][:NAMED_HOLDERS]
        names = f" ({', '.join(named)}{', …' if len(held) > len(named) else ''})" if named else ""
        about = [text for text in (self.about_holder(holder.uid) for holder in held) if text]
        text = f"{number - 1} jobs ahead and {len(held)} running on {demand.kind}{names}"
        if demand.count > 1:
            free = sum(holder is None and demand.takes(slot) for slot, holder in self._holders.items())
            text = f"it needs {demand.count} devices at once and {free} {'is' if free == 1 else 'are'} free; {text}"
        return Blocked(WAITING_FOR_DEVICE, "; ".join([text, *about]))

    async def _announce_positions(self) -> None:
        changed: list[tuple[_Waiting, Position]] = []
        for waiting in list(self._waiting.values())[:ANNOUNCED_POSITIONS]:
            position = self.position(waiting.row.uid)
            if not position.says_the_same(waiting.announced):
                changed.append((waiting, position))
        await asyncio.gather(*(self._announce(waiting, position) for waiting, position in changed))

    async def _announce(self, waiting: _Waiting, position: Position) -> None:
        waiting.announced = position

        def decide(transaction: Transaction, _connection: Connection) -> None:
            if transaction.row.state in states.WAITING:
                queued = event_pb2.QueueChanged(
                    position=position.number, blocked_by=position.blocked_by, code=position.code
                )
                text = f"Position {position.number}: {position.blocked_by}."
                reason = transaction.snapshot.state_reason
                if position.code and transaction.row.state == job_pb2.JOB_STATE_QUEUED:
                    reason.code, reason.text = position.code, f"Waits: {position.blocked_by}."
                transaction.add(event_pb2.JobEvent(queue_changed=queued, message=text))

        # Ended meanwhile, or the disk is full: a place in the queue is worth neither an error nor a retry.
        with suppress(DomainError, FinishedError):
            await self._log.change(waiting.row.uid, decide)
