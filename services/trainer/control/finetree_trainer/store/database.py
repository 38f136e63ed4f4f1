# SPDX-License-Identifier: Apache-2.0
"""Opens the store: an engine that writes, one that reads, the threads between them and asyncio."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, select
from sqlalchemy.exc import DBAPIError

from finetree_trainer.store import schema
from finetree_trainer.store.backends.backend import Backend
from finetree_trainer.store.backends.failures import as_domain, is_lost, unavailable
from finetree_trainer.store.backends.sqlite import SQLite
from finetree_trainer.store.migrations import migrate, require_current
from finetree_trainer.store.writer import Writer

T = TypeVar("T")

READERS = 3
"""Threads that read. Cold queries only: live watchers are served from memory."""

ANSWER_SECONDS = 5.0
"""How long the database may take to say that this process still writes."""


class Store:
    """The durable part of the trainer. `write` and `read` run functions of a connection, never across an await.

    One that follows reads what another process writes, until it leads.
    """

    def __init__(self, where: Path | Backend, *, follow: bool = False) -> None:
        self._backend: Backend = SQLite(where) if isinstance(where, Path) else where
        self._writing = self._backend.writing()
        self._writer: Writer | None = None
        self.on_commit: Callable[[float, int], None] = lambda _seconds, _changes: None
        """What is called on the writer thread after each commit, with its seconds and the changes in it."""
        self._reading = self._backend.reading(READERS)
        try:
            if not follow:
                self.lead()
            with self._reading.begin() as connection:
                self.schema_version = require_current(connection)
                self.log_epoch = str(connection.execute(_EPOCH).scalar_one())
        except BaseException:
            self._close_writer()
            self._close_engines()
            raise
        self._readers = ThreadPoolExecutor(READERS, "store-reader")

    @property
    def leads(self) -> bool:
        """Whether this process writes."""
        return self._writer is not None

    def lead(self) -> None:
        """Begin to write, once nobody else does. Blocks; raises what keeps the database from being written."""
        self._backend.prepare(self._writing)
        migrate(self._writing)
        self._backend.take(self._writing)
        writer = Writer(self._writing, self._backend)
        writer.on_commit = self._committed
        self._writer = writer

    def submit(self, run: Callable[[Connection], T]) -> Future[T]:
        """Queue a function for the writer thread; its future is done once what it wrote is durable."""
        if self._writer is None:
            refused: Future[T] = Future()
            refused.set_exception(unavailable())
            return refused
        return self._writer.submit(run)

    def require_lead(self) -> None:
        """Raise Unavailable unless the database answers that this process still writes. Blocks, briefly."""
        try:
            self.submit(_nothing).result(ANSWER_SECONDS)
        except TimeoutError:
            raise unavailable() from None

    def _committed(self, seconds: float, changes: int) -> None:
        self.on_commit(seconds, changes)

    async def write(self, run: Callable[[Connection], T]) -> T:
        """Run a function on the writer thread; returns once what it wrote is durable.

        A caller that is cancelled while the write waits takes it back; once it runs, it is done.
        """
        return await asyncio.wrap_future(self.submit(run))

    async def read(self, run: Callable[[Connection], T]) -> T:
        """Run a function on a reader thread, in one consistent view of the database."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self.read_now, run)

    def read_now(self, run: Callable[[Connection], T]) -> T:
        """Run a function on this thread, in one consistent view of the database."""
        try:
            try:
                return self._read(run)
            except DBAPIError as error:
                if not is_lost(error):
                    raise
            # Its server was restarted since the last read, of which a connection in the pool says nothing.
            return self._read(run)
        except Exception as error:
            raise as_domain(error) from error

    def _read(self, run: Callable[[Connection], T]) -> T:
        with self._reading.begin() as connection:
            return run(connection)

    def close(self) -> None:
        """Finish every submitted write, then close the files."""
        self._close_writer()
        self._readers.shutdown()
        self._close_engines()

    def _close_writer(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _close_engines(self) -> None:
        self._reading.dispose()
        self._writing.dispose()


_EPOCH = select(schema.meta.c.value).where(schema.meta.c.key == "log_epoch")


def _nothing(connection: Connection) -> None:
    connection.exec_driver_sql("SELECT 1")
