# SPDX-License-Identifier: Apache-2.0
"""Files of datasets by their content: one for each hash, put in place and removed by one hand at a time.

Several datasets may have the same content, and one of them may be deleted while another is uploaded. Whether nobody
needs a file any more is therefore asked again right before its removal, where no upload can put it in place meanwhile.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from finetree_trainer.disk import in_thread, move_durably
from finetree_trainer.layout import Layout
from finetree_trainer.objects.copies import Copies
from finetree_trainer.objects.locks import Locks
from finetree_trainer.store import datasets
from finetree_trainer.store.database import Store
from finetree_trainer.worker_user import lend


class Contents:
    """The files of complete datasets, and their copies in the object store."""

    def __init__(self, store: Store, layout: Layout, copies: Copies) -> None:
        self._store, self._layout, self._copies, self._locks = store, layout, copies, Locks()
        self.on_ready: Callable[[], None] = lambda: None
        """Called when a dataset is ready."""

    async def file(self, sha256: str) -> Path:
        """The file of a content, fetched from the object store where the disk lacks it. Raises as `Copies.ensure`."""
        place = self._layout.dataset_file(sha256)
        await self._copies.ensure(place)
        return place

    async def place(self, uploaded: Path, sha256: str) -> None:
        """Move an uploaded file to its place; a dataset of this content has a row. Raises OSError."""
        async with self._locks.held(sha256):
            await in_thread(lend, uploaded, self._layout.user)
            await in_thread(move_durably, uploaded, self._layout.dataset_file(sha256))

    async def remove_unused(self, sha256: str) -> int:
        """Remove a content that no dataset has; return the bytes that are freed on the disk.

        Raises Unavailable OBJECT_STORE_UNAVAILABLE with the copy left, which the next sweep removes.
        """
        async with self._locks.held(sha256):
            if await self._store.read(partial(datasets.count_of_content, sha256=sha256)):
                return 0
            freed = await in_thread(_unlink, self._layout.dataset_file(sha256))
            await self._copies.remove(self._layout.dataset_file(sha256))
            return freed


def _unlink(file: Path) -> int:
    try:
        size = file.lstat().st_size
    except FileNotFoundError:
        return 0
    file.unlink(missing_ok=True)
    return size
