# SPDX-License-Identifier: Apache-2.0
"""Jobs and their labels: cold queries in SQLAlchemy Core."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetree_api.trainer.v1 import job_pb2
from sqlalchemy import Connection, and_, bindparam, delete, func, insert, or_, select, update

from finetree_trainer.store import schema
from finetree_trainer.store.sealed import Damaged, record_damaged

_jobs = schema.jobs.c


@dataclass(slots=True)
class JobRow:
    """A row of `jobs`. `task` is a TaskKind; times are microseconds since 1970, 0 for never."""

    uid: str
    project: str
    owner: str
    task: int
    state: int
    suspended: bool
    attempt: int
    last_seq: int
    oldest_seq: int
    attempt_started: int
    cancel_requested: int
    create_time: int
    update_time: int
    end_time: int
    dataset_uid: str
    evaluation_uid: str
    snapshot: bytes
    priority: int = job_pb2.JOB_PRIORITY_NORMAL
    place: str = ""
    """Its place among the jobs of its priority (scheduling/order/place.py); empty for that of its creation."""
    record: bytes = b""
    """The Job as created, with the labels and names that it has now; left empty where only what changes is read."""

    @property
    def name(self) -> str:
        """Resource name."""
        return f"projects/{self.project}/jobs/{self.uid}"

    @property
    def damaged(self) -> bool:
        """Whether its record or its snapshot is damaged on disk: what the columns say is all that is known of it."""
        return isinstance(self.snapshot, Damaged) or isinstance(self.record, Damaged)


_FIELDS = tuple(name for name in JobRow.__dataclass_fields__ if name != "record")
_HOT = tuple(schema.jobs.c[name] for name in _FIELDS)
_WHOLE = select(*_HOT, schema.job_records.c.record).join(schema.job_records, schema.job_records.c.uid == _jobs.uid)


# Made once: they are asked for with each batch of events and each call, and making one costs as much as its execution.
_ONE = _jobs.uid == bindparam("of")
_WHOLE_OF, _HOT_OF, _PROJECT_OF = _WHOLE.where(_ONE), select(*_HOT).where(_ONE), select(_jobs.project).where(_ONE)
_SPAN_OF = select(_jobs.last_seq, _jobs.oldest_seq, _jobs.state).where(_ONE)


def _row(found: Sequence[Any]) -> JobRow:
    row = JobRow(*found)
    row.suspended = bool(row.suspended)
    return row


def create(connection: Connection, row: JobRow, labels: Mapping[str, str]) -> None:
    """Insert a job and its labels."""
    values: dict[str, Any] = {name: getattr(row, name) for name in _FIELDS}
    values |= {"suspended": int(row.suspended), "shard": schema.shard_of(row.uid)}
    connection.execute(insert(schema.jobs), values)
    connection.execute(insert(schema.job_records), {"uid": row.uid, "record": row.record})
    _insert_labels(connection, row.uid, labels)


def replace_record(connection: Connection, uid: str, record: bytes, labels: Mapping[str, str]) -> None:
    """Write the record of a job anew, and its labels, which are in it and in a table of their own."""
    connection.execute(update(schema.job_records).where(schema.job_records.c.uid == uid).values(record=record))
    connection.execute(delete(schema.job_labels).where(schema.job_labels.c.job_uid == uid))
    _insert_labels(connection, uid, labels)


def _insert_labels(connection: Connection, uid: str, labels: Mapping[str, str]) -> None:
    if labels:
        rows = [{"job_uid": uid, "key": key, "value": value} for key, value in labels.items()]
        connection.execute(insert(schema.job_labels), rows)


def load(connection: Connection, uid: str) -> JobRow | None:
    """The job of a uid, with its record. Raises FailedPrecondition RECORD_DAMAGED."""
    found = connection.execute(_WHOLE_OF, {"of": uid}).first()
    return _whole(_row(found)) if found is not None else None


def project_of(connection: Connection, uid: str) -> str | None:
    """The project of a job; None where there is no such job."""
    return connection.execute(_PROJECT_OF, {"of": uid}).scalar()


def load_hot(connection: Connection, uid: str) -> JobRow | None:
    """The job of a uid without its record: enough to change it. Raises FailedPrecondition RECORD_DAMAGED."""
    found = connection.execute(_HOT_OF, {"of": uid}).first()
    return _whole(_row(found)) if found is not None else None


@dataclass(frozen=True, slots=True)
class Span:
    """How far the log of a job reaches, and in which state it is: enough to read its events."""

    last_seq: int
    oldest_seq: int
    state: int


def span(connection: Connection, uid: str) -> Span | None:
    """How far the log of a job reaches, also where its record is damaged."""
    found = connection.execute(_SPAN_OF, {"of": uid}).first()
    return Span(*found) if found is not None else None


def _whole(row: JobRow) -> JobRow:
    if row.damaged:
        raise record_damaged(f"job {row.uid}")
    return row


def page(
    connection: Connection,
    project: str,
    *,
    before: str,
    limit: int,
    states: Sequence[int] = (),
    tasks: Sequence[int] = (),
    labels: Mapping[str, str] | None = None,
) -> list[JobRow]:
    """Jobs of a project, newest first, with uids below `before` ("" means all): uids grow with time.

    Damaged ones are among them.
    """
    query = _WHOLE.where(_jobs.project == project).order_by(_jobs.uid.desc()).limit(limit)
    if before:
        query = query.where(_jobs.uid < before)
    if states:
        query = query.where(_jobs.state.in_(states))
    if tasks:
        query = query.where(_jobs.task.in_(tasks))
    for key, value in (labels or {}).items():
        label = schema.job_labels.c
        matching = select(label.job_uid).where(and_(label.key == key, label.value == value))
        query = query.where(_jobs.uid.in_(matching))
    return [_row(found) for found in connection.execute(query)]


def in_states(connection: Connection, states: Iterable[int]) -> list[JobRow]:
    """Every job in one of these states, oldest first; damaged ones are among them."""
    query = _WHOLE.where(_jobs.state.in_(list(states))).order_by(_jobs.uid)
    return [_row(found) for found in connection.execute(query)]


def ended(connection: Connection) -> set[str]:
    """Uids of every job that has ended."""
    return set(connection.execute(select(_jobs.uid).where(_jobs.end_time > 0)).scalars())


def ended_of(connection: Connection, uids: Iterable[str]) -> set[str]:
    """Those of some jobs that have ended."""
    query = select(_jobs.uid).where(_jobs.uid.in_(list(uids)), _jobs.end_time > 0)
    return set(connection.execute(query).scalars())


def count_in_state(connection: Connection, state: int) -> int:
    """How many jobs are in a state."""
    return int(connection.execute(select(func.count()).where(_jobs.state == state)).scalar_one())


def user_of_dataset(connection: Connection, dataset_uid: str, live: Iterable[int]) -> JobRow | None:
    """A job in one of the states `live` that reads a dataset, if there is one."""
    reads = or_(_jobs.dataset_uid == dataset_uid, _jobs.evaluation_uid == dataset_uid)
    found = connection.execute(select(*_HOT).where(reads, _jobs.state.in_(list(live))).limit(1)).first()
    return _row(found) if found is not None else None
