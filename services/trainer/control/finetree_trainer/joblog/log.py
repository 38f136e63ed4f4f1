# SPDX-License-Identifier: Apache-2.0
"""The event log of all jobs: changes go through here, and whoever watches is woken from here.

A change is made on the writer thread in one transaction; once it is durable its events join the job's tail in memory
and the job's watchers wake. Nothing is shown that is not stored, and training never waits for who looks.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from finetree_api.trainer.v1 import event_pb2
from finetree_runtime.errors import NotFound, OutOfRange
from sqlalchemy import Connection

from finetree_trainer.joblog import states
from finetree_trainer.joblog.transaction import Draft
from finetree_trainer.store import events, jobs
from finetree_trainer.store.database import Store

T = TypeVar("T")

TAIL_EVENTS = 512
"""Newest events of a job that are kept in memory; a watcher further behind reads the database."""

TAIL_BYTES = 2 * 1024 * 1024
"""The same in bytes: events with long texts (samples) are few in memory."""

READ_BLOCKS = 16
"""Blocks of one read from the database: bounds what one watcher can hold."""


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


@dataclass(slots=True)
class _Live:
    """What is kept in memory of a job that somebody writes or watches."""

    pulse: asyncio.Future[None]
    last_seq: int = 0
    tail: list[event_pb2.JobEvent] = field(default_factory=list)
    bytes: int = 0
    watchers: int = 0
    finished: bool = False


class Clock:
    """The service's clock in microseconds since 1970; never goes back, so the log's times are in the log's order."""

    def __init__(self) -> None:
        self._last = 0

    def __call__(self) -> int:
        """Now."""
        self._last = max(self._last, time.time_ns() // 1000)
        return self._last


class EventLog:
    """Changes jobs and tells it. Every write to a job goes through `change` or `create`.

    Each of `listeners` is called with the row after every durable change; its record is there for a new job only.
    """

    def __init__(self, store: Store, clock: Clock | None = None) -> None:
        self.store = store
        self.clock = clock or Clock()
        self.min_seq: dict[str, int] = {}
        self.listeners: list[Callable[[jobs.JobRow], None]] = []
        self._live: dict[str, _Live] = {}
        self._loop = asyncio.get_running_loop()

    async def create(self, make: Callable[[Connection, int], Draft | jobs.JobRow]) -> jobs.JobRow:
        """Run `make(connection, now)`: a Draft that it returns is a new job, a row an existing one."""

        def work(connection: Connection) -> Change[None]:
            made = make(connection, self.clock())
            if isinstance(made, jobs.JobRow):
                return Change(None, made, [])
            made.seal()
            events.append(connection, made.row, made.events, attempt=0, last_seq=0)
            return Change(None, made.row, made.events)

        return (await self._commit(work)).row

    async def change(
        self, uid: str, decide: Callable[[Draft, Connection], T], *, attempt: int | None = None
    ) -> Change[T]:
        """Load a job, let `decide` add events and move its state, store all of it in one transaction.

        `decide` runs on the writer thread and must not block. With `attempt`, raises FencedError when the job has
        moved on to another. Raises NotFound JOB_NOT_FOUND.
        """

        def work(connection: Connection) -> Change[T]:
            row = jobs.load_hot(connection, uid)
            if row is None:
                raise job_not_found(uid)
            if attempt is not None and row.attempt != attempt:
                raise FencedError(row.attempt)
            expected = row.attempt, row.last_seq
            draft = Draft(row, self.clock())
            result = decide(draft, connection)
            if draft.seal():
                events.append(connection, row, draft.events, attempt=expected[0], last_seq=expected[1])
            return Change(result, row, draft.events)

        return await self._commit(work)

    async def row(self, uid: str) -> jobs.JobRow:
        """A job's row. Raises NotFound JOB_NOT_FOUND."""
        found = await self.store.read(lambda connection: jobs.load(connection, uid))
        if found is None:
            raise job_not_found(uid)
        return found

    @contextmanager
    def watching(self, uid: str) -> Iterator[None]:
        """Keep a job's tail in memory while somebody watches it."""
        live = self._open(uid)
        live.watchers += 1
        try:
            yield
        finally:
            live.watchers -= 1
            self._forget(uid, live)

    async def read(
        self, uid: str, after: int, *, mask: int = events.ALL_KINDS, limit: int = TAIL_EVENTS
    ) -> events.Slice:
        """Events after a number: from memory where the tail reaches back so far, else from the database."""
        live = self._live.get(uid)
        if live is not None and live.tail and live.tail[0].seq <= after + 1:
            return _from_tail(live, after, mask, limit)

        def load(connection: Connection) -> events.Slice:
            row = jobs.load_hot(connection, uid)
            if row is None:
                raise job_not_found(uid)
            if after + 1 < row.oldest_seq:
                raise events_expired(row.oldest_seq)
            found, covered = events.read_after(
                connection, uid, after, last_seq=row.last_seq, mask=mask, blocks=READ_BLOCKS
            )
            return events.Slice(found, covered, row.last_seq, row.state in states.TERMINAL)

        return await self.store.read(load)

    async def wait(self, uid: str, after: int, seconds: float, stop: "asyncio.Future[None]") -> None:
        """Wait until the log of a watched job moves beyond `after`, `stop` is done, or the seconds are over."""
        live = self._open(uid)
        if live.last_seq <= after:
            await asyncio.wait([live.pulse, stop], timeout=max(0.0, seconds), return_when=asyncio.FIRST_COMPLETED)

    async def _commit(self, work: Callable[[Connection], Change[T]]) -> Change[T]:
        future = self.store.submit(work)
        # Not in this coroutine: a caller that is cancelled while it waits must not keep the watchers from waking.
        future.add_done_callback(lambda done: self._loop.call_soon_threadsafe(self._publish, done))
        return await asyncio.wrap_future(future)

    def _publish(self, done: "Future[Change[T]]") -> None:
        if done.cancelled() or done.exception() is not None:
            return
        change = done.result()
        if change.events:
            live = self._open(change.row.uid)
            if live.tail and live.tail[-1].seq + 1 != change.events[0].seq:
                live.tail.clear()
                live.bytes = 0
            live.tail.extend(change.events)
            live.bytes += sum(event.ByteSize() for event in change.events)
            if len(live.tail) > 2 * TAIL_EVENTS or live.bytes > TAIL_BYTES:
                _shorten(live)
            live.last_seq = max(live.last_seq, change.row.last_seq)
            live.finished = change.row.state in states.TERMINAL
            pulse, live.pulse = live.pulse, self._loop.create_future()
            pulse.set_result(None)
            self._forget(change.row.uid, live)
        for listener in self.listeners:
            listener(change.row)

    def _open(self, uid: str) -> _Live:
        live = self._live.get(uid)
        if live is None:
            live = self._live[uid] = _Live(self._loop.create_future())
        return live

    def _forget(self, uid: str, live: _Live) -> None:
        if not live.watchers and (live.finished or not live.tail) and self._live.get(uid) is live:
            del self._live[uid]


def _shorten(live: _Live) -> None:
    """Keep the newest events, half of what is allowed, so that this is not done for every event."""
    kept, size = 0, 0
    for event in reversed(live.tail):
        size += event.ByteSize()
        if kept >= TAIL_EVENTS or size > TAIL_BYTES // 2:
            break
        kept += 1
    del live.tail[: len(live.tail) - kept]
    live.bytes = sum(event.ByteSize() for event in live.tail)


def _from_tail(live: _Live, after: int, mask: int, limit: int) -> events.Slice:
    start = after + 1 - live.tail[0].seq
    chosen = live.tail[start : start + limit]
    covered = chosen[-1].seq if chosen else after
    kept = [event for event in chosen if mask >> event.kind & 1]
    return events.Slice(kept, covered, live.last_seq, live.finished)


def job_not_found(uid: str) -> NotFound:
    """The refusal for a job that is not there."""
    return NotFound("JOB_NOT_FOUND", f"There is no job {uid!r}; `jobs list` shows the ones there are.")


def events_expired(oldest_seq: int) -> OutOfRange:
    """The refusal for events that retention has removed."""
    return OutOfRange(
        "EVENTS_EXPIRED",
        f"Events before {oldest_seq} are no longer kept; watch from after_seq {oldest_seq - 1}.",
        metadata={"oldest_seq": str(oldest_seq)},
    )
