# SPDX-License-Identifier: Apache-2.0
"""A stream of the service, piece by piece: the first one before the response begins, each other as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")

STATUS_SECONDS = 1.0
"""Longest wait for the first piece before the response begins: what is refused until then has a status of its own."""


async def following(source: AsyncIterator[T]) -> T | None:
    """Read the next piece; None at the end. A coroutine, where `anext` gives something that no task can be made of."""
    return await anext(source, None)


async def begun(first: asyncio.Future[Any], close: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[None]]:
    """Wait `STATUS_SECONDS` for the first piece, which is being read; return what ends the reading and the stream.

    Raises:
        FinetreeError: what the service refuses until then; the stream is closed.
    """

    async def release() -> None:
        first.cancel()
        await asyncio.wait({first})
        await close()

    try:
        await asyncio.wait({first}, timeout=STATUS_SECONDS)
        if first.done():
            first.result()
    except BaseException:
        await release()
        raise
    return release


async def paced(
    source: AsyncIterator[T],
    first: asyncio.Future[T | None],
    draining: asyncio.Event,
    *,
    heartbeat: float | None = None,
) -> AsyncGenerator[T | None]:
    """Iterate over pieces as they come, with None for each `heartbeat` seconds of silence, until the server stops.

    Args:
        source: what is read; the next piece when the one before was taken.
        first: the first of them, which was begun to be read.
        draining: set when the server stops.
        heartbeat: seconds; None: silence says nothing.
    """
    coming, stopping = first, asyncio.ensure_future(draining.wait())
    try:
        while True:
            awaited: set[asyncio.Future[Any]] = {coming, stopping}
            await asyncio.wait(awaited, timeout=heartbeat, return_when=asyncio.FIRST_COMPLETED)
            if coming.done():
                piece = coming.result()
                if piece is None:
                    return
                yield piece
                coming = asyncio.ensure_future(following(source))
            elif stopping.done():
                return
            else:
                yield None
    finally:
        coming.cancel()
        stopping.cancel()
        await asyncio.gather(coming, stopping, return_exceptions=True)
