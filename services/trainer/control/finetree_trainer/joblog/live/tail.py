# SPDX-License-Identifier: Apache-2.0
"""The newest events of a job in memory, and the watchers that wait for more."""

import asyncio
from dataclasses import dataclass, field

from finetree_api.trainer.v1 import event_pb2

from finetree_trainer.store import events

TAIL_EVENTS = 512
"""Newest events of a job that are kept in memory; a watcher further behind reads the database."""

TAIL_BYTES = 2 * 1024 * 1024
"""Bytes of a job's newest events that are kept in memory: of events with long texts (samples), few are."""


@dataclass(slots=True, eq=False)
class Tail:
    """The newest events of a job that somebody writes or watches.

    Watchers see events up to `announced`, which moves when they are woken: so all of them are sent the same batches.
    """

    number: int = 0
    """Differs from that of every earlier tail, also of the same job."""
    last_seq: int = 0
    announced: int = 0
    newest: list[event_pb2.JobEvent] = field(default_factory=list)
    bytes: int = 0
    watchers: int = 0
    finished: bool = False
    waiting: set[asyncio.Future[None]] = field(default_factory=set)

    def extend(self, added: list[event_pb2.JobEvent]) -> None:
        """Append events that follow the newest one; after a gap, keep these alone."""
        if self.newest and self.newest[-1].seq + 1 != added[0].seq:
            self.skip()
        self.newest.extend(added)
        self.bytes += sum(event.ByteSize() for event in added)
        if len(self.newest) > 2 * TAIL_EVENTS or self.bytes > TAIL_BYTES:
            self._shorten()

    def skip(self) -> None:
        """Keep no event: others have followed that are not here."""
        self.newest.clear()
        self.bytes = 0

    def _shorten(self) -> None:
        """Keep the newest events, half of what is allowed, so that this is not done for every event."""
        kept, size = 0, 0
        for event in reversed(self.newest):
            size += event.ByteSize()
            if kept >= TAIL_EVENTS or size > TAIL_BYTES // 2:
                break
            kept += 1
        del self.newest[: len(self.newest) - kept]
        self.bytes = sum(event.ByteSize() for event in self.newest)

    def reaches(self, after: int) -> bool:
        """Whether every announced event after a number is here."""
        return bool(self.newest) and self.newest[0].seq <= after + 1

    def slice(self, after: int, mask: int, limit: int) -> events.Slice:
        """Announced events after a number that the tail reaches back to."""
        first = self.newest[0].seq
        start, end = after + 1 - first, self.announced + 1 - first
        chosen = self.newest[start : min(start + limit, max(start, end))]
        covered = chosen[-1].seq if chosen else after
        kept = [event for event in chosen if mask >> event.kind & 1]
        last = max(self.announced, after)
        return events.Slice(kept, covered, last, self.finished and last >= self.last_seq)

    def announce(self) -> None:
        """Show the watchers what there is, and wake those that wait."""
        self.announced = self.last_seq
        waiting, self.waiting = self.waiting, set()
        for woken in waiting:
            if not woken.done():
                woken.set_result(None)

    async def wait(self, seconds: float) -> None:
        """Wait until something is announced, or the seconds are over."""
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()
        self.waiting.add(woken)
        timer = loop.call_later(max(0.0, seconds), _wake, woken)
        try:
            await woken
        finally:
            timer.cancel()
            self.waiting.discard(woken)


def _wake(woken: "asyncio.Future[None]") -> None:
    if not woken.done():
        woken.set_result(None)
