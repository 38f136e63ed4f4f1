# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 connections whose clients may be slow or silent."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

HEAD_SECONDS = 15.0
"""Longest time in which the head of a request has to arrive, counted from its first byte or from the connection."""
STALLED_SECONDS = 60.0
"""Longest time in which a client may take nothing of a response; then its connection is cut."""


class BoundedProtocol(H11Protocol):
    """HTTP/1.1 for clients that may be slow or silent: neither keeps a connection for ever."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head_due: asyncio.TimerHandle | None = None
        self._read_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Expect the first request."""
        super().connection_made(transport)
        self._head_due = self.loop.call_later(HEAD_SECONDS, transport.abort)

    def data_received(self, data: bytes) -> None:
        """Parse; while no request is complete, the time for its head runs."""
        super().data_received(data)
        self._watch_head(begun=True)

    def on_response_complete(self) -> None:
        """Expect the next request, of which a part may be there already."""
        super().on_response_complete()
        self._watch_head(begun=bool(self.conn.trailing_data[0]))

    def _watch_head(self, *, begun: bool) -> None:
        cycle: RequestResponseCycle | None = self.cycle  # uvicorn's annotation leaves out that there is none at first
        if cycle is not None and not cycle.response_complete:
            self._head_due = _cancel(self._head_due)
        elif begun and self._head_due is None and not self.transport.is_closing():
            self._head_due = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def pause_writing(self) -> None:
        """Hold the response: the client does not take it as fast as it is made."""
        super().pause_writing()
        self._read_due = self.loop.call_later(STALLED_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Continue the response."""
        super().resume_writing()
        self._read_due = _cancel(self._read_due)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the times."""
        self._head_due, self._read_due = _cancel(self._head_due), _cancel(self._read_due)
        super().connection_lost(exc)


def _cancel(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """Cancel a timer, if there is one; what is left is none."""
    if timer is not None:
        timer.cancel()
    return None
