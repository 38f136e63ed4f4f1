# SPDX-License-Identifier: Apache-2.0
"""Moves a database, all or nothing: what it was moved from stays, under another name, and no trainer takes both.

Into a server everything is one transaction, tables and rows; into the folder it is a file under another name. Until
that is complete and compared, the folder is as it was, and a move that was cut off is started again. Then, for a
moment, the folder has both its marks: `trainer.db` and `database.json`. No trainer starts on that, so that both
databases stay equal, and the same move compares them once more and ends.
"""

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from finetree_data.durable_files import sync_folder
from finetree_data.fail_points import fail_point
from finetree_runtime.config.settings import SettingsError
from sqlalchemy import URL, Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from finetree_trainer.layout import Layout
from finetree_trainer.store.backends.failures import is_corrupt, sqlstate
from finetree_trainer.store.backends.folder_mark import FolderMark
from finetree_trainer.store.backends.postgresql import FOLDER, PostgreSQL
from finetree_trainer.store.backends.sqlite import SQLite
from finetree_trainer.store.migrations import MIGRATIONS, create_tables
from finetree_trainer.store.move.tables import TABLES, Content, contents_of, copy_tables, require_equal, size_of

OnProgress = Callable[[int, int], None]
"""Called with the bytes that are done and those in all: each is copied and read back."""

_TABLES_THERE = text("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")
_VALUE = text("SELECT value FROM meta WHERE key = :key")
_TIE = text("INSERT INTO meta (key, value) VALUES (:key, :value)")


@dataclass(frozen=True, slots=True)
class Moved:
    """A database that was moved: what each table holds, and the name in the folder that the former one has now."""

    tables: dict[str, Content]
    kept: str


def to_server(layout: Layout, url: URL, on_progress: OnProgress) -> Moved:
    """Copy the folder's own database into an empty one on a server, and tie the folder to that.

    Raises SettingsError: DATA_DIR_…, DATABASE_…; then the folder is as it was.
    """
    with _held(layout):
        if not layout.database.is_file():
            raise _no_database(layout)
        ending = layout.database_mark.exists()
        mark = FolderMark(layout.database_mark if ending else layout.moving)
        mark.make()
        backend = PostgreSQL(url, mark)
        with _refusals(backend):
            # Before anything else, the lock that keeps a trainer away.
            engine = backend.writing()
            try:
                backend.prepare(engine)
                tables = _into_server(layout, engine, on_progress, ending=ending)
            finally:
                engine.dispose()
        if not ending:
            layout.moving.replace(layout.database_mark)
            sync_folder(layout.root)
        return _ended(tables, layout.database)


def to_folder(layout: Layout, url: URL, on_progress: OnProgress) -> Moved:
    """Copy the database on a server into the folder, and have the folder use that one.

    Raises SettingsError: DATA_DIR_…, DATABASE_…; then the folder is as it was.
    """
    with _held(layout):
        if not layout.database_mark.exists():
            raise SettingsError("DATA_DIR_NOT_ON_SERVER", "the folder's jobs are in no database on a server")
        draft = layout.database.with_name(f".{layout.database.name}.moving")
        _remove(draft)
        backend = PostgreSQL(url, FolderMark(layout.database_mark))
        with _refusals(backend):
            server = backend.writing()
            try:
                backend.prepare(server)
                tables = _into_folder(layout, draft, server, on_progress)
            except BaseException:
                _remove(draft)
                raise
            finally:
                server.dispose()
        if draft.exists():
            draft.replace(layout.database)
            sync_folder(layout.root)
        return _ended(tables, layout.database_mark)


def _into_server(layout: Layout, server: Engine, on_progress: OnProgress, *, ending: bool) -> dict[str, Content]:
    with _opened(SQLite(layout.database).reading(1)) as source, server.begin() as target:
        _require_whole(source)
        if ending:
            _require_tables(target)
        else:
            _clear(target)
            create_tables(target)
        tables = _carried(source, target, on_progress, ending=ending)
        if not ending:
            target.execute(_TIE, {"key": FOLDER, "value": FolderMark(layout.moving).read()})
        fail_point("move.before_commit")
    fail_point("move.after_commit")
    return tables


def _into_folder(layout: Layout, draft: Path, server: Engine, on_progress: OnProgress) -> dict[str, Content]:
    ending = layout.database.exists()
    file = SQLite(layout.database if ending else draft)
    with server.begin() as source, _opened(file.reading(1) if ending else file.writing()) as target:
        _require_tables(source)
        if other := _other_version(source):
            raise SettingsError("DATABASE_OTHER_VERSION", f"database_url: {other}")
        if not ending:
            create_tables(target)
        return _carried(source, target, on_progress, ending=ending)


