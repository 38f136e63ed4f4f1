# SPDX-License-Identifier: Apache-2.0
"""One thread that writes, and commits whatever waits in one transaction (group commit)."""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from finetree_data.fail_points import fail_point
from finetree_runtime.server.logging import get_logger
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from finetree_trainer.store.backends.backend import Backend
from finetree_trainer.store.backends.failures import as_domain, is_lost, unavailable

T = TypeVar("T")

GROUP_LIMIT = 1000
"""Most pieces of work in one transaction: bounds how long the first of them waits."""

RECONNECT_SECONDS = 0.25
"""Pause between tries to ask a database, whose connection was lost in a commit, what became of it."""


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
    commit that made it durable, and fails only when nothing of it is stored. Where a connection is lost between COMMIT
    and its answer, the futures of that group wait until the database has said which of the two it is, and what is
    submitted meanwhile is refused.
    """

    def __init__(self, engine: Engine, backend: Backend) -> None:
        self._engine, self._backend = engine, backend
        self.on_commit: Callable[[float, int], None] = lambda _seconds, _changes: None
        """Called on the writer thread after each commit: how long it took, and how many pieces of work it holds."""
        self._queue: queue.SimpleQueue[_Work[Any] | None] = queue.SimpleQueue()
        self._connection: Connection | None = None
        self._open = True
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
        while self._open:
            group = self._next_group()
            if not group:
                continue
            try:
                connection = self._connected()
            except Exception as error:  # noqa: BLE001 - whatever keeps it from connecting is the answer to the group
                _answer(group, as_domain(error))
            else:
                self._commit(connection, group)
        if self._connection is not None:
            self._connection.close()

    def _next_group(self, seconds: float | None = None) -> list[_Work[Any]]:
        """What waits, once there is something; nothing after so many seconds, or at the end."""
        group: list[_Work[Any]] = []
        try:
            item = self._queue.get(timeout=seconds)
            while item is not None:
                # From here on it can no longer be cancelled: who waits for it may go, the write stays whole.
                if item.future.set_running_or_notify_cancel():
                    group.append(item)
                if len(group) >= GROUP_LIMIT:
                    return group
                item = self._queue.get_nowait()
        except queue.Empty:
            return group
        self._open = False
        return group

    def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = self._engine.connect()
        return self._connection

    def _abandon(self) -> None:
        """Leave the connection fit for the next transaction; one that is lost, or stays unfit, is replaced then."""
        connection = self._connection
        if connection is None:
            return
        try:
            if not connection.invalidated:
                self._backend.abandon(connection)
        except Exception as error:  # noqa: BLE001 - whatever it is, this thread must go on
            get_logger().error("connection_not_abandoned", exc_info=error)
            connection.invalidate(error)
        if connection.invalidated:
            connection.close()
            self._connection = None

    def _commit(self, connection: Connection, group: list[_Work[Any]]) -> None:
        began = time.perf_counter()
        mark, committing = "", False
        failure: Exception | None = None
        try:
            with connection.begin():
                mark = self._backend.mark(connection)
                for work in group:
                    _run(connection, work)
                fail_point("store.before_commit")
                committing = True
        except Exception as error:  # noqa: BLE001 - whatever broke the transaction is the answer to all of its work
            self._abandon()
            failure = as_domain(error)
            if committing and mark and is_lost(error) and self._became_durable(mark):
                failure = None
        if failure is None:
            self._measured(time.perf_counter() - began, len(group))
        fail_point("store.after_commit")
        _answer(group, failure)

    def _measured(self, seconds: float, changes: int) -> None:
        try:
            self.on_commit(seconds, changes)
        except Exception as error:  # noqa: BLE001 - the commit is made, and those who wait for it must be told
            get_logger().error("commit_not_measured", exc_info=error)

    def _became_durable(self, mark: str) -> bool:
        """Ask until the database answers whether a transaction was committed; false at the end of the service."""
        while self._open:
            try:
                found = self._backend.is_committed(self._connected(), mark)
            except Exception:  # noqa: BLE001 - whatever it is, the answer is still to come
                self._abandon()
            else:
                if found is not None:
                    return found
            _answer(self._next_group(RECONNECT_SECONDS), unavailable())
        return False


def _answer(group: list[_Work[Any]], failure: Exception | None) -> None:
    """Resolve the futures of a group that is durable, or has failed as one."""
    for work in group:
        reason = work.failure or failure
        if reason is not None:
            work.future.set_exception(reason)
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
