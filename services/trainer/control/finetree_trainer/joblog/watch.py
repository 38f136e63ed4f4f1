# SPDX-License-Identifier: Apache-2.0
"""Watching a job: a cursor over its log, never a queue. A slow watcher falls behind and costs the job nothing."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from finetree.joblog.metrics import StepSampler
from finetree_api.trainer.v1 import event_log_pb2
from finetree_runtime.errors import ResourceExhausted, Unavailable
from finetree_runtime.meter import NOT_MEASURED
from finetree_runtime.server.limits.file import LimitsFile
from finetree_runtime.server.limits.places import OpenStreams
from finetree_runtime.server.limits.table import Caller
from finetree_runtime.server.replies import SerializedReply

from finetree_trainer.joblog import cursor
from finetree_trainer.joblog.live.batches import Batches, Filter
from finetree_trainer.joblog.log import EventLog, events_expired, future_seq
from finetree_trainer.store import events


class Watches:
    """Serves watchers until `drain`. At most `limit` at once, of a caller as many as `streams` lets in."""

    def __init__(self, log: EventLog, *, limit: int, streams: OpenStreams | None = None) -> None:
        self._log = log
        self._limit = limit
        self._streams = streams or OpenStreams(LimitsFile(None))
        self.made = Batches(log)
        """What makes the batches of all of them."""
        self.lag = NOT_MEASURED
        """Measures the time until events are sent, in seconds."""
        self._open = 0
        self._stop: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def count(self) -> int:
        """Watches that are open."""
        return self._open

    def drain(self) -> None:
        """Send every watcher its cursor and end its stream; it can go on from there with another call."""
        if not self._stop.done():
            self._stop.set_result(None)
            self._log.wake_all()

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
        self, uid: str, after: int, chosen: Filter, *, caller: Caller
    ) -> AsyncIterator[event_log_pb2.WatchJobResponse | SerializedReply]:
        """Batches after number `after` until the Terminal event; an empty batch is a heartbeat that moves the cursor.

        Raises ResourceExhausted TOO_MANY_WATCHERS, and Unavailable SERVER_STOPPING after the last cursor on `drain`.
        """
        with self.admitted(caller), self._log.watching(uid):
            async for batch in self._batches(uid, after, chosen):
                yield batch

    @contextmanager
    def admitted(self, caller: Caller) -> Iterator["asyncio.Future[None]"]:
        """Count a stream of a caller while it is open; yield what is done once the server stops.

        Raises ResourceExhausted TOO_MANY_WATCHERS.
        """
        if self._open >= self._limit:
            text = f"At most {self._limit} watches may be open at once; end some, or use ListEvents."
            raise ResourceExhausted("TOO_MANY_WATCHERS", text, retry_delay=5.0)
        with self._streams.taken("watchers", caller, reason="TOO_MANY_WATCHERS"):
            self._open += 1
            try:
                yield self._stop
            finally:
                self._open -= 1

    async def _batches(
        self, uid: str, after: int, chosen: Filter
    ) -> AsyncIterator[event_log_pb2.WatchJobResponse | SerializedReply]:
        sampler, sent, live = StepSampler(chosen.steps_per_second), -math.inf, False
        while True:
            batch = await self.made.next(uid, after, chosen, sampler)
            after = batch.reached
            late = time.monotonic() - sent >= chosen.heartbeat
            if batch.newest and live:
                # Of who reads what was written before it came, the age of the events says nothing.
                self.lag.observe(max(0, self._log.clock() - batch.newest) / 1e6)
            live = live or after >= batch.last_seq
            if batch.reply is not None or late or self._stop.done():
                yield batch.reply or self.made.heartbeat(uid, after, batch.last_seq, sampler)
                sent = time.monotonic()
            if batch.ended:
                return
            if self._stop.done():
                raise Unavailable(
                    "SERVER_STOPPING",
                    "The server is stopping; call WatchJob again with the last cursor.",
                    retry_delay=1.0,
                )
            if batch.reply is not None and chosen.min_interval:
                await asyncio.wait([self._stop], timeout=chosen.min_interval)
            elif after >= batch.last_seq:
                await self._log.wait(uid, after, seconds=sent + chosen.heartbeat - time.monotonic(), stop=self._stop)
