# SPDX-License-Identifier: Apache-2.0
"""What a replica that follows reads: which one leads, and what that one has stored since the last look."""

from dataclasses import dataclass
from typing import Any

from finetree_api.trainer.v1 import event_pb2
from finetree_runtime.errors import FailedPrecondition
from sqlalchemy import Connection, Row, String, bindparam, text

from finetree_trainer.store import events
from finetree_trainer.store.backends.postgresql import FOLDER, LEADER

READ_BLOCKS = 256
"""Blocks of one read; with the limit of a block it bounds the memory that it takes."""

_META = text("SELECT key, value FROM meta WHERE key IN (:folder, :leader)")
_NEWEST = text("SELECT COALESCE(MAX(rowid), 0) FROM event_blocks")

# One writer numbers the blocks and commits one transaction after the other: whoever sees one sees all before it.
_BLOCKS = text("""
SELECT b.rowid AS position, b.job_uid AS uid, j.project, b.first_seq, b.last_seq, b.kinds, b.crc,
  CASE WHEN b.job_uid IN :watched THEN b.payload END AS payload
FROM event_blocks b JOIN jobs j ON j.uid = b.job_uid
WHERE b.rowid > :after ORDER BY b.rowid LIMIT :limit""").bindparams(bindparam("watched", expanding=True, type_=String))


@dataclass(frozen=True, slots=True)
class StoredBlock:
    """A block of events of a job.

    `events` are empty where nobody here watched the job when it was read, and of a block that is damaged: the watchers
    who read it themselves are told.
    """

    position: int
    uid: str
    project: str
    last_seq: int
    kinds: set[int]
    events: list[event_pb2.JobEvent]


def leader_of(connection: Connection) -> tuple[str | None, str]:
    """Read the name of the data folder, None without one, and the address of the replica that leads, "" for none."""
    found = {row.key: row.value for row in connection.execute(_META, {"folder": FOLDER, "leader": LEADER})}
    return found.get(FOLDER), found.get(LEADER, "")


def newest_position(connection: Connection) -> int:
    """Position of the newest block."""
    return int(connection.execute(_NEWEST).scalar_one())


def blocks_after(connection: Connection, position: int, watched: list[str]) -> list[StoredBlock]:
    """The blocks after a position, oldest first, at most READ_BLOCKS; with the events of the jobs that are watched."""
    query = {"after": position, "watched": watched, "limit": READ_BLOCKS}
    return [
        StoredBlock(
            position=row.position,
            uid=row.uid,
            project=row.project,
            last_seq=row.last_seq,
            kinds={kind for kind in range(events.KIND_BITS) if row.kinds >> kind & 1},
            events=_decoded(row),
        )
        for row in connection.execute(_BLOCKS, query)
    ]


def _decoded(row: Row[Any]) -> list[event_pb2.JobEvent]:
    if row.payload is None:
        return []
    try:
        return list(events.decode_block(row.first_seq, row.last_seq, row.crc, row.payload))
    except FailedPrecondition:
        return []
