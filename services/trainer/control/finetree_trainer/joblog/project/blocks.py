# SPDX-License-Identifier: Apache-2.0
"""The event blocks of all jobs of a project, in the order in which they were stored.

That order is SQLite's rowid, and a column of that name in PostgreSQL: one writer thread numbers the blocks as it
inserts them, one transaction after another, so that whoever sees a block also sees every one before it. Retention keeps
the newest block of each job and with it the newest of all, so that a number is never given twice (decision 0041).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from finetree_api.trainer.v1 import event_pb2
from finetree_runtime.errors import OutOfRange
from sqlalchemy import Connection, text

from finetree_trainer.joblog.project.cursor import Place, encode, log_reset, tag_of
from finetree_trainer.store import events

WINDOW = 4096
"""Positions of one read, those of other projects among them: bounds the time that it holds a reader."""

READ_BLOCKS = 64
"""Blocks of one read whose events are decoded; bounds the memory that one watcher can hold."""

# CROSS JOIN keeps SQLite from beginning with the jobs of the project, which would sort all of their blocks.
_READ = """
SELECT b.rowid AS position, b.job_uid AS uid, b.first_seq, b.last_seq, b.crc,
  CASE WHEN (b.kinds & :mask) <> 0{labels} THEN b.payload END AS payload
FROM event_blocks b CROSS JOIN jobs j
WHERE j.uid = b.job_uid AND b.rowid >= :position AND b.rowid <= :last AND j.project = :project ORDER BY b.rowid"""

_LABEL = """ AND EXISTS (
  SELECT 1 FROM job_labels l WHERE l.job_uid = b.job_uid AND l.key = :key{n} AND l.value = :value{n})"""

_AT = text("""
SELECT b.job_uid AS uid, b.first_seq FROM event_blocks b JOIN jobs j ON j.uid = b.job_uid
WHERE b.rowid = :position AND j.project = :project""")

_NEWEST_OF_PROJECT = text("""
SELECT b.rowid AS position, b.job_uid AS uid, b.first_seq, b.last_seq
FROM event_blocks b CROSS JOIN jobs j
WHERE j.uid = b.job_uid AND j.project = :project ORDER BY b.rowid DESC LIMIT 1""")

_NEWEST = text("SELECT MAX(rowid) FROM event_blocks")
_REMOVED = text("SELECT value FROM meta WHERE key = :key")


@dataclass(frozen=True, slots=True)
class Block:
    """A block of the project: where it is, and those of its events that are asked for."""

    position: int
    tag: str
    last_seq: int
    events: list[event_pb2.JobEvent]


@dataclass(frozen=True, slots=True)
class Found:
    """Blocks of the project from a position on, oldest first."""

    blocks: list[Block]
    covered: int
    """Position up to which everything was looked at, other projects' blocks included."""
    newest: int
    """Position of the newest block of all projects."""
    removed: int
    """Position up to which retention has removed blocks of the project; 0 for none."""


def read(connection: Connection, project: str, after: Place, *, mask: int, labels: Mapping[str, str]) -> Found:
    """The project's blocks with events after a place; of those with an event of another kind or job, no events.

    Raises FailedPrecondition EVENTS_DAMAGED.
    """
    newest = int(connection.execute(_NEWEST).scalar() or 0)
    last = min(after.position + WINDOW, newest)
    named = "".join(_LABEL.format(n=number) for number in range(len(labels)))
    query: dict[str, int | str] = {"position": after.position, "last": last, "project": project, "mask": mask}
    for number, (key, value) in enumerate(labels.items()):
        query |= {f"key{number}": key, f"value{number}": value}
    blocks: list[Block] = []
    decoded = 0
    for row in connection.execute(text(_READ.format(labels=named)), query):
        seen = after.seq if row.position == after.position else 0
        shown: list[event_pb2.JobEvent] = []
        if row.payload is not None and seen < row.last_seq:
            stored = events.decode_block(row.first_seq, row.last_seq, row.crc, row.payload)
            shown = [event for event in stored if event.seq > seen and mask >> event.kind & 1]
            decoded += 1
        blocks.append(Block(row.position, tag_of(row.uid, row.first_seq), row.last_seq, shown))
        if decoded == READ_BLOCKS:
            last = row.position
            break
    return Found(blocks, max(last, after.position), newest, removed_through(connection, project))


def removed_through(connection: Connection, project: str) -> int:
    """Position of the newest block of a project that retention has removed; 0 for none."""
    return int(connection.execute(_REMOVED, {"key": events.removed_key(project)}).scalar() or 0)


def newest(connection: Connection, project: str) -> Place:
    """The place after everything that is stored of a project."""
    row = connection.execute(_NEWEST_OF_PROJECT, {"project": project}).first()
    return Place() if row is None else Place(row.position, row.last_seq, tag_of(row.uid, row.first_seq))


def require_place(connection: Connection, project: str, place: Place, epoch: str) -> None:
    """Refuse a place behind which something is missing, or which is in another log than this one.

    Raises FailedPrecondition LOG_RESET, OutOfRange EVENTS_EXPIRED.
    """
    removed = removed_through(connection, project)
    if place.position:
        row = connection.execute(_AT, {"position": place.position, "project": project}).first()
        if row is None:
            if place.position > removed:
                raise log_reset()
        elif place.tag != tag_of(row.uid, row.first_seq):
            raise log_reset()
    if place.position < removed:
        raise changes_expired(project, removed, epoch)


def changes_expired(project: str, removed: int, epoch: str) -> OutOfRange:
    """Build the error for changes that retention has removed."""
    return OutOfRange(
        "EVENTS_EXPIRED",
        "Changes after this cursor are no longer kept; list the jobs, and watch them from the cursor in the metadata.",
        metadata={"cursor": encode(epoch, project, Place(removed))},
    )
