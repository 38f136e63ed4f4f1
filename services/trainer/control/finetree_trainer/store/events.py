# SPDX-License-Identifier: Apache-2.0
"""The event log's two hot statements: append a block under the fence, read after a cursor.

A block is the serialized `ListEventsResponse` of its events: length-delimited JobEvents that one call writes or reads.
"""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from finetree_api.trainer.v1 import event_log_pb2, event_pb2
from finetree_runtime.errors import FailedPrecondition
from sqlalchemy import Connection, text

from finetree_trainer.store.jobs import JobRow
from finetree_trainer.store.schema import shard_of

KIND_BITS = 62
"""Kinds of event that a mask can hold: a signed 64-bit column has as many bits to spare."""

ALL_KINDS = (1 << KIND_BITS) - 1
"""Mask of every kind of event, also of those that later versions add."""

# The row lock that this UPDATE takes is what makes seq gapless; attempt and last_seq in its WHERE are the fence.
_FENCE = text("""
UPDATE jobs SET last_seq = :last_seq, attempt = :attempt, state = :state, suspended = :suspended,
  attempt_started = :attempt_started, cancel_requested = :cancel_requested, update_time = :update_time,
  end_time = :end_time, snapshot = :snapshot
WHERE uid = :uid AND attempt = :expected_attempt AND last_seq = :expected_seq""")

_INSERT = text("""
INSERT INTO event_blocks (job_uid, first_seq, last_seq, shard, attempt, kinds, time_first, time_last, crc, payload)
VALUES (:uid, :first_seq, :last_seq, :shard, :attempt, :kinds, :time_first, :time_last, :crc, :payload)""")

_READ = text("""
SELECT first_seq, last_seq, crc, payload FROM event_blocks
WHERE job_uid = :uid AND last_seq > :after AND (kinds & :mask) <> 0 AND first_seq >= COALESCE(
  (SELECT MAX(first_seq) FROM event_blocks WHERE job_uid = :uid AND first_seq <= :after + 1), 0)
ORDER BY first_seq LIMIT :blocks""")

_READ_BACK = text("""
SELECT first_seq, last_seq, crc, payload FROM event_blocks
WHERE job_uid = :uid AND first_seq < :before AND last_seq > :after AND (kinds & :mask) <> 0
ORDER BY first_seq DESC LIMIT :blocks""")

_AFTER_TIME = text("""
SELECT first_seq, last_seq, crc, payload FROM event_blocks
WHERE job_uid = :uid AND time_last > :time ORDER BY first_seq LIMIT 1""")

_EXPIRED = text("""
SELECT MAX(last_seq) FROM event_blocks
WHERE job_uid = :uid AND time_last < :before
  AND last_seq < (SELECT MAX(last_seq) FROM event_blocks WHERE job_uid = :uid)""")

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
) -> None:
    """Write `row` as it now is and its new events as one block, unless the job is no longer where it was.

    `attempt` and `last_seq` are what the row was read with. Raises StaleWriterError when they no longer hold. Without
    events only the row is written.
    """
    values = {name: getattr(row, name) for name in _FENCED} | {"suspended": int(row.suspended)}
    fence = values | {"expected_attempt": attempt, "expected_seq": last_seq}
    if connection.execute(_FENCE, fence).rowcount != 1:
        raise StaleWriterError(row.uid)
    if not events:
        return
    payload = event_log_pb2.ListEventsResponse(events=events).SerializeToString()
    times = events[0].event_time.ToMicroseconds(), events[-1].event_time.ToMicroseconds()
    block = {"uid": row.uid, "first_seq": events[0].seq, "last_seq": events[-1].seq, "shard": shard_of(row.uid)}
    block |= {"attempt": row.attempt, "kinds": kinds_mask(event.kind for event in events)}
    block |= {"time_first": times[0], "time_last": times[1]}
    connection.execute(_INSERT, block | {"crc": zlib.crc32(payload), "payload": payload})


_FENCED = (
    *("uid", "last_seq", "attempt", "state", "attempt_started"),
    *("cancel_requested", "update_time", "end_time", "snapshot"),
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
    connection: Connection, uid: str, after: int, *, last_seq: int, mask: int = ALL_KINDS, blocks: int = 16
) -> tuple[list[event_pb2.JobEvent], int]:
    """Events with numbers above `after` whose kind is in `mask`, from at most `blocks` blocks, oldest first.

    The second value is the number up to which everything was looked at; `last_seq` is the job's newest.
    """
    query = {"uid": uid, "after": after, "mask": mask, "blocks": blocks}
    found = connection.execute(_READ, query).all()
    events: list[event_pb2.JobEvent] = []
    for block in found:
        events.extend(e for e in _decode(block.crc, block.payload) if e.seq > after and mask >> e.kind & 1)
    # Fewer blocks than asked for: nothing else up to the end matches, so the cursor may move there.
    covered = found[-1].last_seq if len(found) == blocks else max(last_seq, after)
    return events, covered


def read_before(
    connection: Connection, uid: str, before: int, *, after: int, mask: int, blocks: int
) -> tuple[list[event_pb2.JobEvent], int]:
    """Events with numbers below `before` and above `after`, newest first, and the number down to which it looked."""
    query = {"uid": uid, "before": before, "after": after, "mask": mask, "blocks": blocks}
    found = connection.execute(_READ_BACK, query).all()
    events: list[event_pb2.JobEvent] = []
    for block in found:
        kept = [e for e in _decode(block.crc, block.payload) if after < e.seq < before and mask >> e.kind & 1]
        events.extend(reversed(kept))
    return events, (found[-1].first_seq if len(found) == blocks else after + 1)


def seq_before_time(connection: Connection, uid: str, time: int, *, last_seq: int) -> int:
    """The number after which every event is later than `time` (microseconds since 1970)."""
    block = connection.execute(_AFTER_TIME, {"uid": uid, "time": time}).first()
    if block is None:
        return last_seq
    events = _decode(block.crc, block.payload)
    return int(next(e.seq for e in events if e.event_time.ToMicroseconds() > time)) - 1


def expired_seq(connection: Connection, uid: str, before: int) -> int:
    """Newest number whose whole block is older than `before` (microseconds); never of the last block. 0 for none."""
    return int(connection.execute(_EXPIRED, {"uid": uid, "before": before}).scalar() or 0)


def remove_before(connection: Connection, uid: str, oldest_seq: int) -> None:
    """Delete every block below `oldest_seq`."""
    connection.execute(_CUT, {"uid": uid, "seq": oldest_seq})
    connection.execute(_OLDEST, {"uid": uid, "seq": oldest_seq})


def _decode(crc: int, payload: bytes) -> Sequence[event_pb2.JobEvent]:
    if zlib.crc32(payload) != crc:
        raise FailedPrecondition(
            "EVENTS_DAMAGED", "A block of the event log is damaged on disk; restore the trainer's data from a backup."
        )
    return event_log_pb2.ListEventsResponse.FromString(payload).events
