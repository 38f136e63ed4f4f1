# SPDX-License-Identifier: Apache-2.0
"""The event log's two hot statements: append a block under the fence, read after a cursor.

A block is the serialized `ListEventsResponse` of its events: length-delimited JobEvents that one call writes or reads.
"""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from finetree_api.trainer.v1 import event_log_pb2, event_pb2
from finetree_runtime.errors import FailedPrecondition
from sqlalchemy import Connection, Row, bindparam, text

from finetree_trainer.store.jobs import JobRow, project_of
from finetree_trainer.store.schema import shard_of
from finetree_trainer.store.sealed import Sealed

KIND_BITS = 62
"""Kinds of event that a mask can hold: a signed 64-bit column has as many bits to spare."""

ALL_KINDS = (1 << KIND_BITS) - 1
"""Mask of every kind of event, also of those that later versions add."""

# The row lock that this UPDATE takes is what makes seq gapless; attempt and last_seq in its WHERE are the fence.
_FENCE = text("""
UPDATE jobs SET last_seq = :last_seq, attempt = :attempt, state = :state, suspended = :suspended, priority = :priority,
  place = :place, attempt_started = :attempt_started, cancel_requested = :cancel_requested, update_time = :update_time,
  end_time = :end_time, snapshot = :snapshot
WHERE uid = :uid AND attempt = :expected_attempt AND last_seq = :expected_seq""").bindparams(
    bindparam("snapshot", type_=Sealed)
)

_INSERT = text("""
INSERT INTO event_blocks (job_uid, first_seq, last_seq, shard, attempt, kinds, time_first, time_last, crc, payload)
VALUES (:uid, :first_seq, :last_seq, :shard, :attempt, :kinds, :time_first, :time_last, :crc, :payload)""")

_INSERT_RETURNING = text(f"{_INSERT.text} RETURNING rowid")

# Payloads of other kinds are left on the disk; the numbers of every block are read, so that a missing one shows.
_READ = text("""
SELECT first_seq, last_seq, crc, CASE WHEN (kinds & :mask) <> 0 THEN payload END AS payload FROM event_blocks
WHERE job_uid = :uid AND last_seq > :after AND first_seq >= COALESCE(
  (SELECT MAX(first_seq) FROM event_blocks WHERE job_uid = :uid AND first_seq <= :after + 1), 0)
ORDER BY first_seq LIMIT :headers""")

_READ_BACK = text("""
SELECT first_seq, last_seq, crc, CASE WHEN (kinds & :mask) <> 0 THEN payload END AS payload FROM event_blocks
WHERE job_uid = :uid AND first_seq < :before AND last_seq > :after
ORDER BY first_seq DESC LIMIT :headers""")

HEADERS = 1024
"""Blocks of one read whose numbers are looked at; of these few have events that are asked for."""

_AFTER_TIME = text("""
SELECT first_seq, last_seq, crc, payload FROM event_blocks
WHERE job_uid = :uid AND time_last > :time ORDER BY first_seq LIMIT 1""")

_EXPIRED = text("""
SELECT MAX(last_seq) FROM event_blocks
WHERE job_uid = :uid AND time_last < :before
  AND last_seq < (SELECT MAX(last_seq) FROM event_blocks WHERE job_uid = :uid)""")

_REMOVED = text("""
INSERT INTO meta (key, value) SELECT :key, CAST(position AS TEXT) FROM (
  SELECT MAX(rowid) AS position FROM event_blocks WHERE job_uid = :uid AND last_seq < :seq) WHERE position IS NOT NULL
ON CONFLICT (key) DO UPDATE SET value = excluded.value
  WHERE CAST(excluded.value AS BIGINT) > CAST(meta.value AS BIGINT)""")

# SQLite's insert takes the largest rowid plus one: while the row of the largest is there, it is never given again.
_KEEP_PLACE = text("""
UPDATE event_blocks SET job_uid = '', first_seq = rowid, last_seq = rowid, kinds = 0, crc = 0, payload = :nothing
WHERE job_uid = :uid AND rowid = (SELECT MAX(rowid) FROM event_blocks)""")

_OLD_PLACES = text("DELETE FROM event_blocks WHERE job_uid = '' AND rowid < (SELECT MAX(rowid) FROM event_blocks)")

