# SPDX-License-Identifier: Apache-2.0
"""Artifacts of jobs: cold queries in SQLAlchemy Core."""

from sqlalchemy import Connection, delete, insert, select

from finetree_trainer.store import schema
from finetree_trainer.store.sealed import Damaged, record_damaged

_artifacts = schema.artifacts.c


def put(connection: Connection, job: str, artifact: str, *, attempt: int, record: bytes, now: int) -> None:
    """Insert or replace an artifact of a job: in the transaction that logs it."""
    values = {"job_uid": job, "artifact": artifact, "shard": schema.shard_of(job), "attempt": attempt}
    chosen = (_artifacts.job_uid == job) & (_artifacts.artifact == artifact)
    connection.execute(delete(schema.artifacts).where(chosen))
    connection.execute(insert(schema.artifacts), values | {"create_time": now, "record": record})


def load(connection: Connection, job: str, artifact: str) -> bytes | None:
    """The record of an artifact. Raises FailedPrecondition RECORD_DAMAGED."""
    query = select(_artifacts.record).where(_artifacts.job_uid == job, _artifacts.artifact == artifact)
    found = connection.execute(query).scalar()
    return _whole(found, job, artifact) if found is not None else None


def remove(connection: Connection, job: str, artifact: str) -> None:
    """Delete an artifact's row."""
    connection.execute(delete(schema.artifacts).where(_artifacts.job_uid == job, _artifacts.artifact == artifact))


def page(connection: Connection, job: str, *, after: str, limit: int) -> list[tuple[str, bytes]]:
    """Names and records of a job's artifacts, in the order of their names, after `after`.

    Raises FailedPrecondition RECORD_DAMAGED.
    """
    query = select(_artifacts.artifact, _artifacts.record).where(_artifacts.job_uid == job, _artifacts.artifact > after)
    found = connection.execute(query.order_by(_artifacts.artifact).limit(limit))
    return [(row.artifact, _whole(row.record, job, row.artifact)) for row in found]


def newest_job_with(connection: Connection, artifact: str, *, dataset: str, task: int) -> str | None:
    """The uid of the newest job with a task on a dataset that has an artifact of this name."""
    jobs = schema.jobs.c
    query = select(jobs.uid).join(schema.artifacts, _artifacts.job_uid == jobs.uid)
    query = query.where(jobs.dataset_uid == dataset, jobs.task == task, _artifacts.artifact == artifact)
    found = connection.execute(query.order_by(jobs.uid.desc()).limit(1)).scalar()
    return str(found) if found is not None else None


def _whole(record: bytes, job: str, artifact: str) -> bytes:
    if isinstance(record, Damaged):
        raise record_damaged(f"artifact {artifact} of job {job}")
    return record
