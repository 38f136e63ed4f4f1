# SPDX-License-Identifier: Apache-2.0
"""Whether this replica leads: it follows until it gets the lock of the database, then takes over from the last one.

A replica leads once. One that has lost the lock to another ends its process: what it has in memory is no longer what
is stored, and nothing of it may reach a worker.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

from finetree_runtime.config.settings import SettingsError
from finetree_runtime.errors import DomainError
from finetree_runtime.server.logging import get_logger
from sqlalchemy.exc import DBAPIError

from finetree_trainer.replicas.following import Following
from finetree_trainer.store.backends.postgresql import PostgreSQL
from finetree_trainer.store.database import Store
from finetree_trainer.store.migrations import SchemaTooNewError

RETRY_SECONDS = 1.0
"""Pause before the lock is asked for on another connection."""
EXIT_CODE = 3
"""Status of a process that ends since it may lead no more."""


class Replica:
    """The role of this process. `take_over` does what a start does, and sets `leading`."""

    def __init__(
        self,
        address: str,
        store: Store,
        backend: PostgreSQL,
        *,
        following: Following,
        take_over: Callable[[], Awaitable[None]],
    ) -> None:
        self._address, self._store, self._backend = address, store, backend
        self._following, self._take_over = following, take_over
        self._election: asyncio.Future[None] | None = None
        self.leading = False
        """Whether this replica leads, and has taken over."""

    @property
    def leader(self) -> str:
        """Where the replica that leads is reached; "" where none is known.

        It is this one's own address once it leads, for calls that have waited here meanwhile.
        """
        if self.leading:
            return self._address
        found = self._following.leader
        return "" if found == self._address else found  # the last run of this one, which leads no more

    async def run(self) -> None:
        """Follow, then lead, until the service stops."""
        if not self.leading:
            following = asyncio.create_task(self._following.run())
            # A thread of its own: it waits for as long as another replica leads.
            thread = ThreadPoolExecutor(1, "replica-election")
            self._election = asyncio.get_running_loop().run_in_executor(thread, self._elect)
            try:
                await asyncio.shield(self._election)
            finally:
                # Before anything is written here: from then on the log itself shows what is stored.
                following.cancel()
                await asyncio.wait([following])
            if not self._store.leads:
                return  # the service stops
            get_logger().info("replica_leads")
            try:
                await self._following.catch_up()
                await self._take_over()
            except Exception as error:  # noqa: BLE001 - whatever it is, another replica may do better
                get_logger().critical("take_over_failed", exc_info=error)
                end_process("the take-over failed")
        await asyncio.Event().wait()

    async def close(self) -> None:
        """Wait for the lock no longer."""
        self._backend.closing.set()
        if self._election is not None:
            await asyncio.wait([self._election])

    def _elect(self) -> None:
        """Wait until this process holds the lock and its store writes, or the service stops; try again for ever."""
        self._backend.patience, told = float("inf"), ""
        while not self._backend.closing.is_set():
            try:
                self._store.lead()
            except SchemaTooNewError as error:
                end_process(str(error))
            except Exception as error:  # noqa: BLE001 - whatever it is, a replica that stands no more is of no use
                told = self._cannot_lead(error, told)
                self._backend.closing.wait(RETRY_SECONDS)
            else:
                return

    def _cannot_lead(self, error: Exception, told: str) -> str:
        """Log why a try has failed, unless that was `told` last; return it."""
        why = error.reason if isinstance(error, SettingsError | DomainError) else type(error).__name__
        if why != told and not self._backend.closing.is_set():
            if isinstance(error, SettingsError | DomainError | DBAPIError):
                get_logger().warning("replica_cannot_lead", why=why)
            else:
                get_logger().error("replica_cannot_lead", why=why, exc_info=error)
        return why


def end_process(why: str) -> None:
    """End this process at once, with what it has in memory: its streams break, its workers find the next leader."""
    get_logger().critical("replica_ends", why=why)
    os._exit(EXIT_CODE)
