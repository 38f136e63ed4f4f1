# SPDX-License-Identifier: Apache-2.0
"""Opens a trainer's database to read it alone, whether a service uses it, was killed on it, or is down.

Not a byte of the folder is changed: what needs a place to write is done on a copy in a temporary folder. How SQLite
reads a write-ahead log without writing is in sqlite.org/wal.html, "Read-Only Databases".
"""

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from finetree_runtime.config.settings import SettingsError
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from finetree_trainer.store.backends.failures import is_corrupt
from finetree_trainer.store.migrations import MIGRATIONS

MARK = "database.json"
"""What a folder has in place of a database where that is on a server."""
WAL, SHARED_MEMORY = "-wal", "-shm"
"""What SQLite puts behind the name of a database for its write-ahead log, and for the index of that."""


@contextmanager
def located(file: Path, *, scratch: Path | None = None) -> Iterator[str]:
    """The address (a URI of SQLite) under which a database can be read; copies are made in `scratch`.

    Raises SettingsError DATA_DIR_EMPTY, DATA_DIR_ON_SERVER.
    """
    if not file.is_file() and file.with_name(MARK).exists():
        raise on_server()
    if not file.is_file():
        text_ = f"there is no {file.name} in the folder; name a trainer's data folder"
        raise SettingsError("DATA_DIR_EMPTY", text_)
    log, index = (file.with_name(file.name + ending) for ending in (WAL, SHARED_MEMORY))
    with tempfile.TemporaryDirectory(prefix="finetree-", dir=scratch) as folder:
        # The log's index is read as a service that runs has it, and made anew in memory where that was killed.
        options = "mode=ro&readonly_shm=1"
        if not log.exists():
            options = "mode=ro&immutable=1"  # closed cleanly: a service that runs keeps a log
        elif not index.exists():
            copy = Path(folder) / file.name
            for each in (file, log):
                shutil.copyfile(each, copy.with_name(each.name))
            file, options = copy, "mode=rw"
        yield f"{file.absolute().as_uri()}?{options}"


@contextmanager
def opened(file: Path) -> Iterator[Connection]:
    """A connection that reads one consistent view of a database.

    Raises SettingsError (DATA_DIR_EMPTY, DATA_DIR_OTHER_VERSION, DATA_DIR_DAMAGED, DATA_DIR_UNUSABLE).
    """
    with located(file) as address:
        connect = partial(sqlite3.connect, address, uri=True, isolation_level=None)
        engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)
        try:
            with engine.connect() as connection:
                connection.exec_driver_sql("BEGIN")
                _require_version(connection)
                yield connection
        except DBAPIError as error:
            raise _unreadable(error) from error


def on_server() -> SettingsError:
    """Build the refusal of a folder whose database is elsewhere."""
    text_ = "the folder's jobs and events are in a database on a server; docs/scale.md says how to back it up"
    return SettingsError("DATA_DIR_ON_SERVER", text_)


def _require_version(connection: Connection) -> None:
    found = connection.execute(text("SELECT value FROM meta WHERE key = 'schema_version'")).scalar()
    if str(found) != str(len(MIGRATIONS)):
        raise SettingsError(
            "DATA_DIR_OTHER_VERSION",
            f"the database has version {str(found)[:20]} of its tables, this program reads {len(MIGRATIONS)}; use the "
            "release that the trainer is of",
        )


def _unreadable(error: DBAPIError) -> SettingsError:
    if is_corrupt(error):
        text_ = "the trainer's database is damaged, or is none; restore the folder from a backup"
        return SettingsError("DATA_DIR_DAMAGED", text_)
    return SettingsError("DATA_DIR_UNUSABLE", "the database cannot be opened; look at the rights of the folder")
