# SPDX-License-Identifier: Apache-2.0
"""What runs in the background while the disk is full or the database is locked: it waits and tries again."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from finetree_runtime.errors import DomainError, NotFound
from finetree_runtime.server.logging import get_logger

T = TypeVar("T")

FIRST_RETRY_SECONDS = 0.5
LONGEST_RETRY_SECONDS = 15.0
"""Pause before another try: doubled after each, so that a store that is back is used within these seconds."""

_REASONS = frozenset({"DISK_FULL", "STORE_UNAVAILABLE", "OBJECT_STORE_UNAVAILABLE"})


def is_outage(error: BaseException) -> bool:
    """Return whether the disk, the database or the machine was at fault, so that the same may succeed later."""
    return isinstance(error, OSError) or (isinstance(error, DomainError) and error.reason in _REASONS)


class Pauses:
    """The pauses between tries of one piece of work, each twice as long as the one before."""

    def __init__(self) -> None:
        self._following = 0.0

    def following(self) -> float:
        """Return the next pause, in seconds."""
        pause = self._following or FIRST_RETRY_SECONDS
        self._following = min(2 * pause, LONGEST_RETRY_SECONDS)
        return pause

    def reset(self) -> None:
        """Begin again with the shortest: the work has succeeded."""
        self._following = 0.0


async def until_done(work: Callable[[], Awaitable[T]], *, doing: str, job: str) -> T:
    """Do what must be done in the end, again after whatever went wrong. Raises NotFound when there is no such job."""
    pauses = Pauses()
    while True:
        try:
            return await work()
        except NotFound:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it was, a job must not stay as it is for ever
            pause = pauses.following()
            log_failure(error, doing=doing, job=job, retry_seconds=pause)
            await asyncio.sleep(pause)


async def keep_running(
    loop: Callable[[], Awaitable[None]], *, name: str, on_death: Callable[[], Awaitable[None]]
) -> None:
    """Run a loop that never ends, again after each outage; await `on_death` when it has ended in another way."""
    pauses, now = Pauses(), asyncio.get_running_loop().time
    while True:
        began = now()
        try:
            await loop()
        except Exception as error:  # noqa: BLE001 - it is logged, and what is no outage ends the loop
            if now() - began > LONGEST_RETRY_SECONDS:
                pauses.reset()
            log_failure(error, doing=name)
            if is_outage(error):
                await asyncio.sleep(pauses.following())
                continue
        get_logger().critical("background_loop_died", loop=name)
        await on_death()
        return


def log_failure(error: Exception, *, doing: str, **fields: object) -> None:
    """Log what is tried again: an outage as its reason, anything else, which is a bug, with its stack."""
    if isinstance(error, DomainError):
        get_logger().error("background_work_failed", doing=doing, reason=error.reason, **fields)
    else:
        get_logger().error("background_work_failed", doing=doing, exc_info=error, **fields)
