# SPDX-License-Identifier: Apache-2.0
"""Jobs that were deleted: what a database keeps of them, and the one transaction that removes all the rest."""

from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select, update

from finetree_trainer.store import events, schema

_removed = schema.removed_jobs.c

DELETED = "DELETED"
EXPIRED = "EXPIRED"
"""Causes: asked for, or by retention."""

_OF_A_JOB = (
    schema.job_labels.c.job_uid,
    schema.artifacts.c.job_uid,
    schema.attempts.c.job_uid,
    schema.observation_reports.c.job_uid,
    schema.job_records.c.uid,
    schema.jobs.c.uid,
)
"""Columns that hold a job's uid, in every table but its events and those of what outlives it."""


@dataclass(frozen=True, slots=True)
class RemovedJob:
    """A row of `removed_jobs`; the time is in microseconds since 1970."""

    uid: str
    project: str
    cause: str
    remove_time: int
    freed_bytes: int


_COLUMNS = tuple(schema.removed_jobs.c[name] for name in RemovedJob.__dataclass_fields__)


def remove(connection: Connection, job: RemovedJob) -> None:
    """Delete every row of a job, and note that it was deleted and that its files are still there."""
    events.remove_all(connection, job.uid)
    for column in _OF_A_JOB:
        connection.execute(delete(column.table).where(column == job.uid))
    values = {name: getattr(job, name) for name in RemovedJob.__dataclass_fields__}
    connection.execute(insert(schema.removed_jobs), values | {"shard": schema.shard_of(job.uid), "files_left": 1})


def find(connection: Connection, uid: str) -> RemovedJob | None:
    """What is known of a job that was deleted; None where there never was one."""
    found = connection.execute(select(*_COLUMNS).where(_removed.uid == uid)).first()
    return RemovedJob(*found) if found is not None else None


def with_files(connection: Connection) -> list[str]:
    """Uids of deleted jobs whose files may still be there."""
    query = select(_removed.uid).where(_removed.files_left == 1).order_by(_removed.uid)
    return list(connection.execute(query).scalars())


def note_files_gone(connection: Connection, uid: str) -> None:
    """Note that the folder of a deleted job is gone."""
    connection.execute(update(schema.removed_jobs).where(_removed.uid == uid).values(files_left=0))
