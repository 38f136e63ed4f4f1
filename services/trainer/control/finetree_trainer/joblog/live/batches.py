# SPDX-License-Identifier: Apache-2.0
"""Batches for watchers: read, filtered, built and serialized once for all that are at the same place of a job's log.

Watchers of a job are woken together (`pace`), so that all who ask for the same events stand at the same number: one of
them makes the batch, the others get its bytes (docs/decisions/0043).
"""

import asyncio
import time
from dataclasses import dataclass

from finetree.joblog.metrics import StepSampler
from finetree_api.trainer.v1 import event_log_pb2, event_pb2
from finetree_runtime.errors import DomainError
from finetree_runtime.server.replies import SerializedReply

from finetree_trainer.joblog import cursor
from finetree_trainer.joblog.log import EventLog
from finetree_trainer.store import events

BATCH_BYTES = 64 * 1024
"""Bytes of a batch: about 200 events. Larger ones save nothing, and a stalled watcher holds no more than one."""

KEPT = 64
"""Batches that are kept for others; at most 4 MiB."""

KEPT_SECONDS = 0.1
"""How long a batch is kept for others: its `server_time` is that of its making."""

_TERMINAL_BIT = 1 << event_pb2.EVENT_KIND_TERMINAL


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events a watcher asks for, and how often. Times are in seconds; a rate of 0 means all step metrics."""

    mask: int = events.ALL_KINDS
    min_level: int = 0
    min_interval: float = 0.0
    steps_per_second: int = 0
    heartbeat: float = 10.0


@dataclass(frozen=True, slots=True)
class Batch:
    """The next events of a watcher. `reached` is the number up to which everything was looked at.

    `reply` is None where nothing passes the filter and the job has not ended.
    """

    reached: int
    last_seq: int
    ended: bool
    reply: SerializedReply | None
    newest: int = 0
    """When its newest event was stored, microseconds since 1970; 0 without events."""


_Key = tuple[str, int, int, int, int]
"""Job, number of its tail, number after which the batch begins, mask of kinds, lowest level.

A batch of an earlier tail may be the end of what its watchers were told, and not of the log: who took it would wait for
events that have come already.
"""


class Batches:
    """Makes the batches of all watchers. `serialized` counts those that were built, for whoever measures."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._kept: dict[_Key, tuple[float, asyncio.Future[Batch]]] = {}
        self.serialized = 0

    async def next(self, uid: str, after: int, chosen: Filter, sampler: StepSampler) -> Batch:
        """Return the batch after a number. Raises the errors of WatchJob about a log that is damaged or expired."""
        if chosen.steps_per_second:
            return await self._make(uid, after, chosen, sampler)
        key = uid, self._log.tail_number(uid), after, chosen.mask, chosen.min_level
        made, batch = self._kept.get(key, (0.0, None))
        if batch is None or time.monotonic() - made > KEPT_SECONDS:
            # A task of its own: the client of whoever came first may go while others wait for the batch.
            batch = asyncio.ensure_future(self._make(uid, after, chosen, sampler))
            self._keep(key, batch)
        try:
            found = batch.result() if batch.done() else await asyncio.shield(batch)
        except DomainError:
            self._drop(key, batch)
            raise
        if found.reply is None:
            self._drop(key, batch)  # the next look may find something
        return found

    def heartbeat(self, uid: str, after: int, last_seq: int, sampler: StepSampler) -> event_log_pb2.WatchJobResponse:
        """Build a batch without events, which moves the cursor."""
        return self._response(uid, after, [], skipped=sampler.take(), last_seq=last_seq)

    def _keep(self, key: _Key, batch: "asyncio.Future[Batch]") -> None:
        while len(self._kept) >= KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept.pop(key, None)
        self._kept[key] = time.monotonic(), batch

    def _drop(self, key: _Key, batch: "asyncio.Future[Batch]") -> None:
        """Keep a batch no longer, unless another one has taken its place."""
        if self._kept.get(key, (0.0, None))[1] is batch:
            del self._kept[key]

    async def _make(self, uid: str, after: int, chosen: Filter, sampler: StepSampler) -> Batch:
        found = await self._log.read(uid, after, mask=chosen.mask | _TERMINAL_BIT)
        shown, reached = _shown(found, chosen, sampler)
        ended = found.finished and reached >= found.last_seq
        if ended and after < reached and (not found.events or found.events[-1].kind != event_pb2.EVENT_KIND_TERMINAL):
            raise events.events_damaged("The job has ended, and its Terminal event is missing on disk")
        last_seq, reply = max(found.last_seq, reached), None
        if shown or ended:
            response = self._response(uid, reached, shown, skipped=sampler.take(), last_seq=last_seq)
            reply = SerializedReply(response.SerializeToString())
            self.serialized += 1
        newest = shown[-1].event_time.ToMicroseconds() if shown else 0
        return Batch(reached, last_seq, ended, reply, newest)

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


def _shown(found: events.Slice, chosen: Filter, sampler: StepSampler) -> tuple[list[event_pb2.JobEvent], int]:
    """The events of a slice that pass the filter, up to a batch's size, and the number that was reached."""
    shown: list[event_pb2.JobEvent] = []
    size = 0
    for event in found.events:
        if event.level < chosen.min_level or not chosen.mask >> event.kind & 1:
            continue
        more = event.ByteSize()
        if size and size + more > BATCH_BYTES:
            return shown, event.seq - 1
        if sampler.keeps(event):
            shown.append(event)
            size += more
    return shown, found.covered
