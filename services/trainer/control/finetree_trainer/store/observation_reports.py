# SPDX-License-Identifier: Apache-2.0
"""Observations that are not reported to the estimator yet: one row for each run that has succeeded."""

from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, insert, select, update

from finetree_trainer.store import schema

_reports = schema.observation_reports.c


@dataclass(frozen=True, slots=True)
class ReportRow:
    """A row of `observation_reports`. Times are microseconds since 1970."""

    job_uid: str
    attempt: int
    created: int
    tries: int
    due: int


_COLUMNS = tuple(schema.observation_reports.c[name] for name in ReportRow.__dataclass_fields__)


def create(connection: Connection, uid: str, attempt: int, *, now: int) -> None:
    """Insert a report of a run: in the transaction that logs its end."""
    values = {"job_uid": uid, "attempt": attempt, "created": now, "tries": 0, "due": now}
    connection.execute(insert(schema.observation_reports), values | {"shard": schema.shard_of(uid)})


def due(connection: Connection, now: int, limit: int) -> list[ReportRow]:
    """Reports that are due, the longest due first."""
    query = select(*_COLUMNS).where(_reports.due <= now).order_by(_reports.due, _reports.job_uid).limit(limit)
    return [ReportRow(*tuple(found)) for found in connection.execute(query)]


def next_due(connection: Connection) -> int | None:
    """Time at which the next report is due; None when there is none."""
    found = connection.execute(select(func.min(_reports.due))).scalar()
    return int(found) if found is not None else None


def postpone(connection: Connection, row: ReportRow, until: int) -> None:
    """Count a try that failed, and set when to try again."""
    chosen = _reports.job_uid == row.job_uid
    connection.execute(update(schema.observation_reports).where(chosen).values(tries=row.tries + 1, due=until))


def remove(connection: Connection, uid: str) -> None:
    """Delete the report of a run."""
    connection.execute(delete(schema.observation_reports).where(_reports.job_uid == uid))
