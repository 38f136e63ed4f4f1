# SPDX-License-Identifier: Apache-2.0
"""Jobs that wait, each in a line with those of its project that compete for the same devices."""

import heapq
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from operator import attrgetter

from finetree_api.trainer.v1 import event_pb2, job_pb2
from finetree_runtime.errors import DomainError
from sqlalchemy import Connection

from finetree_trainer.joblog import states
from finetree_trainer.joblog.log import EventLog
from finetree_trainer.joblog.transaction import FinishedError, Transaction
from finetree_trainer.scheduling.demand import Demand
from finetree_trainer.scheduling.fit import MEMORY_IN_USE, Blocked
from finetree_trainer.scheduling.order import place
from finetree_trainer.scheduling.order.backfill import Passed
from finetree_trainer.scheduling.order.positions import Group
from finetree_trainer.store.jobs import JobRow

Line = tuple[str, Group]
"""A project, and what its jobs compete for."""
_BY_ORDER = attrgetter("order")


@dataclass(frozen=True, slots=True)
class Position:
    """A job's place in the queue, from 1, and what it waits for, in words; 0 and "" for a job that does not wait.

    `code` is the stable name of what it waits for; "" where that is none of the machine's. `remedy` and `metadata` say
    what would end the wait, and the figures and names behind it, which may change at any time.
    """

    number: int = 0
    blocked_by: str = ""
    code: str = ""
    remedy: str = field(default="", compare=False)
    metadata: Mapping[str, str] = field(default_factory=dict, compare=False)

    def says_the_same(self, other: "Position") -> bool:
        """Return whether nothing else than figures of memory, which change all the time, tells the two apart."""
        same = (self.number, self.code) == (other.number, other.code)
        return same and (self.code == MEMORY_IN_USE or self.blocked_by == other.blocked_by)

    def event(self) -> event_pb2.JobEvent:
        """Tell of it in the job's log."""
        changed = event_pb2.QueueChanged(
            position=self.number,
            blocked_by=self.blocked_by,
            code=self.code,
            remedy=self.remedy,
            metadata=self.metadata,
        )
        return event_pb2.JobEvent(queue_changed=changed, message=f"Position {self.number}: {self.blocked_by}.")

    def reason(self) -> job_pb2.StateReason:
        """Why the job is in the state QUEUED."""
        text = f"Waits: {self.blocked_by}."
        return job_pb2.StateReason(code=self.code, text=text, remedy=self.remedy, metadata=self.metadata)


@dataclass(slots=True)
class WaitingJob:
    """A job that waits, and what was in its way so far."""

    row: JobRow
    demand: Demand
    announced: Position = Position()
    trouble: Blocked | None = None
    """Why it could not be started in the round of `looked_at`."""
    blocked: Blocked | None = None
    """What was in its way at the last look, where slots were not."""
    passed: Passed = field(default_factory=Passed)
    looked_at: int = 0
    """Number of the last round in which it had its turn."""
    order: place.Order = field(init=False)
    """What the jobs of its line are sorted by."""
    group: Group = field(init=False)
    """What it competes for."""

    def __post_init__(self) -> None:
        self.order, self.group = place.order(self.row), self.demand.group

    @property
    def uid(self) -> str:
        """Id of the waiting job."""
        return self.row.uid

    @property
    def project(self) -> str:
        """Whose it is."""
        return self.row.project

    @property
    def counts(self) -> bool:
        """Whether others wait behind it."""
        return not self.row.suspended


class WaitingJobs:
    """Every job that waits, by its uid and in lines; each line is in the order of priorities and places."""

    def __init__(self) -> None:
        self._jobs: dict[str, WaitingJob] = {}
        self.lines: dict[Line, list[WaitingJob]] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[WaitingJob]:
        return iter(self._jobs.values())

    def __contains__(self, uid: object) -> bool:
        return uid in self._jobs

    def get(self, uid: str) -> WaitingJob | None:
        """The job of a uid, if it waits."""
        return self._jobs.get(uid)

    def add(self, job: WaitingJob) -> bool:
        """Add a job; return whether it came behind all others."""
        self._jobs[job.uid] = job
        insort(self.lines.setdefault((job.project, job.group), []), job, key=_BY_ORDER)
        return job.order == max(line[-1].order for line in self.lines.values())

    def remove(self, uid: str) -> WaitingJob | None:
        """Drop a job that waits no more; return it, if it did."""
        job = self._jobs.pop(uid, None)
        if job is not None:
            key = job.project, job.group
            line = self.lines[key]
            del line[bisect_left(line, job.order, key=_BY_ORDER)]
            if not line:
                del self.lines[key]
        return job

    def in_order(self, of: Callable[[Group], bool]) -> Iterator[WaitingJob]:
        """Jobs that compete for some devices, of all projects, by priority and place."""
        return heapq.merge(*(line for (_, group), line in self.lines.items() if of(group)), key=_BY_ORDER)

    def snapshot(self) -> Mapping[Line, list[WaitingJob]]:
        """The lines as they are now, to go through while jobs come and leave."""
        return {key: list(line) for key, line in self.lines.items()}


async def announce(log: EventLog, waiting: WaitingJob, position: Position) -> None:
    """Tell of a job's place in its log."""
    waiting.announced = position

    def decide(transaction: Transaction, _connection: Connection) -> None:
        if transaction.row.state in states.WAITING:
            if position.code and transaction.row.state == job_pb2.JOB_STATE_QUEUED:
                transaction.snapshot.state_reason.CopyFrom(position.reason())
            transaction.add(position.event())

    # Ended meanwhile, or the disk is full: a place in the queue is worth neither an error nor a retry.
    with suppress(DomainError, FinishedError):
        await log.change(waiting.row.uid, decide)
