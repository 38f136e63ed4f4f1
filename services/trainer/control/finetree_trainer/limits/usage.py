# SPDX-License-Identifier: Apache-2.0
"""What projects and principals use of their limits, counted in the database. Money is in millionths of a currency."""

from dataclasses import dataclass

from finetree_api.trainer.v1 import job_pb2
from sqlalchemy import ColumnElement, Connection, delete, func, insert, select, update

from finetree_trainer.store import schema

MICROS = 1_000_000
_jobs, _datasets = schema.jobs.c, schema.datasets.c
_costs, _uploaded = schema.job_costs.c, schema.uploaded_bytes.c
_KEPT_DAYS = 3
"""Days of which uploaded bytes are kept."""


@dataclass(frozen=True, slots=True)
class CostRow:
    """What a new job is expected to cost at most. `currency` is empty where its price is not known."""

    job_uid: str
    project: str
    owner: str
    month: str
    currency: str
    hourly: int
    reserved: int


@dataclass(frozen=True, slots=True)
class MonthCost:
    """What the jobs of a month cost: so far or, while they live, at most. `unpriced`: jobs whose price is not known."""

    micros: int = 0
    unpriced: int = 0


def _of(subject: str, project: ColumnElement[str], owner: ColumnElement[str]) -> ColumnElement[bool]:
    """Condition for the rows of a subject, "projects/…" or "principals/…"."""
    kind, _, name = subject.partition("/")
    return project == name if kind == "projects" else owner == name


def queued_jobs(connection: Connection, subject: str) -> int:
    """Jobs that wait for a device."""
    mine = _of(subject, _jobs.project, _jobs.owner)
    query = select(func.count()).where(mine, _jobs.state == job_pb2.JOB_STATE_QUEUED)
    return int(connection.execute(query).scalar_one())


def dataset_bytes(connection: Connection, subject: str) -> int:
    """Bytes of datasets, complete or not."""
    mine = _of(subject, _datasets.project, _datasets.owner)
    return int(connection.execute(select(func.coalesce(func.sum(_datasets.size_bytes), 0)).where(mine)).scalar_one())


def uploaded(connection: Connection, subject: str, day: str) -> int:
    """Bytes that arrived on a day."""
    mine = _of(subject, _uploaded.project, _uploaded.owner)
    query = select(func.coalesce(func.sum(_uploaded.bytes), 0)).where(mine, _uploaded.day == day)
    return int(connection.execute(query).scalar_one())


def note_uploaded(connection: Connection, project: str, owner: str, day: str, count: int) -> None:
    """Count bytes that arrived; the counts of days long past are dropped."""
    key = (_uploaded.project == project, _uploaded.owner == owner, _uploaded.day == day)
    changed = connection.execute(update(schema.uploaded_bytes).where(*key).values(bytes=_uploaded.bytes + count))
    if not changed.rowcount:
        values = {"project": project, "owner": owner, "day": day, "bytes": count}
        connection.execute(insert(schema.uploaded_bytes), values)
        days = select(_uploaded.day).distinct().order_by(_uploaded.day.desc()).offset(_KEPT_DAYS).limit(1)
        oldest = connection.execute(days).scalar()
        if oldest is not None:
            connection.execute(delete(schema.uploaded_bytes).where(_uploaded.day <= oldest))


def reserve(connection: Connection, row: CostRow) -> None:
    """Note what a new job is expected to cost at most."""
    values = {name: getattr(row, name) for name in CostRow.__dataclass_fields__}
    values |= {"shard": schema.shard_of(row.job_uid), "spent": 0, "ended": 0}
    connection.execute(insert(schema.job_costs), values)


def settle(connection: Connection, job_uid: str, spent: int | None, *, seconds: float) -> None:
    """Note what a job that ends has cost; None: its price an hour for so many seconds."""
    known = _costs.hourly * round(seconds * 1000) / 3_600_000 if spent is None else spent
    change = update(schema.job_costs).where(_costs.job_uid == job_uid, _costs.ended == 0)
    connection.execute(change.values(spent=known, ended=1))


def month_cost(connection: Connection, subject: str, month: str, currency: str) -> MonthCost:
    """What the jobs that a subject created in a month cost, in a currency; others count as unpriced."""
    mine = _of(subject, _costs.project, _costs.owner)
    query = select(_costs.job_uid, _costs.currency, _costs.reserved, _costs.spent, _costs.ended)
    micros = unpriced = 0
    for uid, own, reserved, spent, ended in connection.execute(query.where(mine, _costs.month == month)):
        if own != currency:
            unpriced += 1
        elif ended:
            micros += spent
        else:
            micros += max(reserved, _so_far(connection, uid))
    return MonthCost(micros, unpriced)


def currency_of(connection: Connection, subject: str, month: str) -> str:
    """A currency in which jobs of a subject cost something in a month; "USD" where none does."""
    mine = _of(subject, _costs.project, _costs.owner)
    query = select(_costs.currency).where(mine, _costs.month == month, _costs.currency != "").limit(1)
    return connection.execute(query).scalar() or "USD"


def _so_far(connection: Connection, job_uid: str) -> int:
    """What a live job has cost; 0 for one that has not begun."""
    query = select(_jobs.snapshot).where(_jobs.uid == job_uid, _jobs.attempt > 0)
    snapshot = connection.execute(query).scalar()
    amount = job_pb2.Job.FromString(snapshot).cost.amount if snapshot else None
    return amount.units * MICROS + amount.nanos // 1000 if amount is not None else 0
