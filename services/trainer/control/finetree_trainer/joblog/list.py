# SPDX-License-Identifier: Apache-2.0
"""Lists a job's events in pages, in both orders, by number and by time."""

from collections.abc import Iterable
from dataclasses import dataclass

from finetree_api.trainer.v1 import event_log_pb2, event_pb2
from finetree_runtime.errors import invalid_field
from sqlalchemy import Connection

from finetree_trainer.joblog.log import EventLog, events_expired, future_seq, job_not_found
from finetree_trainer.store import events, jobs

READ_BLOCKS = 64
"""Blocks of one read; a page takes as many reads as it needs."""


@dataclass(frozen=True, slots=True)
class _Selection:
    """Which events of a job a request asks for: numbers between `after` and `before`, kinds and level."""

    uid: str
    after: int
    before: int
    mask: int
    min_level: int


class EventLister:
    """Lists events from the database."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    async def page(
        self, uid: str, request: event_log_pb2.ListEventsRequest, *, position: int, limit: int
    ) -> tuple[list[event_pb2.JobEvent], int]:
        """List at most `limit` events; also return the number of the last one if there may be more, else 0.

        `position` is that number of the page before, 0 for the first page. Raises the errors that ListEvents documents.
        """
        descending = request.order == event_log_pb2.EVENT_ORDER_DESCENDING

        def load(connection: Connection) -> list[event_pb2.JobEvent]:
            selection = _select(connection, uid, request)
            if descending:
                return _descending(connection, selection, position or selection.before, count=limit + 1)
            return _ascending(connection, selection, position, count=limit + 1)

        found = await self._log.store.read(load)
        return found[:limit], (found[limit - 1].seq if len(found) > limit else 0)


def _select(connection: Connection, uid: str, request: event_log_pb2.ListEventsRequest) -> _Selection:
    reach = jobs.span(connection, uid)
    if reach is None:
        raise job_not_found(uid)
    after = request.after_seq
    if after > reach.last_seq:
        raise future_seq(after, reach.last_seq)
    if after and after + 1 < reach.oldest_seq:
        raise events_expired(reach.oldest_seq)
    after = max(after, reach.oldest_seq - 1)
    if request.HasField("after_time"):
        moment = request.after_time.ToMicroseconds()
        after = max(after, events.seq_before_time(connection, uid, moment, last_seq=reach.last_seq))
    before = min(request.before_seq or reach.last_seq + 1, reach.last_seq + 1)
    return _Selection(uid, after, before, requested_kinds(request.kinds), request.min_level)


def requested_kinds(kinds: Iterable[int]) -> int:
    """Mask of the kinds of event that a request names; of all kinds when it names none.

    Raises InvalidArgument INVALID_REQUEST for a number that is no kind's.
    """
    chosen = set(kinds)
    unknown = chosen - set(event_pb2.EventKind.values())
    if unknown:
        raise invalid_field("kinds", f"has {min(unknown)}, which is not a kind of event")
    return events.kinds_mask(chosen) or events.ALL_KINDS


def _ascending(connection: Connection, selection: _Selection, position: int, *, count: int) -> list[event_pb2.JobEvent]:
    after, last = max(selection.after, position), selection.before - 1
    found: list[event_pb2.JobEvent] = []
    while after < last and len(found) < count:
        chunk, after = events.read_after(
            connection, selection.uid, after, last_seq=last, mask=selection.mask, blocks=READ_BLOCKS
        )
        found.extend(event for event in chunk if event.seq <= last and event.level >= selection.min_level)
    return found[:count]


def _descending(
    connection: Connection, selection: _Selection, position: int, *, count: int
) -> list[event_pb2.JobEvent]:
    before = min(selection.before, position)
    found: list[event_pb2.JobEvent] = []
    while selection.after < before - 1 and len(found) < count:
        chunk, before = events.read_before(
            connection, selection.uid, before, after=selection.after, mask=selection.mask, blocks=READ_BLOCKS
        )
        found.extend(event for event in chunk if event.level >= selection.min_level)
    return found[:count]
