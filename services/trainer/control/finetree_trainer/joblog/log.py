# SPDX-License-Identifier: Apache-2.0
"""The event log of all jobs: every change of a job is made here, and its watchers are woken from here.

A change is made on the writer thread in one transaction; once it is durable its events join the job's tail in memory
and the job's watchers wake. Nothing is shown that is not stored, and training never waits for a watcher.
"""

import asyncio
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from finetree_api.trainer.v1 import event_pb2
from finetree_data.fail_points import fail_point
from finetree_runtime.errors import NotFound, OutOfRange
from sqlalchemy import Connection

from finetree_trainer.clock import Clock
from finetree_trainer.joblog import states
from finetree_trainer.joblog.live.pace import Pace
from finetree_trainer.joblog.live.tail import TAIL_EVENTS, Tail
from finetree_trainer.joblog.transaction import Transaction
from finetree_trainer.limits.spending import settle
from finetree_trainer.store import events, jobs
from finetree_trainer.store.database import Store

T = TypeVar("T")

READ_BYTES = 64 * 1024
"""Bytes of stored events of one read from the database: a batch of a watcher."""

READ_BLOCKS = 256
"""Blocks of one read from the database; with the bytes it bounds the memory that one watcher can hold."""


class FencedError(Exception):
    """The writer's attempt is not the job's present one. Nothing was written."""

    def __init__(self, current_attempt: int) -> None:
        super().__init__(f"attempt {current_attempt} is the current one")
        self.current_attempt = current_attempt


@dataclass(frozen=True, slots=True)
class Change(Generic[T]):
    """A durable change: what the decision returned, the row after it, and the new events."""

    result: T
    row: jobs.JobRow
    events: list[event_pb2.JobEvent]
    position: int = 0
    """Position of the events' block in the order of all jobs; 0 without events."""


