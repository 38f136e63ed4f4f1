# SPDX-License-Identifier: Apache-2.0
"""The queue: jobs wait for slots of the devices that they can run on, and start when it is their turn."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from operator import attrgetter

from finetree_api.trainer.v1 import job_pb2
from finetree_runtime.errors import DomainError

from finetree_trainer.clock import timestamp
from finetree_trainer.joblog import states
from finetree_trainer.joblog.log import EventLog
from finetree_trainer.outages import Pauses, log_failure
from finetree_trainer.scheduling import reasons
from finetree_trainer.scheduling.autoscaling.requests import NodeRequests
from finetree_trainer.scheduling.demand import Demand, Demands
from finetree_trainer.scheduling.devices import PREPARING, Device, Slot
from finetree_trainer.scheduling.fit import (
    DEVICE_LOST,
    MEMORY_IN_USE,
    WAITING_FOR_DEVICE,
    Blocked,
    Holder,
    NotPlacedError,
    Round,
)
from finetree_trainer.scheduling.memory import MemoryLedger
from finetree_trainer.scheduling.order.fair import DeviceUse, in_turn
from finetree_trainer.scheduling.order.positions import Group, Positions
from finetree_trainer.scheduling.slots import Slots
from finetree_trainer.scheduling.starting import start_or_fail
from finetree_trainer.scheduling.waiting import Line, Position, WaitingJob, WaitingJobs, announce
from finetree_trainer.store.jobs import JobRow

ANNOUNCED_POSITIONS = 20
"""Places at the head of the queue whose changes are logged: else each start would log as many events as jobs wait."""
POLL_SECONDS = 2.0
"""Time between two looks where nobody tells of a change; one takes some milliseconds."""
_STANDING = attrgetter("suspended", "priority", "place")
"""What of a waiting job's row decides where it waits."""


