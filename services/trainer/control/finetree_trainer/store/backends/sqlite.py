# SPDX-License-Identifier: Apache-2.0
"""SQLite: a file in the data folder, write-ahead log, every commit flushed."""

import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool


class SQLite:
    """The embedded database. What excludes other services is the lock of the folder that the file is in."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def writing(self) -> Engine:
        """Make the engine of the writer."""
        return self._engine(begin="BEGIN IMMEDIATE", size=1)

    def reading(self, size: int) -> Engine:
        """Make the engine of so many readers."""
        return self._engine(begin="BEGIN", size=size)

    def prepare(self, engine: Engine) -> None:
        """Accept every file: it is where the folder has it."""

    def take(self, engine: Engine) -> None:  # noqa: ARG002 - what another database needs
        """Keep others on the machine from reading specs and prompts."""
        self._file.chmod(0o600)

    def mark(self, connection: Connection) -> str:  # noqa: ARG002 - what another database needs
        """Return "": a commit is a call of this process, and its answer is never lost."""
        return ""

    def is_committed(self, connection: Connection, mark: str) -> bool | None:  # noqa: ARG002 - never asked
        """Return None: no commit is in doubt."""
        return None

    def abandon(self, connection: Connection) -> None:
        """Roll back what a COMMIT that failed has left open: nothing else could ever be written behind it.

        A connection that does not even do that is given up; the next transaction opens another one.
        """
        try:
            driver = connection.connection.dbapi_connection
            if driver is not None and getattr(driver, "in_transaction", False):
                driver.rollback()
        except (sqlite3.Error, DBAPIError):
            connection.invalidate()

    def _engine(self, *, begin: str, size: int) -> Engine:
        engine = create_engine(f"sqlite:///{self._file}", poolclass=QueuePool, pool_size=size, max_overflow=0)

        @event.listens_for(engine, "connect")
        def configure(connection: Any, _record: Any) -> None:
            # The driver's own implicit transactions would start late and without a write lock.
            connection.isolation_level = None
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "busy_timeout = 5000", "foreign_keys = ON"):
                connection.execute(f"PRAGMA {pragma}")

        @event.listens_for(engine, "begin")
        def start(connection: Connection) -> None:
            connection.exec_driver_sql(begin)

        return engine
