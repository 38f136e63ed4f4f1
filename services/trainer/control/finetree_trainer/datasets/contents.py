# SPDX-License-Identifier: Apache-2.0
"""Files of datasets by their content: one for each hash, put in place and removed by one hand at a time.

Several datasets may have the same content, and one of them may be deleted while another is uploaded. Whether nobody
needs a file any more is therefore asked again right before its removal, where no upload can put it in place meanwhile.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from finetree_trainer.disk import in_thread, move_durably
from finetree_trainer.layout import Layout
from finetree_trainer.store import datasets
from finetree_trainer.store.database import Store
from finetree_trainer.worker_user import lend


class Locks:
    """A lock for each key, kept while somebody holds it or waits for it."""

    def __init__(self) -> None:
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def held(self, key: str) -> AsyncIterator[None]:
        """Hold the lock of a key in the block."""
        lock, waiting = self._locks.get(key, (asyncio.Lock(), 0))
        self._locks[key] = lock, waiting + 1
        try:
            async with lock:
                yield
        finally:
            lock, waiting = self._locks[key]
            self._locks[key] = lock, waiting - 1
            if waiting == 1:
                del self._locks[key]


class Contents:
    """The files of complete datasets."""

    def __init__(self, store: Store, layout: Layout) -> None:
        self._store, self._layout, self._locks = store, layout, Locks()

    async def place(self, uploaded: Path, sha256: str) -> None:
        """Move an uploaded file to its place; a dataset of this content has a row. Raises OSError."""
        async with self._locks.held(sha256):
            await in_thread(lend, uploaded, self._layout.user)
            await in_thread(move_durably, uploaded, self._layout.dataset_file(sha256))

    async def remove_unused(self, sha256: str) -> int:
        """Remove a content that no dataset has; return the bytes that are freed."""
        async with self._locks.held(sha256):
            if await self._store.read(partial(datasets.count_of_content, sha256=sha256)):
                return 0
            return await in_thread(_unlink, self._layout.dataset_file(sha256))


def _unlink(file: Path) -> int:
    try:
        size = file.lstat().st_size
    except FileNotFoundError:
        return 0
    file.unlink(missing_ok=True)
    return size
