# SPDX-License-Identifier: Apache-2.0
"""How many requests are served at once: calls, and streams, of which there may be more, since they mostly wait."""

from __future__ import annotations

from typing import NoReturn

from finetree_console.errors import HttpError

RETRY_SECONDS = 1.0
"""Time after which a client that was refused is to come back."""


class Capacity:
    """Counts requests. Every request begins as a call.

    Args:
        max_calls: calls at once.
        max_streams: event streams, uploads and downloads at once.
    """

    def __init__(self, max_calls: int, max_streams: int) -> None:
        self.limits = {"calls": max_calls, "streams": max_streams}
        self.running = {"calls": 0, "streams": 0}

    def enter(self) -> Slot:
        """Take a slot for a call, to be left when its response has ended.

        Raises:
            HttpError: TOO_MANY_REQUESTS.
        """
        return Slot(self)

    def take(self, kind: str) -> None:
        """Count one more request of a kind.

        Raises:
            HttpError: TOO_MANY_REQUESTS.
        """
        if self.running[kind] >= self.limits[kind]:
            _refuse(kind, self.limits[kind])
        self.running[kind] += 1

    def give_back(self, kind: str) -> None:
        """Count one request of a kind less."""
        self.running[kind] -= 1


class Slot:
    """The place of one request."""

    def __init__(self, capacity: Capacity) -> None:
        self._capacity = capacity
        self._kind = "calls"
        capacity.take(self._kind)

    def become_stream(self) -> None:
        """Count the request as a stream from now on.

        Raises:
            HttpError: TOO_MANY_REQUESTS.
        """
        self._capacity.take("streams")
        self._capacity.give_back(self._kind)
        self._kind = "streams"

    def leave(self) -> None:
        """Give the place back."""
        self._capacity.give_back(self._kind)


def _refuse(kind: str, limit: int) -> NoReturn:
    raise HttpError(
        f"this server runs {limit} {kind} at once; try again in a moment",
        status=429,
        code="RESOURCE_EXHAUSTED",
        reason="TOO_MANY_REQUESTS",
        retry_after=RETRY_SECONDS,
        metadata={"limit": str(limit)},
    )
