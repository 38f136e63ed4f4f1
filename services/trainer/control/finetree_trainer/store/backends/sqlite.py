# SPDX-License-Identifier: Apache-2.0
"""SQLite: a file in the data folder, write-ahead log, every commit flushed."""

import os
import sqlite3
from contextlib import suppress
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
        """Make the engine of the writer, on a file that is this user's alone."""
        _keep_private(self._file)
        return self._engine(begin="BEGIN IMMEDIATE", size=1)

    def reading(self, size: int) -> Engine:
        """Make the engine of so many readers."""
        return self._engine(begin="BEGIN", size=size)

    def prepare(self, engine: Engine) -> None:
        """Accept every file: it is where the folder has it."""

    def take(self, engine: Engine) -> None:
        """Do nothing: the lock of the folder says whose it is."""

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


def _keep_private(file: Path) -> None:
    """Keep the database to this user: else anyone on the machine could read specs and prompts.

    SQLite makes its log and the log's index with the mode of the database, so that comes first; those that an earlier
    run left have the mode of their day. What cannot be done here, opening the database reports.
    """
    with suppress(OSError):
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    for path in (file, *(file.with_name(file.name + suffix) for suffix in ("-wal", "-shm"))):
        with suppress(OSError):
            path.chmod(0o600)
