# SPDX-License-Identifier: Apache-2.0
"""Opens the store: an engine that writes, one that reads, the threads between them and asyncio."""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, select
from sqlalchemy.pool import QueuePool

from finetree_trainer.store import schema
from finetree_trainer.store.migrations import migrate
from finetree_trainer.store.writer import Writer, as_domain

T = TypeVar("T")

READERS = 3
"""Threads that read. Cold queries only: live watchers are served from memory."""


class Store:
    """The durable part of the trainer. `write` and `read` run functions of a connection, never across an await."""

    def __init__(self, file: Path) -> None:
        url = f"sqlite:///{file}"
        _keep_private(file)
        self._writing = _engine(url, begin="BEGIN IMMEDIATE", size=1)
        self.schema_version = migrate(self._writing)
        self._reading = _engine(url, begin="BEGIN", size=READERS)
        self._writer = Writer(self._writing)
        self._readers = ThreadPoolExecutor(READERS, "store-reader")
        with self._reading.begin() as connection:
            self.log_epoch = str(connection.execute(_EPOCH).scalar_one())

    @property
    def on_commit(self) -> Callable[[float, int], None]:
        """What is called on the writer thread after each commit, with its seconds and the changes in it."""
        return self._writer.on_commit

    @on_commit.setter
    def on_commit(self, called: Callable[[float, int], None]) -> None:
        self._writer.on_commit = called

    def submit(self, run: Callable[[Connection], T]) -> Future[T]:
        """Queue a function for the writer thread; its future is done once what it wrote is durable."""
        return self._writer.submit(run)

    async def write(self, run: Callable[[Connection], T]) -> T:
        """Run a function on the writer thread; returns once what it wrote is durable.

        A caller that is cancelled while the write waits takes it back; once it runs, it is done.
        """
        return await asyncio.wrap_future(self._writer.submit(run))

    async def read(self, run: Callable[[Connection], T]) -> T:
        """Run a function on a reader thread, in one consistent view of the database."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self.read_now, run)

    def read_now(self, run: Callable[[Connection], T]) -> T:
        """Run a function on this thread, in one consistent view of the database."""
        try:
            with self._reading.begin() as connection:
                return run(connection)
        except Exception as error:
            raise as_domain(error) from error

    def close(self) -> None:
        """Finish every submitted write, then close the files."""
        self._writer.close()
        self._readers.shutdown()
        self._reading.dispose()
        self._writing.dispose()


_EPOCH = select(schema.meta.c.value).where(schema.meta.c.key == "log_epoch")


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


def _engine(url: str, *, begin: str, size: int) -> Engine:
    engine = create_engine(url, poolclass=QueuePool, pool_size=size, max_overflow=0)

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