_CUT_ALL = text("DELETE FROM event_blocks WHERE job_uid = :uid")

_CUT = text("DELETE FROM event_blocks WHERE job_uid = :uid AND last_seq < :seq")
_OLDEST = text("UPDATE jobs SET oldest_seq = :seq WHERE uid = :uid AND oldest_seq < :seq")


class StaleWriterError(Exception):
    """The job has changed since it was read: another attempt or event came first. Nothing was written."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Events after a cursor, and the number up to which everything was looked at (filtered or not)."""

    events: list[event_pb2.JobEvent]
    covered: int
    last_seq: int
    finished: bool = False
    """Whether `last_seq` is the Terminal event's: nothing will follow it."""


def append(
    connection: Connection, row: JobRow, events: Sequence[event_pb2.JobEvent], *, attempt: int, last_seq: int
) -> int:
    """Write `row` as it now is and its new events as one block, unless the job is no longer where it was.

    `attempt` and `last_seq` are what the row was read with. Raises StaleWriterError when they no longer hold. Without
    events only the row is written. Returns the block's position in the order of all jobs, 0 without one.
    """
    values = {name: getattr(row, name) for name in _FENCED} | {"suspended": int(row.suspended)}
    fence = values | {"expected_attempt": attempt, "expected_seq": last_seq}
    if connection.execute(_FENCE, fence).rowcount != 1:
        raise StaleWriterError(row.uid)
    if not events:
        return 0
    payload = event_log_pb2.ListEventsResponse(events=events).SerializeToString()
    times = events[0].event_time.ToMicroseconds(), events[-1].event_time.ToMicroseconds()
    block = {"uid": row.uid, "first_seq": events[0].seq, "last_seq": events[-1].seq, "shard": shard_of(row.uid)}
    block |= {"attempt": row.attempt, "kinds": kinds_mask(event.kind for event in events)}
    block |= {"time_first": times[0], "time_last": times[1]}
    block |= {"crc": zlib.crc32(payload), "payload": payload}
    if connection.dialect.name == "sqlite":  # whose driver tells it anyway; a result with a row costs a tenth more
        return connection.execute(_INSERT, block).lastrowid
    return int(connection.execute(_INSERT_RETURNING, block).scalar_one())


_FENCED = (
    *("uid", "last_seq", "attempt", "state", "attempt_started"),
    *("cancel_requested", "update_time", "end_time", "snapshot", "priority", "place"),
)


def kinds_mask(kinds: Iterable[int]) -> int:
    """Bits 1 << kind of the given kinds of event; 0 for none. Raises ValueError for a number that is no kind's."""
    mask = 0
    for kind in kinds:
        if not 0 <= kind < KIND_BITS:
            raise ValueError(f"{kind} is not the number of a kind of event")
        mask |= 1 << kind
    return mask


def read_after(
    connection: Connection,
    uid: str,
    after: int,
    *,
    last_seq: int,
    mask: int = ALL_KINDS,
    blocks: int = 16,
    size: int = 1 << 62,
) -> tuple[list[event_pb2.JobEvent], int]:
    """Events with numbers above `after` whose kind is in `mask`, from at most `blocks` blocks, oldest first.

    No block follows the one with which they have `size` bytes. The second value is the number up to which everything
    was looked at; `last_seq` is the last that must be there.
    Raises FailedPrecondition EVENTS_DAMAGED where a number up to it is missing.
    """
    query = {"uid": uid, "after": after, "mask": mask, "headers": HEADERS}
    events: list[event_pb2.JobEvent] = []
    covered, rows, read = after, 0, 0
    left = size
    for block in connection.execute(_READ, query):
        if block.first_seq > covered + 1:
            raise _missing(covered + 1, block.first_seq - 1)
        if block.payload is not None:
            events.extend(e for e in _decode(block) if e.seq > after and mask >> e.kind & 1)
            read += 1
            left -= len(block.payload)
        covered, rows = block.last_seq, rows + 1
        if read == blocks or left <= 0:
            return events, covered
    if rows < HEADERS and covered < last_seq:
        raise _missing(covered + 1, last_seq)
    return events, covered


