# SPDX-License-Identifier: Apache-2.0
"""Lists a job's events in pages, in both orders, by number and by time."""

from collections.abc import Iterable

from finetree_api.trainer.v1 import event_log_pb2, event_pb2
from finetree_runtime.errors import invalid_field
from sqlalchemy import Connection

from finetree_trainer.joblog.log import EventLog, events_expired, future_seq, job_not_found
from finetree_trainer.store import events, jobs

READ_BLOCKS = 64
"""Blocks of one read; a page takes as many reads as it needs."""


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
        return await self._log.store.read(lambda connection: _page(connection, uid, request, position, limit))


def _page(
    connection: Connection, uid: str, request: event_log_pb2.ListEventsRequest, position: int, limit: int
) -> tuple[list[event_pb2.JobEvent], int]:
    row = jobs.load_hot(connection, uid)
    if row is None:
        raise job_not_found(uid)
    after = request.after_seq
    if after > row.last_seq:
        raise future_seq(after, row.last_seq)
    if 0 < after + 1 < row.oldest_seq and after:
        raise events_expired(row.oldest_seq)
    if request.HasField("after_time"):
        moment = request.after_time.ToMicroseconds()
        after = max(after, events.seq_before_time(connection, uid, moment, last_seq=row.last_seq))
    before = request.before_seq or row.last_seq + 1
    reader = _descending if request.order == event_log_pb2.EVENT_ORDER_DESCENDING else _ascending
    found = reader(connection, uid, request, (after, before, position), limit + 1)
    return found[:limit], (found[limit - 1].seq if len(found) > limit else 0)


def requested_kinds(kinds: Iterable[int]) -> int:
    """Mask of the kinds of event that a request names; of all kinds when it names none.

    Raises InvalidArgument INVALID_REQUEST for a number that is no kind's.
    """
    chosen = set(kinds)
    unknown = chosen - set(event_pb2.EventKind.values())
    if unknown:
        raise invalid_field("kinds", f"has {min(unknown)}, which is not a kind of event")
    return events.kinds_mask(chosen) or events.ALL_KINDS


def _ascending(
    connection: Connection, uid: str, request: event_log_pb2.ListEventsRequest, bounds: tuple[int, int, int], count: int
) -> list[event_pb2.JobEvent]:
    after, before, position = bounds
    after = max(after, position)
    mask, found = requested_kinds(request.kinds), list[event_pb2.JobEvent]()
    while after < before - 1 and len(found) < count:
        chunk, after = events.read_after(connection, uid, after, last_seq=before - 1, mask=mask, blocks=READ_BLOCKS)
        found.extend(event for event in chunk if event.seq < before and event.level >= request.min_level)
    return found[:count]


def _descending(
    connection: Connection, uid: str, request: event_log_pb2.ListEventsRequest, bounds: tuple[int, int, int], count: int
) -> list[event_pb2.JobEvent]:
    after, before, position = bounds
    before = min(before, position or before)
    mask, found = requested_kinds(request.kinds), list[event_pb2.JobEvent]()
    while after < before - 1 and len(found) < count:
        chunk, before = events.read_before(connection, uid, before, after=after, mask=mask, blocks=READ_BLOCKS)
        found.extend(event for event in chunk if event.level >= request.min_level)
    return found[:count]