class EventLog:
    """Changes jobs and publishes the changes. Every write to a job goes through `change` or `create`.

    Each of `listeners` is called with the row after every durable change; its record is set for a new job only. Each of
    `followers` is called with every change that has events, in the order of their positions.
    `min_seq` has, for each job whose events retention is about to remove, the oldest number that it will keep.
    """

    def __init__(self, store: Store, clock: Clock | None = None) -> None:
        self.store = store
        self.clock = clock or Clock()
        self.min_seq: dict[str, int] = {}
        self.listeners: list[Callable[[jobs.JobRow], None]] = []
        self.followers: list[Callable[[Change[Any]], None]] = []
        self.fenced_writes = 0
        """Changes that were refused with FencedError since the service began."""
        self._tails: dict[str, Tail] = {}
        self._numbers = itertools.count(1)
        self._loop = asyncio.get_running_loop()
        self.pace = Pace(self._loop)

    async def create(self, make: Callable[[Connection, int], Transaction | jobs.JobRow]) -> jobs.JobRow:
        """Run `make(connection, now)`, which returns a Transaction for a new job or the row of an existing one."""

        def work(connection: Connection) -> Change[None]:
            made = make(connection, self.clock())
            if isinstance(made, jobs.JobRow):
                return Change(None, made, [])
            made.flush()
            position = events.append(connection, made.row, made.events, attempt=0, last_seq=0)
            return Change(None, made.row, made.events, position)

        return (await self._commit(work)).row

    async def change(
        self, uid: str, decide: Callable[[Transaction, Connection], T], *, attempt: int | None = None
    ) -> Change[T]:
        """Load a job, let `decide` add events and move its state, and store all of it in one transaction.

        `decide` runs on the writer thread and must not block. With `attempt`, raises FencedError when the job has
        moved on to another. Raises NotFound JOB_NOT_FOUND, FailedPrecondition RECORD_DAMAGED.
        """

        def work(connection: Connection) -> Change[T]:
            row = jobs.load_hot(connection, uid)
            if row is None:
                raise job_not_found(uid)
            if attempt is not None and row.attempt != attempt:
                raise FencedError(row.attempt)
            expected = row.attempt, row.last_seq
            transaction = Transaction(row, self.clock())
            ended = transaction.finished
            result = decide(transaction, connection)
            position = 0
            if transaction.finished and not ended:
                settle(connection, row, transaction.snapshot, transaction.now)
            if transaction.flush():
                position = events.append(connection, row, transaction.events, attempt=expected[0], last_seq=expected[1])
            return Change(result, row, transaction.events, position)

        return await self._commit(work)

    async def span(self, uid: str) -> jobs.Span:
        """How far a job's log reaches. Raises NotFound JOB_NOT_FOUND."""
        found = await self.store.read(lambda connection: jobs.span(connection, uid))
        if found is None:
            raise job_not_found(uid)
        return found

    async def row(self, uid: str) -> jobs.JobRow:
        """A job's row. Raises NotFound JOB_NOT_FOUND, FailedPrecondition RECORD_DAMAGED."""
        found = await self.store.read(lambda connection: jobs.load(connection, uid))
        if found is None:
            raise job_not_found(uid)
        return found

    @contextmanager
    def watching(self, uid: str) -> Iterator[None]:
        """Keep a job's tail in memory while somebody watches it."""
        tail = self._open(uid)
        tail.watchers += 1
        try:
            yield
        finally:
            tail.watchers -= 1
            self._forget(uid, tail)

    def tail_number(self, uid: str) -> int:
        """Number of a job's tail in memory; 0 without one. Who read while a tail was there hears all that follows."""
        tail = self._tails.get(uid)
        return tail.number if tail is not None else 0

    async def read(
        self, uid: str, after: int, *, mask: int = events.ALL_KINDS, limit: int = TAIL_EVENTS
    ) -> events.Slice:
        """Events after a number: from memory where the tail reaches back so far, else from the database."""
        tail = self._tails.get(uid)
        if tail is not None and tail.reaches(after):
            return tail.slice(after, mask, limit)

        def load(connection: Connection) -> events.Slice:
            reach = jobs.span(connection, uid)
            if reach is None:
                raise job_not_found(uid)
            if after + 1 < reach.oldest_seq:
                raise events_expired(reach.oldest_seq)
            found, covered = events.read_after(
                connection, uid, after, last_seq=reach.last_seq, mask=mask, blocks=READ_BLOCKS, size=READ_BYTES
            )
            return events.Slice(found, covered, reach.last_seq, reach.state in states.TERMINAL)

        return await self.store.read(load)

    async def wait(self, uid: str, after: int, *, seconds: float, stop: "asyncio.Future[None]") -> None:
        """Wait until the log of a watched job moves beyond `after`, `stop` is done, or the seconds are over."""
        tail = self._open(uid)
        if tail.announced <= after and not stop.done():
            await tail.wait(seconds)

    def wake_all(self) -> None:
        """Wake everybody who waits: the server stops."""
        for tail in list(self._tails.values()):
            tail.announce()

    async def _commit(self, work: Callable[[Connection], Change[T]]) -> Change[T]:
        future = self.store.submit(work)
        # Not in this coroutine: a caller that is cancelled while it waits must not keep the watchers from waking.
        future.add_done_callback(lambda done: self._loop.call_soon_threadsafe(self._publish, done))
        return await asyncio.wrap_future(future)

    def _publish(self, done: "Future[Change[T]]") -> None:
        if done.cancelled() or done.exception() is not None:
            self.fenced_writes += not done.cancelled() and isinstance(done.exception(), FencedError)
            return
        change = done.result()
        if change.events:
            fail_point("log.before_publish")
            tail = self._open(change.row.uid)
            tail.extend(change.events)
            tail.finished = change.row.state in states.TERMINAL
            self._announce(change.row.uid, tail, change.row.last_seq)
            for follower in self.followers:
                follower(change)
        for listener in self.listeners:
            listener(change.row)

    def watched(self) -> list[str]:
        """Jobs that somebody watches."""
        return [uid for uid, tail in self._tails.items() if tail.watchers]

    def show(self, uid: str, added: list[event_pb2.JobEvent], last_seq: int) -> None:
        """Show the watchers of a job, if any, what another process has stored.

        `added` are the events up to a number, which follow those shown before; without them its watchers read them.
        """
        tail = self._tails.get(uid)
        if tail is None:
            return
        if added:
            tail.extend(added)
            tail.finished = added[-1].kind == event_pb2.EVENT_KIND_TERMINAL
        else:
            tail.skip()
        self._announce(uid, tail, last_seq)

    def _announce(self, uid: str, tail: Tail, last_seq: int) -> None:
        tail.last_seq = max(tail.last_seq, last_seq)
        if tail.watchers:
            self.pace.wake(tail)
        else:
            tail.announce()
        self._forget(uid, tail)

    def _open(self, uid: str) -> Tail:
        tail = self._tails.get(uid)
        if tail is None:
            tail = self._tails[uid] = Tail(next(self._numbers))
        return tail

    def _forget(self, uid: str, tail: Tail) -> None:
        if not tail.watchers and (tail.finished or not tail.newest) and self._tails.get(uid) is tail:
            del self._tails[uid]


def job_not_found(uid: str) -> NotFound:
    """Build the error for a job that does not exist."""
    return NotFound("JOB_NOT_FOUND", f"There is no job {uid!r}; list the jobs to see those that exist.")


def future_seq(after: int, last_seq: int) -> OutOfRange:
    """Build the error for a number that no event has yet."""
    text = f"The newest event has seq {last_seq}; {after} does not exist yet."
    return OutOfRange("FUTURE_SEQ", text, metadata={"last_seq": str(last_seq)})


def events_expired(oldest_seq: int) -> OutOfRange:
    """Build the error for events that retention has removed."""
    return OutOfRange(
        "EVENTS_EXPIRED",
        f"Events before {oldest_seq} are no longer kept; watch from after_seq {oldest_seq - 1}.",
        metadata={"oldest_seq": str(oldest_seq)},
    )
