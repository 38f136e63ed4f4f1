# SPDX-License-Identifier: Apache-2.0
"""Keeps the data folder small: drops from the disk what the object store has, what was used least recently first."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from finetree_runtime.server.logging import get_logger

from finetree_trainer.disk import in_thread
from finetree_trainer.objects.copies import Copies

RECENT_SECONDS = 600.0
"""How long a unit stays after its last use: somebody may still read it."""
TRIM_SECONDS = 600.0
"""Time between two looks where no transfer calls for one."""


class Cache:
    """Units that are both on the disk and in the store, within a number of bytes; 0 is no limit.

    `in_use` gives the folders of jobs, and the files of datasets, that jobs which have not ended need.
    """

    def __init__(
        self, copies: Copies, limit: int, in_use: Callable[[], Awaitable[set[Path]]], *, recent: float = RECENT_SECONDS
    ) -> None:
        self._copies, self._limit, self._in_use, self._recent = copies, limit, in_use, recent
        self.bytes = 0
        """Bytes of those units, at the last look."""

    async def run(self) -> None:
        """Trim until cancelled, after each fetch and now and then. Raises DomainError OBJECT_STORE_UNAVAILABLE."""
        fetched = asyncio.Event()
        self._copies.on_fetched = fetched.set
        while True:
            await self.trim()
            with suppress(TimeoutError):
                await asyncio.wait_for(fetched.wait(), TRIM_SECONDS)
            fetched.clear()

    async def trim(self) -> None:
        """Drop units until the limit is kept, as far as nobody needs them and the store proves to have them."""
        found = await in_thread(self._on_disk)
        self.bytes = sum(size for _, size, _ in found)
        # What a replica that led before may still remove from the store must be on the disk.
        if not self._limit or self.bytes <= self._limit or not self._copies.settled:
            return
        used = await self._in_use()
        until = time.time() - self._recent
        for last_use, size, place in found:
            if self.bytes <= self._limit or last_use > until:
                return
            if place in used or any(folder in used for folder in place.parents):
                continue
            manifest = self._copies.find(place)
            if manifest is None or not await self._copies.is_in_store(manifest):
                continue
            if await in_thread(self._copies.drop, place):
                self.bytes -= size
                get_logger().info("dropped_from_disk", path=manifest.path, size_bytes=size)

    def _on_disk(self) -> list[tuple[float, int, Path]]:
        """Last use, size and place of every unit that is in the store and on the disk, the least recent first."""
        found = []
        for place, manifest in self._copies:
            with suppress(OSError):
                found.append((place.stat().st_atime, manifest.size, place))
        return sorted(found)
