# SPDX-License-Identifier: Apache-2.0
"""Files of the data folder: private folders, a full disk as a refusal, and writes that survive a power cut."""

import asyncio
import os
import shutil
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from finetree_data.durable_files import DISK_FULL, make_folder, sync_folder
from finetree_data.fail_points import fail_point
from finetree_runtime.errors import ResourceExhausted

T = TypeVar("T")


def disk_full() -> ResourceExhausted:
    """Build the error that a full disk gives, wherever it is met."""
    return ResourceExhausted("DISK_FULL", "The trainer's disk is full; free space and try again.", retry_delay=30.0)


@contextmanager
def full_disk_refused() -> Iterator[None]:
    """Turn the operating system's "no space", "quota" and "file too large" into RESOURCE_EXHAUSTED DISK_FULL."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise disk_full() from error
        raise


def require_space(folder: Path, needed: int) -> None:
    """Raise RESOURCE_EXHAUSTED DISK_FULL unless so many bytes are free on the disk of `folder`."""
    if shutil.disk_usage(folder).free < needed:
        raise disk_full()


def private_folder(folder: Path) -> Path:
    """Make a folder that only this user can enter, on the disk with its parents, and return it. Raises OSError."""
    make_folder(folder)
    os.chmod(folder, 0o700)  # noqa: PTH101 - mkdir's mode is cut by the umask and left alone when the folder exists
    return folder


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder; 0 where there is none. What vanishes meanwhile is not counted."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_size  # noqa: PTH118 - of millions of files
    return total


def remove_tree(folder: Path) -> bool:
    """Remove a folder with everything in it, as far as that is possible; return whether nothing is left."""
    shutil.rmtree(folder, ignore_errors=True)
    return not os.path.lexists(folder)


def move_durably(source: Path, target: Path) -> None:
    """Rename a file whose content is on disk already, so that the new name is on disk too."""
    target.parent.mkdir(parents=True, exist_ok=True)
    source.replace(target)
    fail_point("upload.after_rename")
    sync_folder(target.parent)


async def uninterrupted(work: Coroutine[Any, Any, T]) -> T:
    """Await work that must not be cut off; a caller that is cancelled meanwhile is so only when the work is over."""
    running = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        if not running.cancelled():
            running.exception()  # nobody is left to be told
        raise


async def in_thread(work: Callable[..., T], *arguments: Any) -> T:
    """Run blocking work on a thread, to its end.

    A thread cannot be stopped: closing a file, or noting its length, beside a write that still runs would corrupt it.
    """
    return await uninterrupted(asyncio.to_thread(work, *arguments))
