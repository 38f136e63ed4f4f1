# SPDX-License-Identifier: Apache-2.0
"""Calls that last: a token that is revoked or expires ends the streams that were opened with it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from finetree_runtime.errors import DomainError

CHECK_SECONDS = 5.0
"""Time between two checks of a call. The contract promises an end within 10 s; a check takes microseconds."""


@contextlib.asynccontextmanager
async def while_valid(check: Callable[[], Awaitable[None]], seconds: float | None = None) -> AsyncIterator[None]:
    """Run the block, and end it with what `check` raises, which is asked every `seconds` or CHECK_SECONDS seconds.

    A call that is shorter than that costs one timer and no check. Raises DomainError.
    """
    every = CHECK_SECONDS if seconds is None else seconds
    limit = asyncio.timeout(None)
    refused: list[DomainError] = []
    checking: list[asyncio.Task[None]] = []

    async def check_again() -> None:
        while not refused:
            try:
                await check()
            except DomainError as error:
                refused.append(error)
                limit.reschedule(asyncio.get_running_loop().time())
            else:
                await asyncio.sleep(every)

    timer = asyncio.get_running_loop().call_later(every, lambda: checking.append(asyncio.create_task(check_again())))
    try:
        async with limit:
            yield
    except TimeoutError:
        if limit.expired() and refused:
            raise refused[0] from None
        raise
    finally:
        timer.cancel()
        for task in checking:
            task.cancel()