def _carried(source: Connection, target: Connection, on_progress: OnProgress, *, ending: bool) -> dict[str, Content]:
    """Copy everything and compare, or compare alone where everything was copied before."""
    done, total = 0, 2 * size_of(source)

    def on_bytes(count: int) -> None:
        nonlocal done
        done += count
        on_progress(done, total)

    tables = contents_of(source, on_bytes) if ending else copy_tables(source, target, on_bytes)
    require_equal(tables, target, on_bytes)
    return tables


def _clear(connection: Connection) -> None:
    """Drop what a move of this folder that was cut off has left; refuse tables of anybody else."""
    there = set(connection.execute(_TABLES_THERE).scalars()) & {table.name for table in TABLES}
    if not there:
        return
    if "meta" not in there or connection.execute(_VALUE, {"key": FOLDER}).scalar() is None:
        why = f"it is not empty (it has a table {min(there)}); name an empty database, or an empty schema"
        raise SettingsError("DATABASE_NOT_EMPTY", f"database_url: {why}")
    for table in TABLES:
        connection.exec_driver_sql(f"DROP TABLE IF EXISTS {table.name}")


def _require_tables(server: Connection) -> None:
    if "meta" not in server.execute(_TABLES_THERE).scalars().all():
        raise SettingsError("DATABASE_OF_OTHER_FOLDER", "database_url: it is empty; name the one of this folder")


def _require_whole(source: Connection) -> None:
    found = source.exec_driver_sql("PRAGMA quick_check(1)").scalar()
    if found != "ok":
        raise SettingsError("DATA_DIR_DAMAGED", "the folder's database is damaged; restore the folder from a backup")
    if other := _other_version(source):
        raise SettingsError("DATA_DIR_OTHER_VERSION", other)


def _other_version(source: Connection) -> str:
    """What is wrong with the version of a database's tables; "" where it is that of this program."""
    found = str(source.execute(_VALUE, {"key": "schema_version"}).scalar())
    if found == str(len(MIGRATIONS)):
        return ""
    why = f"the database has version {found[:20]} of its tables, this program moves {len(MIGRATIONS)}"
    return f"{why}; start a trainer of this release on it once, or use the release that it is of"


@contextmanager
def _held(layout: Layout) -> Iterator[None]:
    """Hold the folder's lock, as a trainer does. Raises SettingsError DATA_DIR_EMPTY, …_IN_USE, …_UNFINISHED."""
    try:
        lock = os.open(layout.service_lock, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        text_ = "no trainer has ever used this folder, or it cannot be entered; name a trainer's data folder"
        raise SettingsError("DATA_DIR_EMPTY", text_) from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError("DATA_DIR_IN_USE", "a trainer uses this folder; stop it first") from None
        if layout.restoring.exists():
            text_ = "a restore into this folder was cut off; run `finetree backup restore` into it again"
            raise SettingsError("DATA_DIR_UNFINISHED", text_)
        yield
    finally:
        os.close(lock)


@contextmanager
def _opened(engine: Engine) -> Iterator[Connection]:
    """A transaction of an engine of a file, whose write-ahead log is in it when the last connection is closed."""
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


@contextmanager
def _refusals(backend: PostgreSQL) -> Iterator[None]:
    """Say what a database refused: the one of the folder, or that on the server."""
    try:
        yield
    except DBAPIError as error:
        if isinstance(error.orig, sqlite3.Error):
            why = f"the database in the folder cannot be read: {error.orig}"
            if is_corrupt(error):
                raise SettingsError("DATA_DIR_DAMAGED", f"{why}; restore the folder from a backup") from None
            raise SettingsError("DATA_DIR_UNUSABLE", f"{why}; look at the folder's disk and its rights") from None
        if not sqlstate(error) and "NUL" in str(error.orig):
            why = "a text in the folder's database has the character U+0000, which PostgreSQL does not store"
            raise SettingsError("DATABASE_UNUSABLE", f"{why}; delete the job that has it, and try again") from None
        raise backend.refused(error) from None


def _no_database(layout: Layout) -> SettingsError:
    if layout.database_mark.exists():
        return SettingsError("DATA_DIR_ON_SERVER", "the folder's jobs are in a database on a server already")
    return SettingsError("DATA_DIR_EMPTY", f"there is no {layout.database.name} in the folder; name a trainer's folder")


def _ended(tables: dict[str, Content], file: Path) -> Moved:
    """Give the file of what was moved, and what SQLite has beside it, a name that no trainer reads."""
    fail_point("move.before_end")
    name = f"{file.name}.moved-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    for ending in ("-wal", "-shm", ""):
        part = file.with_name(file.name + ending)
        if part.exists():
            part.replace(file.with_name(name + ending))
    sync_folder(file.parent)
    return Moved(tables, name)


def _remove(draft: Path) -> None:
    for ending in ("", "-wal", "-shm", "-journal"):
        draft.with_name(draft.name + ending).unlink(missing_ok=True)
