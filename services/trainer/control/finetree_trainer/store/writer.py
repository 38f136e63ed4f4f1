# SPDX-License-Identifier: Apache-2.0
"""One thread that writes, and commits whatever waits in one transaction (group commit)."""

import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from finetree_data.fail_points import fail_point
from finetree_runtime.errors import DomainError, FailedPrecondition, Unavailable
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from finetree_trainer.disk import disk_full

T = TypeVar("T")

GROUP_LIMIT = 1000
"""Most pieces of work in one transaction: bounds how long the first of them waits."""


class _Work(Generic[T]):
    """A piece of work, its future, and its result until the transaction is durable."""

    __slots__ = ("done", "failure", "future", "run")

    def __init__(self, run: Callable[[Connection], T]) -> None:
        self.run = run
        self.future: Future[T] = Future()
        self.done: T | None = None
        self.failure: Exception | None = None


class Writer:
    """Runs work on its own thread and connection, in the order of submission.

    Each piece of work is atomic: when it raises, its own writes are undone and its future gets the exception, while the
    rest of the group commits. Work that is cancelled before its turn is left out. A future is resolved only after the
    commit that made it durable (synchronous=FULL).
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.on_commit: Callable[[float, int], None] = lambda _seconds, _changes: None
        """Called on the writer thread after each commit: how long it took, and how many pieces of work it holds."""
        self._queue: queue.SimpleQueue[_Work[Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name="store-writer", daemon=True)
        self._thread.start()

    def submit(self, run: Callable[[Connection], T]) -> Future[T]:
        """Queue work; the future is done when it is durable, and raises what it raised (or the store's DomainError)."""
        work = _Work(run)
        self._queue.put(work)
        return work.future

    def close(self) -> None:
        """Finish what was submitted, then end the thread."""
        self._queue.put(None)
        self._thread.join()

    def _loop(self) -> None:
        with self._engine.connect() as connection:
            open_ = True
            while open_:
                group, open_ = self._next_group()
                if group:
                    self._commit(connection, group)

    def _next_group(self) -> tuple[list[_Work[Any]], bool]:
        group: list[_Work[Any]] = []
        item = self._queue.get()
        while item is not None:
            # From here on it can no longer be cancelled: who waits for it may go, the write stays whole.
            if item.future.set_running_or_notify_cancel():
                group.append(item)
            if len(group) >= GROUP_LIMIT:
                return group, True
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return group, True
        return group, False

    def _commit(self, connection: Connection, group: list[_Work[Any]]) -> None:
        began = time.perf_counter()
        try:
            with connection.begin():
                for work in group:
                    _run(connection, work)
                fail_point("store.before_commit")
        except Exception as error:  # noqa: BLE001 - whatever broke the transaction is the answer to all of its work
            _leave_transaction(connection)
            failure = as_domain(error)
            for work in group:
                work.failure = work.failure or failure
        else:
            self.on_commit(time.perf_counter() - began, len(group))
        fail_point("store.after_commit")
        for work in group:
            if work.failure is not None:
                work.future.set_exception(work.failure)
            else:
                work.future.set_result(work.done)


def _run(connection: Connection, work: _Work[Any]) -> None:
    connection.exec_driver_sql("SAVEPOINT work")
    try:
        work.done = work.run(connection)
    except Exception as error:  # noqa: BLE001 - it belongs to whoever submitted the work, and goes there
        work.failure = as_domain(error)
        try:
            connection.exec_driver_sql("ROLLBACK TO work")
        except DBAPIError:
            # A full disk has rolled back the whole transaction already: the group fails as one, and of that.
            raise error from None
    connection.exec_driver_sql("RELEASE work")


def _leave_transaction(connection: Connection) -> None:
    """Roll back what a COMMIT that failed has left open: nothing else could ever be written behind it.

    A connection that does not even do that is given up; the next transaction opens another one.
    """
    try:
        driver = connection.connection.dbapi_connection
        if driver is not None and getattr(driver, "in_transaction", False):
            driver.rollback()
    except (sqlite3.Error, DBAPIError):
        connection.invalidate()


_CORRUPT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_SCHEMA}
"""SQLite's codes for a damaged file. The tables are those of the last migration, so that a statement which SQLite finds
wrong (SQLITE_ERROR: no such column) says that their description in the file is."""


def is_corrupt(error: DBAPIError) -> bool:
    """Return whether a database's failure says that its file is damaged, or is none."""
    if not isinstance(error.orig, sqlite3.Error):
        return False
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is None:  # the driver's own: a text that is not UTF-8
        return "decode" in str(error.orig)
    return code & 0xFF in _CORRUPT  # extended codes have more bits


def as_domain(error: Exception) -> Exception:
    """A database's own failure as a DomainError; others unchanged.

    RESOURCE_EXHAUSTED DISK_FULL, FAILED_PRECONDITION STORE_DAMAGED, or UNAVAILABLE STORE_UNAVAILABLE.
    """
    if isinstance(error, DomainError) or not isinstance(error, DBAPIError):
        return error
    if getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
        return disk_full()
    if is_corrupt(error):
        damaged = FailedPrecondition(
            "STORE_DAMAGED", "The trainer's database is damaged on disk; restore the trainer's data from a backup."
        )
        damaged.__cause__ = error
        return damaged
    refusal = Unavailable("STORE_UNAVAILABLE", "The trainer's database cannot be written; try again.", retry_delay=1.0)
    refusal.__cause__ = error
    return refusal