def read_before(
    connection: Connection, uid: str, before: int, *, after: int, mask: int, blocks: int
) -> tuple[list[event_pb2.JobEvent], int]:
    """Events with numbers below `before` and above `after`, newest first, and the number down to which it looked.

    Raises FailedPrecondition EVENTS_DAMAGED where a number between them is missing.
    """
    query = {"uid": uid, "before": before, "after": after, "mask": mask, "headers": HEADERS}
    events: list[event_pb2.JobEvent] = []
    reached, rows, read = before, 0, 0
    for block in connection.execute(_READ_BACK, query):
        if block.last_seq < reached - 1:
            raise _missing(block.last_seq + 1, reached - 1)
        if block.payload is not None:
            kept = [e for e in _decode(block) if after < e.seq < before and mask >> e.kind & 1]
            events.extend(reversed(kept))
            read += 1
        reached, rows = block.first_seq, rows + 1
        if read == blocks:
            return events, max(reached, after + 1)
    if rows < HEADERS and reached > after + 1:
        raise _missing(after + 1, reached - 1)
    return events, max(reached, after + 1)


def seq_before_time(connection: Connection, uid: str, time: int, *, last_seq: int) -> int:
    """The number after which every event is later than `time` (microseconds since 1970)."""
    block = connection.execute(_AFTER_TIME, {"uid": uid, "time": time}).first()
    if block is None:
        return last_seq
    events = _decode(block)
    return int(next(e.seq for e in events if e.event_time.ToMicroseconds() > time)) - 1


def expired_seq(connection: Connection, uid: str, before: int) -> int:
    """Newest number whose whole block is older than `before` (microseconds); never of the last block. 0 for none."""
    return int(connection.execute(_EXPIRED, {"uid": uid, "before": before}).scalar() or 0)


def remove_before(connection: Connection, uid: str, oldest_seq: int) -> None:
    """Delete every block below `oldest_seq`, and keep the position of the newest of them for the project's watchers."""
    _note_removed(connection, uid, before=oldest_seq)
    connection.execute(_CUT, {"uid": uid, "seq": oldest_seq})
    connection.execute(_OLDEST, {"uid": uid, "seq": oldest_seq})


def remove_all(connection: Connection, uid: str) -> None:
    """Delete every block of a job that is deleted; of the newest block of all, a row without events stays."""
    _note_removed(connection, uid, before=_BEYOND)
    connection.execute(_KEEP_PLACE, {"uid": uid, "nothing": b""})
    connection.execute(_OLD_PLACES)
    connection.execute(_CUT_ALL, {"uid": uid})


_BEYOND = (1 << 63) - 1
"""A number that no event has."""


def _note_removed(connection: Connection, uid: str, *, before: int) -> None:
    project = project_of(connection, uid)
    if project is not None:
        connection.execute(_REMOVED, {"key": removed_key(project), "uid": uid, "seq": before})


def removed_key(project: str) -> str:
    """Key in `meta` of the position up to which retention has removed blocks of a project."""
    return f"removed/{project}"


def _decode(block: Row[Any]) -> Sequence[event_pb2.JobEvent]:
    """The events of a block. Raises FailedPrecondition EVENTS_DAMAGED."""
    first, last, crc, payload = tuple(block)
    return decode_block(first, last, crc, payload)


def decode_block(first: int, last: int, crc: int, payload: Any) -> Sequence[event_pb2.JobEvent]:
    """The events of a stored block with the numbers `first` to `last`. Raises FailedPrecondition EVENTS_DAMAGED."""
    if not isinstance(payload, bytes) or zlib.crc32(payload) != crc:
        raise events_damaged(f"Events {first} to {last} of the job are damaged on disk")
    events = event_log_pb2.ListEventsResponse.FromString(payload).events
    if not events or (events[0].seq, events[-1].seq) != (first, last):
        raise events_damaged(f"Events {first} to {last} of the job are stored under wrong numbers")
    return events


def _missing(first: int, last: int) -> FailedPrecondition:
    return events_damaged(f"Events {first} to {last} of the job are missing on disk")


def events_damaged(what: str) -> FailedPrecondition:
    """Build the error for a log of which something is damaged or missing."""
    return FailedPrecondition("EVENTS_DAMAGED", f"{what}; restore the trainer's data from a backup.")
