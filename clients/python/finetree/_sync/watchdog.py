# SPDX-License-Identifier: Apache-2.0
"""Ends a stream that has gone silent: reading from a synchronous gRPC stream has no timeout of its own."""

from __future__ import annotations

import threading
import time
from typing import Any

from finetree._sync.transport import Stream


class Watchdog:
    """Cancels a stream when `limit` seconds pass without a `beat`. One daemon thread, woken once per limit."""

    def __init__(self, stream: Stream[Any], limit: float) -> None:
        self.fired = False
        self._stream, self._limit = stream, limit
        self._last = time.monotonic()
        self._stopped = threading.Event()
        threading.Thread(target=self._watch, name="finetree-watchdog", daemon=True).start()

    def beat(self) -> None:
        """A message arrived."""
        self._last = time.monotonic()

    def stop(self) -> None:
        """The stream has ended."""
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(max(0.0, self._last + self._limit - time.monotonic())):
            if time.monotonic() - self._last >= self._limit:
                self.fired = True
                self._stream.cancel()
                return
