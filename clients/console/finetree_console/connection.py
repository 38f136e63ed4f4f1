# SPDX-License-Identifier: Apache-2.0
"""The client's connection while it is served: work that stops when the client hangs up, and bodies sent in pieces."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from finetree_console.errors import HttpError

T = TypeVar("T")


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Await work, and cancel it when the client hangs up.

    Raises:
        HttpError: CLIENT_GONE, which nobody reads.
    """
    call, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request.receive))
    try:
        await asyncio.wait({call, gone}, return_when=asyncio.FIRST_COMPLETED)
        if call.done():
            return call.result()
        raise HttpError("the client hung up", status=499, code="CANCELLED", reason="CLIENT_GONE")
    finally:
        await _end(call, gone)


class Streamed(Response):
    """A response whose body is sent in pieces, each when the client takes it; a client that hangs up ends it.

    Args:
        pieces: the body; closed at the end, whatever ends it.
        status: HTTP status.
        headers: of the response.
        release: awaited at the very end, also when nothing of the body was asked for.
    """

    def __init__(
        self,
        pieces: AsyncGenerator[bytes],
        *,
        status: int = 200,
        headers: Mapping[str, str],
        release: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.status_code = status
        self.background = None
        self.init_headers(dict(headers))
        self._pieces, self._release = pieces, release

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        del scope
        sending, gone = asyncio.ensure_future(self._send(send)), asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            await _end(sending, gone)
            if self._release is not None:
                await self._release()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with contextlib.aclosing(self._pieces):
            async for piece in self._pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks, and wait until what they clean up is done."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
