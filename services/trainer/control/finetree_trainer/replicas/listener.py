# SPDX-License-Identifier: Apache-2.0
"""Hears of the leader's commits, by PostgreSQL's NOTIFY, on a thread and a connection of its own.

What is heard is a hint alone: a notification that is lost, with the connection or behind a pool of transactions, costs
the time until the next look.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from sqlalchemy import Engine

LISTEN_SECONDS = 0.5
"""How long the end of the service may wait for this thread."""
RECONNECT_SECONDS = 1.0


class Listener:
    """Calls `heard`, on an event loop, for each bundle of notifications, until it is closed."""

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop, heard: Callable[[], object]) -> None:
        self._engine, self._loop, self._heard = engine, loop, heard
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="replica-listener", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread and its connection. Blocks."""
        self._closing.set()
        self._thread.join()
        self._engine.dispose()

    def _run(self) -> None:
        while not self._closing.is_set():
            # The driver's errors, whose classes are there with the driver alone: its server is away, or has cut it off.
            with suppress(Exception):
                self._listen()
            self._closing.wait(RECONNECT_SECONDS)

    def _listen(self) -> None:
        connection = self._engine.raw_connection()
        try:
            driver: Any = connection.driver_connection
            while not self._closing.is_set():
                for _ in driver.notifies(timeout=LISTEN_SECONDS, stop_after=1):
                    self._loop.call_soon_threadsafe(self._heard)
        finally:
            connection.invalidate()
