# SPDX-License-Identifier: Apache-2.0
"""The tables of one database copied into another one, and both read back and compared.

Values are copied as they are stored, with their checksums (sealed.py), so that damage is neither hidden nor mended.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from finetree_runtime.config.settings import SettingsError
from sqlalchemy import Connection, LargeBinary, Table, text

from finetree_trainer.store.backends.postgresql import FOLDER, LEADER, OWNER
from finetree_trainer.store.schema import event_blocks, meta, metadata
from finetree_trainer.store.sealed import Sealed

BATCH = 200
"""Rows that are fetched and inserted at once; a block of events has up to 64 KB."""

OnBytes = Callable[[int], None]
"""Called with the bytes of records and events that were copied or read back."""

TABLES: tuple[Table, ...] = tuple(metadata.sorted_tables)


@dataclass(frozen=True, slots=True)
class Content:
    """What a table holds: how many rows, and the SHA-256 of all of them in the order of the primary key."""

    rows: int
    sha256: str


def copy_tables(source: Connection, target: Connection, on_bytes: OnBytes) -> dict[str, Content]:
    """Copy every row into tables that are there and empty, but for what their making has put into `meta`."""
    target.execute(text("DELETE FROM meta"))
    return {table.name: _copy(table, source, target, on_bytes) for table in TABLES}


def contents_of(connection: Connection, on_bytes: OnBytes) -> dict[str, Content]:
    """Count and hash the rows of every table."""
    return {table.name: _content_of(table, connection, on_bytes) for table in TABLES}


def require_equal(found: dict[str, Content], connection: Connection, on_bytes: OnBytes) -> None:
    """Read every table and compare it. Raises SettingsError DATABASE_MOVE_MISMATCH, with the first that differs."""
    for table in TABLES:
        if _content_of(table, connection, on_bytes) != found[table.name]:
            why = f"what was read back from table {table.name} is not what was copied; nothing has changed"
            raise SettingsError("DATABASE_MOVE_MISMATCH", f"{why}, look at the disks and try again")


def size_of(connection: Connection) -> int:
    """Bytes of the records and events in a database: nearly all that there is to copy."""
    total = 0
    for table in TABLES:
        for name in _names(table):
            if _is_bytes(table, name):
                total += int(connection.execute(text(f"SELECT SUM(LENGTH({name})) FROM {table.name}")).scalar() or 0)  # noqa: S608 - names of the schema alone
    return total


def _content_of(table: Table, connection: Connection, on_bytes: OnBytes) -> Content:
    digest = _Digest(table)
    for rows in _rows(table, connection):
        on_bytes(digest.add(rows))
    return digest.content


def _copy(table: Table, source: Connection, target: Connection, on_bytes: OnBytes) -> Content:
    names = _names(table)
    columns = ", ".join(names)
    on_server = target.dialect.name == "postgresql"
    own_position = "OVERRIDING SYSTEM VALUE" if on_server and table is event_blocks else ""
    values = ", ".join(f":{name}" for name in names)
    insert = text(f"INSERT INTO {table.name} ({columns}) {own_position} VALUES ({values})")  # noqa: S608 - likewise
    digest = _Digest(table)
    for rows in _rows(table, source):
        target.execute(insert, [dict(zip(names, row, strict=True)) for row in rows])
        on_bytes(digest.add(rows))
    if own_position:
        target.execute(_NEXT_POSITION)
    return digest.content


def _rows(table: Table, connection: Connection) -> Iterator[Sequence[Sequence[Any]]]:
    """Rows in the order of the primary key, whose texts both databases compare by their bytes."""
    order = ", ".join(column.name for column in table.primary_key)
    where = f"WHERE key NOT IN ('{FOLDER}', '{OWNER}', '{LEADER}')" if table is meta else ""
    select = text(f"SELECT {', '.join(_names(table))} FROM {table.name} {where} ORDER BY {order}")  # noqa: S608 - likewise
    with connection.execute(select, execution_options={"stream_results": True, "max_row_buffer": BATCH}) as found:
        yield from found.partitions(BATCH)


def _names(table: Table) -> list[str]:
    """Columns of a table, with the position that a watch of a project resumes from (joblog/project/blocks.py)."""
    return [*(["rowid"] if table is event_blocks else []), *(column.name for column in table.columns)]


def _is_bytes(table: Table, name: str) -> bool:
    return name in table.columns and isinstance(table.columns[name].type, LargeBinary | Sealed)


class _Digest:
    """Counts and hashes rows: kind, length and bytes of each value, so that no two tables have one text."""

    def __init__(self, table: Table) -> None:
        self._bytes = [_is_bytes(table, name) for name in _names(table)]
        self._hash, self._rows = hashlib.sha256(), 0

    def add(self, rows: Sequence[Sequence[Any]]) -> int:
        """Add rows, and return the bytes of their records and events."""
        count = 0
        for row in rows:
            for value, is_bytes in zip(row, self._bytes, strict=True):
                content = bytes(value) if is_bytes else str(value).encode()
                self._hash.update(b"%s %d " % (type(value).__name__.encode() if not is_bytes else b"", len(content)))
                self._hash.update(content)
                count += len(content) if is_bytes else 0
        self._rows += len(rows)
        return count

    @property
    def content(self) -> Content:
        """What was added."""
        return Content(self._rows, self._hash.hexdigest())


_NEXT_POSITION = text("""
SELECT setval(pg_get_serial_sequence('event_blocks', 'rowid'), MAX(rowid)) FROM event_blocks HAVING MAX(rowid) > 0""")
"""Blocks to come are numbered after those that are there."""
