# SPDX-License-Identifier: Apache-2.0
"""Sweeps: cold queries in SQLAlchemy Core."""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Connection, insert, select, update

from finetree_trainer.store import schema
from finetree_trainer.store.sealed import Damaged, record_damaged

_sweeps = schema.sweeps.c


@dataclass(frozen=True, slots=True)
class SweepRow:
    """A row of `sweeps`. `state` is a SweepState, `record` a Sweep message; times are microseconds since 1970."""

    uid: str
    project: str
    owner: str
    state: int
    create_time: int
    record: bytes


_COLUMNS = tuple(schema.sweeps.c[name] for name in SweepRow.__dataclass_fields__)


def create(connection: Connection, row: SweepRow) -> None:
    """Insert a sweep."""
    values = {name: getattr(row, name) for name in SweepRow.__dataclass_fields__}
    connection.execute(insert(schema.sweeps), values | {"shard": schema.shard_of(row.uid)})


def save(connection: Connection, uid: str, *, state: int, record: bytes) -> None:
    """Replace the record of a sweep."""
    connection.execute(update(schema.sweeps).where(_sweeps.uid == uid).values(state=state, record=record))


def load(connection: Connection, uid: str) -> SweepRow | None:
    """The sweep of a uid. Raises FailedPrecondition RECORD_DAMAGED."""
    found = connection.execute(select(*_COLUMNS).where(_sweeps.uid == uid)).first()
    return _whole(SweepRow(*found)) if found is not None else None


def project_of(connection: Connection, uid: str) -> str | None:
    """The project of a sweep; None where there is no such sweep."""
    return connection.execute(select(_sweeps.project).where(_sweeps.uid == uid)).scalar()


def page(connection: Connection, project: str, *, before: str, limit: int) -> list[SweepRow]:
    """Sweeps of a project, newest first, with uids below `before` ("" means all); damaged ones are among them."""
    query = select(*_COLUMNS).where(_sweeps.project == project).order_by(_sweeps.uid.desc()).limit(limit)
    if before:
        query = query.where(_sweeps.uid < before)
    return [SweepRow(*found) for found in connection.execute(query)]


def in_states(connection: Connection, states: Iterable[int]) -> list[SweepRow]:
    """Every sweep in one of these states, oldest first; damaged ones are among them."""
    query = select(*_COLUMNS).where(_sweeps.state.in_(list(states))).order_by(_sweeps.uid)
    return [SweepRow(*found) for found in connection.execute(query)]


def _whole(row: SweepRow) -> SweepRow:
    if isinstance(row.record, Damaged):
        raise record_damaged(f"sweep {row.uid}")
    return row