class JobQueue:
    """Starts waiting jobs in their order as slots become free.

    `start(uid, slots)` begins an attempt and returns whether it did; `prewarm` is called when a worker should load its
    libraries for the next job.
    """

    def __init__(self, log: EventLog, devices: Sequence[Device], memory: MemoryLedger) -> None:
        self._log, self._memory = log, memory
        memory.promised = self._promised
        self._devices = devices
        self._slots = Slots(devices)
        self.use = DeviceUse(devices)
        self._reader = Demands(devices)
        self._records: dict[str, bytes] = {}  # devices come and go, and the demands are read again
        self._demands: dict[str, Demand] = {}
        self._ended: set[str] = set()
        """Jobs that have ended and hold a slot still."""
        self._waiting = WaitingJobs()
        self._later: dict[str, int] = {}
        """When the next attempts of jobs begin at the earliest that do not begin at once."""
        self._positions = Positions(self._in_expected_order)
        self._rounds, self._round_began = 0, 0
        self._polls = False
        """Whether a job waited for memory in this round, or for devices of jobs that may be preempted."""
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
        self.about_holders: Callable[[], Mapping[str, str]] = dict
        """Says of jobs, by uid, when they give up the slots that they hold, if that is before their work is done."""
        self.may_start: Callable[[JobRow, Demand], Blocked | None] = lambda _row, _demand: None
        """Says why a job may not start now although its devices are free, as a limit of its project; None: it may. It
        is asked of each waiting job in each round; `wake` is called when an answer may have changed."""
        self.nodes: NodeRequests | None = None
        """Asks for nodes that an autoscaler may bring; None: there is none."""
        self.make_way: Callable[[WaitingJob], Awaitable[None]] | None = None
        """Has running jobs give up devices for the next job in turn, where they may have to; None: no job ever has."""
        log.listeners.append(self._on_change)

    def recover(self, rows: Iterable[JobRow]) -> None:
        """Fill the queue from the store, at the start of the service."""
        for row in rows:
            self._on_change(row)

    def _on_change(self, row: JobRow) -> None:
        """Queue a job that waits now, and drop one that no longer does."""
        if row.record:
            self._records[row.uid] = row.record
            self._read(row.uid)
        if row.state in states.TERMINAL:
            # What its process was promised is its until it is dead.
            self._ended.add(row.uid)
            self._forget(row.uid)
        if row.state not in states.WAITING:
            self._drop(row.uid)
            return
        waiting = self._waiting.get(row.uid)
        if waiting is None:
            self._add(WaitingJob(row, self._demands[row.uid]))
        elif _STANDING(row) != _STANDING(waiting.row):
            self._waiting.remove(row.uid)
            self._positions.clear()  # it was counted where it no longer is
            self._add(replace(waiting, row=row))
        else:
            return
        self._note_time(row)
        self._wake.set()

    def _add(self, job: WaitingJob) -> None:
        """Add a job, as a rule behind all others; one that recovers or has a higher priority comes between them."""
        last = self._waiting.add(job)
        if last and not self.use.weighted:
            self._positions.append(job)
        else:
            self._positions.clear()

    def _drop(self, uid: str) -> None:
        if self._waiting.remove(uid) is not None:
            self._later.pop(uid, None)
            self._positions.clear()
            self._wake.set()

    def _note_time(self, row: JobRow) -> None:
        """Note when the next attempt of a waiting job begins at the earliest."""
        due = job_pb2.Job.FromString(row.snapshot).state_reason.next_attempt_time.ToMicroseconds()
        self._later.pop(row.uid, None)
        if due:
            self._later[row.uid] = due

    def _read(self, uid: str) -> None:
        self._demands[uid] = self._reader.of(job_pb2.Job.FromString(self._records[uid]))

    def follow_devices(self) -> None:
        """Take devices that have come or gone: jobs that wait get their demands anew."""
        self._slots.follow_devices()
        self.use.follow_devices(self._devices)
        self._reader = Demands(self._devices, self.nodes.devices if self.nodes is not None else ())
        for waiting in list(self._waiting):
            self._read(waiting.uid)
            self._waiting.remove(waiting.uid)
            self._waiting.add(replace(waiting, demand=self._demands[waiting.uid]))
        self._positions.clear()
        self._wake.set()

    def hold(self, slots: Iterable[Slot], holder: Holder) -> None:
        """Mark slots as held by a job."""
        for slot in slots:
            self._vacate(slot)
            self._slots.hold(slot, holder)
            self.use.take(holder.project, slot, self._log.clock())

    def release(self, slots: Iterable[Slot], uid: str) -> None:
        """Free those slots of a job whose process is proven dead that no other job has been given since."""
        self._release(slots, uid)
        self._wake.set()

    def _release(self, slots: Iterable[Slot], uid: str) -> None:
        for slot in slots:
            if slot in self._slots.of(uid):
                self._vacate(slot)
        self._forget(uid)

    def _vacate(self, slot: Slot) -> None:
        holder = self._slots.release(slot)
        if holder is not None:
            self.use.give_back(holder.project, slot, self._log.clock())

    def _forget(self, uid: str) -> None:
        """Drop what is known of a job that has ended and holds no slot any more."""
        if uid in self._ended and not self._slots.of(uid):
            self._ended.discard(uid)
            self._demands.pop(uid, None)
            self._records.pop(uid, None)

    @property
    def slots(self) -> Slots:
        """Every slot, and who holds it."""
        return self._slots

    def holders(self) -> Mapping[Slot, Holder | None]:
        """Every slot, with the job that holds it."""
        return self._slots.holders

    def wake(self) -> None:
        """Look again for jobs that can start."""
        self._wake.set()

    def position(self, uid: str) -> Position:
        """A job's place among the jobs that wait for the same devices."""
        waiting = self._waiting.get(uid)
        if waiting is None:
            return Position()
        number = self._positions.number(uid)
        blocked = self._blocked_by(waiting, number)
        return Position(number, blocked.text, blocked.code, blocked.remedy, blocked.metadata)

    def competitors(self, uid: str) -> list[JobRow]:
        """Rows of the jobs that wait for the same devices as a waiting one, suspended ones too, in their order."""
        waiting = self._waiting.get(uid)
        if waiting is None:
            return []
        return [other.row for other in self._waiting.in_order(waiting.group.overlaps) if other is not waiting]

    def is_wanted(self, uid: str) -> bool:
        """Return whether a job waits for a slot that this one holds, or for memory that jobs hold."""
        held = self._slots.of(uid)
        lines = self._waiting.lines.items()
        return bool(held) and any(self._wants(group, line, held) for (_, group), line in lines)

    def _wants(self, group: Group, line: Iterable[WaitingJob], held: Iterable[Slot]) -> bool:
        takes, free = any(map(group.takes, held)), len(self._slots.free_of(group))
        return any(
            not waiting.row.suspended
            and ((waiting.blocked is not None and waiting.blocked.ours) or (takes and free < waiting.demand.count))
            for waiting in line
        )

    def _promised(self) -> dict[str, Demand]:
        """Demands of the jobs that hold slots."""
        return {uid: self._demands[uid] for uid in self._slots.jobs() if uid in self._demands}

    def holders_on(self, device: Device) -> dict[Slot, Holder]:
        """The jobs that hold slots of a device, those that only prepare too."""
        return self._slots.on(device)

    def has_free_slot(self, device: Device) -> bool:
        """Return whether a job could begin on a device now."""
        return any(slot in self._slots.free for slot in device.slots())

    def __len__(self) -> int:
        """Jobs that wait."""
        return len(self._waiting)

    async def run(self) -> None:
        """Start jobs until cancelled."""
        while True:
            self._wake.clear()
            self._troubled = False
            await self.start_all()
            await self._ask_for_devices()
            self._ask_for_nodes()
            await self._announce_positions()
            self._maybe_prewarm()
            await self._rest()

    async def _rest(self) -> None:
        """Wait for news, or for the next try where something could not be started."""
        if not self._troubled:
            self._pauses.reset()
        pause, now = self._pauses.following() if self._troubled else None, self._log.clock()
        if self._polls:
            # Other programs do not tell when they give memory back, nor does time when a job has run for long enough.
            pause = POLL_SECONDS if pause is None else min(pause, POLL_SECONDS)
        # Of what this round found too early; its time may have come since then, and nobody would look again.
        later = [max(due - now, 0) for due in self._later.values() if due > self._round_began]
        if later:
            pause = min(later) / 1e6 if pause is None else min(pause, min(later) / 1e6)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), pause)

    def _maybe_prewarm(self) -> None:
        # A PREPARE job is often followed by a TRAIN job: ten seconds of imports fit beside it. Beside a run that takes
        # the last slot they would not.
        if any(slot.index != PREPARING for slot in self._slots.free):
            try:
                self.prewarm()
            except Exception as error:  # noqa: BLE001 - what only saves time must not stop the queue
                self._troubled = True
                log_failure(error, doing="prewarm_worker")

    async def start_all(self) -> None:
        """Start every job that can begin now, in turn: one round."""
        self._rounds, self._round_began = self._rounds + 1, self._log.clock()
        self._polls = False
        # Of a thousand jobs that wait for the same, the first one's answer is that of all.
        blocked: dict[Demand, tuple[WaitingJob, Blocked]] = {}
        round_: Round | None = None
        share = partial(self.use.share, now=self._log.clock())
        for waiting in in_turn(self._waiting.snapshot(), share, self._is_open):
            waiting.trouble, waiting.looked_at = None, self._rounds
            if not self._may_begin(waiting):
                continue
            if waiting.demand in blocked:
                waiting.blocked = blocked[waiting.demand][1]
                continue
            waiting.blocked = self.may_start(waiting.row, waiting.demand)
            if waiting.blocked is None:
                round_ = round_ or await self._look(blocked)
                if await self._start_one(waiting, round_, blocked):
                    # What is free and promised has changed.
                    round_ = None
        if self.use.weighted:
            self._positions.clear()

    async def _ask_for_devices(self) -> None:
        """Have running jobs make way for those that are next for their devices and found too few free."""
        if self.make_way is None:
            return
        lines = list(self._waiting.lines.values())
        firsts = [next((job for job in line if self._may_begin(job)), None) for line in lines]
        for first in firsts:
            if first is None or first.uid not in self._waiting or first.looked_at != self._rounds:
                continue
            blocked = first.blocked is not None and first.blocked.code == WAITING_FOR_DEVICE
            if blocked and first.row.priority > job_pb2.JOB_PRIORITY_LOW and self._positions.number(first.uid) == 1:
                self._polls = True
                await self.make_way(first)

    def _ask_for_nodes(self) -> None:
        if self.nodes is not None:
            ready = (job for job in self._in_expected_order() if self._may_begin(job))
            # A node that is late is told of without news.
            self._polls = self.nodes.look(ready, self._slots) or self._polls

    def _may_begin(self, waiting: WaitingJob) -> bool:
        """Return whether a job is to start as soon as there is room."""
        return not waiting.row.suspended and self._later.get(waiting.uid, 0) <= self._round_began

    def _is_open(self, line: Line) -> bool:
        """Return whether a job of a line could be given a slot: with none free, each would only be told to wait."""
        _, group = line
        return len(self._slots.free_of(group)) > 0

    def _in_expected_order(self) -> Iterator[WaitingJob]:
        """Waiting jobs in the order in which they would start if each had room when it is its turn."""
        share, given = partial(self.use.share, now=self._log.clock()), defaultdict[str, float](float)
        for waiting in in_turn(self._waiting.lines, lambda project: share(project) + given[project]):
            yield waiting
            if waiting.counts:
                demand = waiting.demand
                given[waiting.project] += self.use.added(waiting.project, demand.kind, demand.count)

    async def _start_one(
        self, waiting: WaitingJob, round_: Round, blocked: dict[Demand, tuple[WaitingJob, Blocked]]
    ) -> bool:
        """Start a job, or note what is in its way; return whether anything was begun."""
        row, demand = waiting.row, waiting.demand
        found = round_.choose(demand, row.name, self.rank_slots(row))
        if isinstance(found, Blocked):
            waiting.blocked, blocked[demand] = found, (waiting, found)
            round_.keep(demand, row.name, found, waiting.passed)
            if found.code == MEMORY_IN_USE:
                self._polls = True
                self.make_room()
            return False
        if row.uid not in self._waiting:
            return False
        self.hold(found, Holder(row.uid, row.name, row.task))
        if not await self._begin(waiting, found):
            # Without waking this loop: what could not be started now is tried again after a pause.
            self._release(found, row.uid)
            return True
        for other, why in blocked.values():
            if round_.passes(demand, found, other.demand, why):
                other.passed.add(self._log.clock())
        return True

    async def _look(self, blocked: Mapping[Demand, tuple[WaitingJob, Blocked]]) -> Round:
        """Begin a round, or go on with one after a start: what was kept before is kept again."""
        round_ = Round(self._slots, await self._memory.look(), now=self._log.clock())
        for waiting, why in blocked.values():
            round_.keep(waiting.demand, waiting.row.name, why, waiting.passed)
        return round_

    async def _begin(self, waiting: WaitingJob, slots: tuple[Slot, ...]) -> bool:
        assert self.start is not None  # noqa: S101 - set when the service is put together
        try:
            return await start_or_fail(self._log, waiting.uid, partial(self.start, waiting.uid, slots))
        except NotPlacedError as error:
            waiting.trouble, self._troubled = reasons.not_placed(error), True
        except Exception as error:  # noqa: BLE001 - one job that cannot start now must not stop the queue
            why = error.reason if isinstance(error, DomainError) else type(error).__name__
            waiting.trouble = Blocked("", f"it could not be started ({why}) and is tried again")
            self._troubled = True
            log_failure(error, doing="start_job", job=waiting.row.uid)
        return False

    def _blocked_by(self, waiting: WaitingJob, number: int) -> Blocked:
        if waiting.row.suspended:
            return Blocked("", "suspended: it is not queued until it is resumed")
        if waiting.trouble and waiting.looked_at == self._rounds:
            return waiting.trouble
        if not self._may_begin(waiting):
            when = f"{timestamp(self._later[waiting.uid]).ToDatetime():%H:%M:%S} UTC"
            return Blocked("", f"its next attempt begins at {when}")
        if not (waiting.demand.candidates or waiting.demand.may_come):
            return reasons.no_such_device(waiting.demand, [device.kind for device in self._devices])
        blocked = self._in_the_way(waiting)
        if blocked is not None and (blocked.code != WAITING_FOR_DEVICE or blocked.text):
            return reasons.told_to(blocked, waiting.project)
        return reasons.for_devices(
            waiting.demand,
            waiting.project,
            ahead=number - 1,
            occupancy=self._slots.occupancy(waiting.group),
            about=self.about_holders(),
            shares=self._shares(waiting),
        )

    def _shares(self, waiting: WaitingJob) -> tuple[float, float] | None:
        """Share of a job's project, and the least of those that wait for the same devices; None where it is its own."""
        share = partial(self.use.share, now=self._log.clock())
        lines = ((key, line) for key, line in self._waiting.lines.items() if any(job.counts for job in line))
        own = share(waiting.project)
        least = min((share(project) for (project, group), _ in lines if group.overlaps(waiting.group)), default=own)
        return (own, least) if least < own else None

    def _in_the_way(self, waiting: WaitingJob) -> Blocked | None:
        """What was in a job's way in the last round; of one that was not looked at, what is so of its line."""
        if self.nodes is not None and (coming := self.nodes.about(waiting)) is not None:
            return self.may_start(waiting.row, waiting.demand) or coming
        if waiting.looked_at == self._rounds:
            return waiting.blocked
        first = self._waiting.lines[waiting.project, waiting.group][0].blocked
        lost = first if first is not None and first.code == DEVICE_LOST else None
        return self.may_start(waiting.row, waiting.demand) or lost

    async def _announce_positions(self) -> None:
        changed: list[tuple[WaitingJob, Position]] = []
        for waiting in islice(self._in_expected_order(), ANNOUNCED_POSITIONS):
            position = self.position(waiting.row.uid)
            if not position.says_the_same(waiting.announced):
                changed.append((waiting, position))
        await asyncio.gather(*(announce(self._log, waiting, position) for waiting, position in changed))
