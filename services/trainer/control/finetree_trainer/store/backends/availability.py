# SPDX-License-Identifier: Apache-2.0
"""Watches whether a database on a server answers, so that readiness says so and nobody is sent here in vain."""

import asyncio
from collections.abc import Awaitable
from typing import Protocol

from finetree_runtime.errors import DomainError
from finetree_runtime.server.logging import get_logger
from sqlalchemy import Connection

from finetree_trainer.store.backends.failures import why_away
from finetree_trainer.store.database import Store

TICK_SECONDS = 2.0
"""Pause between two looks: a server that is back is found, and its sessions are kept in use, within these seconds."""
PATIENCE_SECONDS = 5.0
"""How long an answer may take; one that hangs counts as none."""


class SetReady(Protocol):
    """Sets whether the service reports that it serves."""

    def __call__(self, *, ready: bool) -> Awaitable[None]:
        """Report it."""


class Availability:
    """Asks the writer, again and again, or a reader where another process writes.

    A look that finds a lost connection makes a new one.
    """

    def __init__(self, store: Store, set_ready: SetReady) -> None:
        self._store, self._set_ready = store, set_ready
        self.available = True
        """Whether the last look found a database that answers."""

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Look once, and report what has changed."""
        cause = await self._cause()
        if (cause is None) == self.available:
            return
        self.available = cause is None
        if cause is None:
            get_logger().info("database_back")
        else:
            get_logger().error("database_away", cause=cause)
        await self._set_ready(ready=self.available)

    async def _cause(self) -> str | None:
        """What keeps the database from answering; None where nothing does."""
        ask = self._store.write if self._store.leads else self._store.read
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await ask(_nothing)
        except TimeoutError:
            return "no answer"
        except DomainError as error:
            return why_away(error)
        return None


def _nothing(connection: Connection) -> None:
    connection.exec_driver_sql("SELECT 1")
