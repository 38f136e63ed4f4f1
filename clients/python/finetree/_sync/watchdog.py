# SPDX-License-Identifier: Apache-2.0
"""Cancels silent streams: reading from a synchronous gRPC stream has no timeout."""

from __future__ import annotations

import threading
import time
from typing import Any

from finetree._sync.transport import Stream


class Watchdog:
    """Cancels a stream after `limit` seconds without a `beat`, in a daemon thread that wakes once per limit."""

    def __init__(self, stream: Stream[Any], limit: float) -> None:
        self.fired = False
        self._stream, self._limit = stream, limit
        self._last = time.monotonic()
        self._stopped = threading.Event()
        threading.Thread(target=self._watch, name="finetree-watchdog", daemon=True).start()

    def beat(self) -> None:
        """Record that a message arrived."""
        self._last = time.monotonic()

    def stop(self) -> None:
        """End the thread; the stream has ended."""
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(max(0.0, self._last + self._limit - time.monotonic())):
            if time.monotonic() - self._last >= self._limit:
                self.fired = True
                self._stream.cancel()
                return
