# SPDX-License-Identifier: Apache-2.0
"""Attempts: each start of a worker on a job, how far its events are in the log, and why it ended."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, bindparam, func, insert, or_, select, text, update

from finetree_trainer.store import schema

_attempts = schema.attempts.c

INTERRUPTED = "INTERRUPTED"
SYSTEM = "SYSTEM"
PAUSED = "PAUSED"
FAILED = "FAILED"
ENDED = "ENDED"
"""Causes of an attempt's end: stopped by no fault of its own, a failure of the suite or the machine, paused on request,
a reported failure after which the job is tried again, an outcome."""


@dataclass(slots=True)
class AttemptRow:
    """A row of `attempts`. `worker` names the process's folder, whose lock shows whether it is alive.

    `slots` are the ids of the slots that the attempt holds, separated by commas.
    """

    job_uid: str
    attempt: int
    token_hash: str
    worker: str
    worker_token_hash: str
    pid: int
    slots: str
    acknowledged: int = 0
    last_heartbeat: int = 0
    started: int = 0
    ended: int = 0
    cause: str = ""


_FIELDS = tuple(AttemptRow.__dataclass_fields__)
_COLUMNS = tuple(schema.attempts.c[name] for name in _FIELDS)
# Made once: it is asked for with each batch of events, and making it costs as much as its execution.
_ONE = select(*_COLUMNS).where(_attempts.job_uid == bindparam("uid"), _attempts.attempt == bindparam("number"))
_ACKNOWLEDGE = text("""
UPDATE attempts SET acknowledged = :acknowledged, last_heartbeat = :now
WHERE job_uid = :uid AND attempt = :attempt AND acknowledged = :expected""")


def _row(found: Row[Any]) -> AttemptRow:
    return AttemptRow(*tuple(found))


def create(connection: Connection, row: AttemptRow) -> None:
    """Insert an attempt."""
    values: dict[str, Any] = {name: getattr(row, name) for name in _FIELDS}
    connection.execute(insert(schema.attempts), values | {"shard": schema.shard_of(row.job_uid)})


def load(connection: Connection, uid: str, attempt: int) -> AttemptRow | None:
    """An attempt of a job."""
    found = connection.execute(_ONE, {"uid": uid, "number": attempt}).first()
    return _row(found) if found is not None else None


def of_job(connection: Connection, uid: str) -> list[AttemptRow]:
    """The attempts of a job in their order."""
    query = select(*_COLUMNS).where(_attempts.job_uid == uid).order_by(_attempts.attempt)
    return [_row(found) for found in connection.execute(query)]


def open_attempts(connection: Connection) -> list[AttemptRow]:
    """Attempts whose process is not proven dead."""
    query = select(*_COLUMNS).where(_attempts.ended == 0).order_by(_attempts.job_uid)
    return [_row(found) for found in connection.execute(query)]


@dataclass(frozen=True, slots=True)
class Holding:
    """Slots that an attempt of a project held, and from when to when; `ended` is 0 while it holds them."""

    project: str
    slots: str
    started: int
    ended: int


def holdings_since(connection: Connection, since: int) -> list[Holding]:
    """What attempts held that had not ended at a time, or began later."""
    mine = _attempts.job_uid == schema.jobs.c.uid
    query = select(schema.jobs.c.project, _attempts.slots, _attempts.started, _attempts.ended).join(schema.jobs, mine)
    live = or_(_attempts.ended == 0, _attempts.ended >= since)
    return [Holding(*tuple(found)) for found in connection.execute(query.where(live))]


def acknowledge(connection: Connection, row: AttemptRow, acknowledged: int, *, now: int) -> bool:
    """Note that worker events up to `acknowledged` are in the log: in the transaction that puts them there."""
    values = {"uid": row.job_uid, "attempt": row.attempt, "expected": row.acknowledged}
    return connection.execute(_ACKNOWLEDGE, values | {"acknowledged": acknowledged, "now": now}).rowcount == 1


def record_heartbeat(connection: Connection, uid: str, attempt: int, *, now: int) -> None:
    """Note that the worker was heard of."""
    chosen = (_attempts.job_uid == uid) & (_attempts.attempt == attempt)
    connection.execute(update(schema.attempts).where(chosen).values(last_heartbeat=now))


def end(connection: Connection, uid: str, attempt: int, *, cause: str, now: int) -> bool:
    """Note that an attempt's process is dead; false when that was noted before."""
    chosen = (_attempts.job_uid == uid) & (_attempts.attempt == attempt) & (_attempts.ended == 0)
    return connection.execute(update(schema.attempts).where(chosen).values(ended=now, cause=cause)).rowcount == 1


def count_by_cause(connection: Connection, uid: str, cause: str) -> int:
    """How many attempts of a job ended for a cause: what its failure budgets are counted with."""
    query = select(func.count()).where(_attempts.job_uid == uid, _attempts.cause == cause)
    return int(connection.execute(query).scalar_one())


def note_cause(connection: Connection, uid: str, attempt: int, *, cause: str) -> None:
    """Note why an attempt is about to end, while its process still lives."""
    chosen = (_attempts.job_uid == uid) & (_attempts.attempt == attempt) & (_attempts.ended == 0)
    connection.execute(update(schema.attempts).where(chosen).values(cause=cause))


def renew_token(connection: Connection, uid: str, attempt: int, *, token_hash: str) -> None:
    """Give an open attempt another secret: the old one was lost with the service that made it."""
    chosen = (_attempts.job_uid == uid) & (_attempts.attempt == attempt) & (_attempts.ended == 0)
    connection.execute(update(schema.attempts).where(chosen).values(token_hash=token_hash))
