# SPDX-License-Identifier: Apache-2.0
"""Datasets: cold queries in SQLAlchemy Core."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from finetree_trainer.store import schema
from finetree_trainer.store.sealed import Damaged, record_damaged

_datasets = schema.datasets.c


@dataclass(slots=True)
class DatasetRow:
    """A row of `datasets`. `record` is the Dataset with what does not change, and its profile once it is ready."""

    uid: str
    project: str
    owner: str
    sha256: str
    size_bytes: int
    committed_bytes: int
    ready: bool
    create_time: int
    update_time: int
    record: bytes

    @property
    def damaged(self) -> bool:
        """Whether its record is damaged on disk: what the columns say is all that is known of it."""
        return isinstance(self.record, Damaged)


_FIELDS = tuple(DatasetRow.__dataclass_fields__)
_COLUMNS = tuple(schema.datasets.c[name] for name in _FIELDS)


def _row(found: Row[Any]) -> DatasetRow:
    row = DatasetRow(*tuple(found))
    row.ready = bool(row.ready)
    return row


def create(connection: Connection, row: DatasetRow) -> None:
    """Insert a dataset."""
    values: dict[str, Any] = {name: getattr(row, name) for name in _FIELDS}
    values |= {"ready": int(row.ready), "shard": schema.shard_of(row.uid)}
    connection.execute(insert(schema.datasets), values)


def load(connection: Connection, uid: str) -> DatasetRow | None:
    """The dataset of a uid. Raises FailedPrecondition RECORD_DAMAGED."""
    found = connection.execute(select(*_COLUMNS).where(_datasets.uid == uid)).first()
    row = _row(found) if found is not None else None
    if row is not None and row.damaged:
        raise record_damaged(f"dataset {uid}")
    return row


def project_of(connection: Connection, uid: str) -> str | None:
    """The project of a dataset; None where there is no such dataset."""
    return connection.execute(select(_datasets.project).where(_datasets.uid == uid)).scalar()


def by_content(connection: Connection, project: str, sha256: str) -> DatasetRow | None:
    """The dataset of a project that has this content. Raises FailedPrecondition RECORD_DAMAGED."""
    query = select(_datasets.uid).where(_datasets.project == project, _datasets.sha256 == sha256)
    uid = connection.execute(query).scalar()
    return load(connection, uid) if uid is not None else None


def page(connection: Connection, project: str, *, before: str, limit: int) -> list[DatasetRow]:
    """Datasets of a project, newest first, with uids below `before` ("" means all); damaged ones are among them."""
    query = select(*_COLUMNS).where(_datasets.project == project).order_by(_datasets.uid.desc()).limit(limit)
    if before:
        query = query.where(_datasets.uid < before)
    return [_row(found) for found in connection.execute(query)]


def commit_bytes(connection: Connection, uid: str, committed: int, *, now: int) -> None:
    """Note how many bytes are safely on disk."""
    values = {"committed_bytes": committed, "update_time": now}
    connection.execute(update(schema.datasets).where(_datasets.uid == uid).values(values))


def make_ready(connection: Connection, uid: str, record: bytes, *, now: int) -> None:
    """Note that a dataset is complete and checked."""
    values = {"ready": 1, "record": record, "update_time": now, "committed_bytes": _datasets.size_bytes}
    connection.execute(update(schema.datasets).where(_datasets.uid == uid).values(values))


def remove(connection: Connection, uid: str) -> None:
    """Delete a dataset's row."""
    connection.execute(delete(schema.datasets).where(_datasets.uid == uid))


def count_of_content(connection: Connection, sha256: str) -> int:
    """How many datasets, over all projects, share a content file."""
    return int(connection.execute(select(func.count()).where(_datasets.sha256 == sha256)).scalar_one())
