# SPDX-License-Identifier: Apache-2.0
"""Files of the data folder: a full disk as a refusal, and writes that survive a power cut."""

import asyncio
import errno
import os
import shutil
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from finetree_trainer.store.writer import disk_full

T = TypeVar("T")

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def full_disk_refused() -> Iterator[None]:
    """Turn the operating system's "no space", "quota" and "file too large" into RESOURCE_EXHAUSTED DISK_FULL."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise disk_full() from error
        raise


def require_space(folder: Path, needed: int) -> None:
    """Raise RESOURCE_EXHAUSTED DISK_FULL unless so many bytes are free where `folder` is."""
    if shutil.disk_usage(folder).free < needed:
        raise disk_full()


def move_durably(source: Path, target: Path) -> None:
    """Rename a file whose content is on disk already, so that the new name is on disk too."""
    target.parent.mkdir(parents=True, exist_ok=True)
    source.replace(target)
    descriptor = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Await work that must not be cut off; who is cancelled meanwhile is so only when the work is over."""
    running = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


async def in_thread(work: Callable[..., T], *arguments: Any) -> T:
    """Run blocking work on a thread, to its end.

    A thread cannot be stopped: closing a file, or noting its length, beside a write that still runs would corrupt it.
    """
    return await to_its_end(asyncio.to_thread(work, *arguments))


class Upload:
    """A file that grows by pieces and is safe up to `synced`. All methods block: call them on a thread."""

    def __init__(self, file: Path, committed: int) -> None:
        """Open the file where it was committed to; what an unfinished write left beyond is cut off."""
        self.file = file
        with full_disk_refused():
            self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self.position = self.synced = min(committed, os.fstat(self._descriptor).st_size)
            if os.fstat(self._descriptor).st_size > self.position:
                os.ftruncate(self._descriptor, self.position)

    def write(self, data: bytes) -> None:
        """Append. Raises ResourceExhausted DISK_FULL; `position` then stands behind what did get in."""
        view = memoryview(data)
        with full_disk_refused():
            while view:
                count = os.pwrite(self._descriptor, view, self.position)
                self.position += count
                view = view[count:]

    def sync(self) -> int:
        """Put everything on disk; the number of bytes that are there."""
        with full_disk_refused():
            os.fsync(self._descriptor)
        self.synced = self.position
        return self.synced

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)
