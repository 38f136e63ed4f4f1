# SPDX-License-Identifier: Apache-2.0
"""Watching a job: a cursor over its log, never a queue. A slow watcher falls behind and costs the job nothing."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from finetree.joblog.metrics import StepSampler
from finetree_api.trainer.v1 import event_log_pb2, event_pb2
from finetree_runtime.errors import ResourceExhausted, Unavailable

from finetree_trainer.joblog import cursor
from finetree_trainer.joblog.log import EventLog, events_expired, future_seq
from finetree_trainer.store import events

BATCH_BYTES = 64 * 1024
"""Bytes of a batch: about 200 events. Larger ones save nothing, and a stalled watcher holds no more than one."""

_TERMINAL_BIT = 1 << event_pb2.EVENT_KIND_TERMINAL


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events a watcher asks for, and how often. Times are in seconds; a rate of 0 means all step metrics."""

    mask: int = events.ALL_KINDS
    min_level: int = 0
    min_interval: float = 0.0
    steps_per_second: int = 0
    heartbeat: float = 10.0


class Watches:
    """Serves watchers until `drain`. At most `limit` at once, `per_principal` of one caller."""

    def __init__(self, log: EventLog, *, limit: int, per_principal: int) -> None:
        self._log = log
        self._limit = limit
        self._per_principal = per_principal
        self._open: Counter[str] = Counter()
        self._stop: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def drain(self) -> None:
        """Send every watcher its cursor and end its stream; it can go on from there with another call."""
        if not self._stop.done():
            self._stop.set_result(None)

    async def start(self, request: event_log_pb2.WatchJobRequest, uid: str) -> int:
        """Find the number after which a request begins. Raises the errors that WatchJob documents."""
        reach = await self._log.span(uid)
        match request.WhichOneof("start"):
            case "cursor":
                after = cursor.decode(request.cursor, self._log.store.log_epoch, uid)
            case "after_seq":
                after = request.after_seq
            case "after_time":
                moment = request.after_time.ToMicroseconds()
                after = await self._log.store.read(
                    lambda connection: events.seq_before_time(connection, uid, moment, last_seq=reach.last_seq)
                )
            case "now":
                after = reach.last_seq
            case _:
                after = 0
        if after > reach.last_seq:
            raise future_seq(after, reach.last_seq)
        if after + 1 < reach.oldest_seq:
            raise events_expired(reach.oldest_seq)
        return after

    async def watch(
        self, uid: str, after: int, chosen: Filter, *, principal: str
    ) -> AsyncIterator[event_log_pb2.WatchJobResponse]:
        """Batches after number `after` until the Terminal event; an empty batch is a heartbeat that moves the cursor.

        Raises ResourceExhausted TOO_MANY_WATCHERS, and Unavailable SERVER_STOPPING after the last cursor on `drain`.
        """
        with self.admitted(principal), self._log.watching(uid):
            async for batch in self._batches(uid, after, chosen):
                yield batch

    @contextmanager
    def admitted(self, principal: str) -> Iterator["asyncio.Future[None]"]:
        """Count a stream of a caller while it is open; yield what is done once the server stops.

        Raises ResourceExhausted TOO_MANY_WATCHERS.
        """
        self._admit(principal)
        try:
            yield self._stop
        finally:
            self._open[principal] -= 1
            if not self._open[principal]:
                del self._open[principal]

    async def _batches(self, uid: str, after: int, chosen: Filter) -> AsyncIterator[event_log_pb2.WatchJobResponse]:
        sampler = StepSampler(chosen.steps_per_second)
        sent = -math.inf
        while True:
            found, begun = await self._log.read(uid, after, mask=chosen.mask | _TERMINAL_BIT), after
            shown, after = _shown(found, chosen, sampler)
            ended = found.finished and after >= found.last_seq
            if ended and begun < after and (not found.events or found.events[-1].kind != event_pb2.EVENT_KIND_TERMINAL):
                raise events.events_damaged("The job has ended, and its Terminal event is missing on disk")
            late = time.monotonic() - sent >= chosen.heartbeat
            if shown or ended or late or self._stop.done():
                skipped = sampler.take()
                yield self._response(uid, after, shown, skipped=skipped, last_seq=max(found.last_seq, after))
                sent = time.monotonic()
            if ended:
                return
            if self._stop.done():
                raise Unavailable(
                    "SERVER_STOPPING",
                    "The server is stopping; call WatchJob again with the last cursor.",
                    retry_delay=1.0,
                )
            if shown and chosen.min_interval:
                await asyncio.wait([self._stop], timeout=chosen.min_interval)
            elif after >= found.last_seq:
                rest = sent + chosen.heartbeat - time.monotonic()
                await self._log.wait(uid, after, seconds=rest, stop=self._stop)

    def _response(
        self,
        uid: str,
        after: int,
        shown: list[event_pb2.JobEvent],
        *,
        skipped: list[event_log_pb2.SkippedRange],
        last_seq: int,
    ) -> event_log_pb2.WatchJobResponse:
        response = event_log_pb2.WatchJobResponse(
            events=shown,
            cursor=cursor.encode(self._log.store.log_epoch, uid, after),
            skipped=skipped,
            min_seq=self._log.min_seq.get(uid, 1),
            last_seq=last_seq,
        )
        response.server_time.FromMicroseconds(self._log.clock())
        return response

    def _admit(self, principal: str) -> None:
        if self._open.total() >= self._limit or self._open[principal] >= self._per_principal:
            raise ResourceExhausted(
                "TOO_MANY_WATCHERS",
                f"At most {self._per_principal} watches of one caller and {self._limit} in all may be open at once; "
                "end some, or use ListEvents.",
                retry_delay=5.0,
            )
        self._open[principal] += 1


def _shown(found: events.Slice, chosen: Filter, sampler: StepSampler) -> tuple[list[event_pb2.JobEvent], int]:
    """The events of a slice that pass the filter, up to a batch's size, and the number that was reached."""
    shown: list[event_pb2.JobEvent] = []
    size = 0
    for event in found.events:
        if size and size + event.ByteSize() > BATCH_BYTES:
            return shown, event.seq - 1
        if event.level < chosen.min_level or not chosen.mask >> event.kind & 1 or not sampler.keeps(event):
            continue
        shown.append(event)
        size += event.ByteSize()
    return shown, found.covered
