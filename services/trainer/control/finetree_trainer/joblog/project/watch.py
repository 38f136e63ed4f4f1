# SPDX-License-Identifier: Apache-2.0
"""Watching all jobs of a project: a cursor over the stored order, never a queue.

A change of a job wakes the watchers of its project that ask for its kind, and they read what is stored. A project that
nobody watches costs a change one look into a dictionary.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from finetree_api.trainer.v1 import event_pb2, waiting_pb2
from finetree_runtime.errors import Unavailable
from finetree_runtime.server.limits.table import Caller
from sqlalchemy import Connection

from finetree_trainer.joblog.live.batches import BATCH_BYTES
from finetree_trainer.joblog.log import Change, EventLog
from finetree_trainer.joblog.project import blocks, cursor
from finetree_trainer.joblog.project.cursor import Place
from finetree_trainer.joblog.watch import Watches
from finetree_trainer.store import events

USUAL_KINDS = (
    event_pb2.EVENT_KIND_STATE_CHANGED,
    event_pb2.EVENT_KIND_ARTIFACT_READY,
    event_pb2.EVENT_KIND_ALERT,
    event_pb2.EVENT_KIND_TERMINAL,
)
"""Kinds that a watcher is sent which asks for none."""


@dataclass(frozen=True, slots=True)
class ProjectFilter:
    """Which changes a watcher asks for, and how often. Times are in seconds."""

    mask: int
    min_level: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    min_interval: float = 0.0
    heartbeat: float = 10.0


@dataclass(slots=True)
class _Signal:
    """Wakes the watchers of one project. `newest` has, by kind of event, the position of the newest one."""

    open: int = 0
    newest: dict[int, int] = field(default_factory=dict)
    waiting: list[tuple[int, asyncio.Future[None]]] = field(default_factory=list)

    def publish(self, position: int, kinds: set[int]) -> None:
        self.newest |= dict.fromkeys(kinds, position)
        mask = events.kinds_mask(kinds)
        for wanted, woken in self.waiting:
            if wanted & mask and not woken.done():
                woken.set_result(None)

    async def wait(self, mask: int, after: int, *, seconds: float, stop: "asyncio.Future[None]") -> None:
        """Wait for an event of these kinds behind a position, until `stop` is done or the seconds are over."""
        if any(mask >> kind & 1 and position > after for kind, position in self.newest.items()):
            return
        entry = mask, asyncio.get_running_loop().create_future()
        self.waiting.append(entry)
        try:
            await asyncio.wait([entry[1], stop], timeout=max(0.0, seconds), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.waiting.remove(entry)


class ProjectWatches:
    """Serves watchers of whole projects; they count among those of `watches`, and end with them."""

    def __init__(self, log: EventLog, watches: Watches) -> None:
        self._log, self._watches = log, watches
        self._signals: dict[str, _Signal] = {}
        log.followers.append(self._published)

    async def start(self, request: waiting_pb2.WatchJobsRequest, project: str) -> Place:
        """Find the place after which a request begins. Raises the errors that WatchJobs documents."""
        store = self._log.store
        match request.WhichOneof("start"):
            case "cursor":
                place = cursor.decode(request.cursor, store.log_epoch, project)
                await store.read(lambda c: blocks.require_place(c, project, place, store.log_epoch))
                return place
            case "now":
                return await store.read(partial(_newest, project))
            case _:
                return Place()

    async def watch(
        self, project: str, after: Place, chosen: ProjectFilter, *, caller: Caller
    ) -> AsyncIterator[waiting_pb2.WatchJobsResponse]:
        """Batches after a place, without end; an empty batch is a heartbeat that moves the cursor.

        Raises ResourceExhausted TOO_MANY_WATCHERS, OutOfRange EVENTS_EXPIRED, FailedPrecondition EVENTS_DAMAGED, and
        Unavailable SERVER_STOPPING after the last cursor.
        """
        with self._watches.admitted(caller) as stop, self._listening(project) as signal:
            sent, place, reached = -math.inf, after, after
            removed: int | None = None
            while True:
                read = partial(
                    blocks.read, project=project, after=reached, mask=chosen.mask, labels=dict(chosen.labels)
                )
                found = await self._log.store.read(read)
                removed = found.removed if removed is None else removed
                if found.removed > max(removed, reached.position):
                    raise blocks.changes_expired(project, found.removed, self._log.store.log_epoch)
                shown, place, reached = _shown(found, chosen, place)
                more = reached.position < found.newest
                if shown or stop.done() or time.monotonic() - sent >= chosen.heartbeat:
                    yield self._response(project, shown, place, more=more)
                    sent = time.monotonic()
                if stop.done():
                    raise Unavailable(
                        "SERVER_STOPPING",
                        "The server is stopping; call WatchJobs again with the last cursor.",
                        retry_delay=1.0,
                    )
                if shown and chosen.min_interval:
                    await asyncio.wait([stop], timeout=chosen.min_interval)
                elif not more:
                    rest = sent + chosen.heartbeat - time.monotonic()
                    await signal.wait(chosen.mask, reached.position, seconds=rest, stop=stop)

    @contextmanager
    def _listening(self, project: str) -> Iterator[_Signal]:
        signal = self._signals.setdefault(project, _Signal())
        signal.open += 1
        try:
            yield signal
        finally:
            signal.open -= 1
            if not signal.open:
                del self._signals[project]

    def publish(self, project: str, position: int, kinds: set[int]) -> None:
        """Wake the watchers of a project who ask for one of the kinds of event in the block at a position."""
        signal = self._signals.get(project)
        if signal is not None:
            signal.publish(position, kinds)

    def _published(self, change: Change[Any]) -> None:
        self.publish(change.row.project, change.position, {int(event.kind) for event in change.events})

    def _response(
        self, project: str, shown: list[tuple[event_pb2.JobEvent, Place]], place: Place, *, more: bool
    ) -> waiting_pb2.WatchJobsResponse:
        epoch = self._log.store.log_epoch
        response = waiting_pb2.WatchJobsResponse(
            changes=[
                waiting_pb2.JobChange(event=event, cursor=cursor.encode(epoch, project, at)) for event, at in shown
            ],
            cursor=cursor.encode(epoch, project, place),
            more=more,
        )
        response.server_time.FromMicroseconds(self._log.clock())
        return response


def _newest(project: str, connection: Connection) -> Place:
    return blocks.newest(connection, project)


def _shown(
    found: blocks.Found, chosen: ProjectFilter, place: Place
) -> tuple[list[tuple[event_pb2.JobEvent, Place]], Place, Place]:
    """Events that pass the filter, up to a batch's size; the place after them, and where to read on.

    The first place is a block of the project's, as a cursor must be; the second may be another project's.
    """
    shown: list[tuple[event_pb2.JobEvent, Place]] = []
    size = 0
    for block in found.blocks:
        for event in block.events:
            if event.level < chosen.min_level:
                continue
            if size and size + event.ByteSize() > BATCH_BYTES:
                return shown, place, place
            place = Place(block.position, event.seq, block.tag)
            shown.append((event, place))
            size += event.ByteSize()
        place = Place(block.position, block.last_seq, block.tag)
    reached = place if place.position == found.covered else Place(found.covered)
    return shown, place, reached
