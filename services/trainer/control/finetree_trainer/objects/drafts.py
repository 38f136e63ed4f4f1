# SPDX-License-Identifier: Apache-2.0
"""Where a process keeps what is on its way from the object store or to it: a folder that others leave alone.

Replicas share the data folder, so that what lies there may be in the hands of a process that lives. A lock beside each
folder tells: it is free once the process has ended, however it did.
"""

import fcntl
import os
from pathlib import Path

from finetree_runtime.ids import uuid7

from finetree_trainer.disk import private_folder, remove_tree

_LOCK, _DRAFT = ".lock", ".draft"


class Drafts:
    """The folder of this process below `root`, and names in it."""

    def __init__(self, root: Path) -> None:
        self._root, self._folder, self._lock = root, root / str(uuid7()), -1

    def open(self) -> None:
        """Make the folder, and remove those of processes that have ended. Blocks; raises OSError."""
        private_folder(self._root)
        # Locked before it has its name: whoever finds a lock that is free finds one that nobody will hold again.
        draft = self._folder.with_suffix(_DRAFT)
        self._lock = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        draft.rename(self._folder.with_suffix(_LOCK))
        private_folder(self._folder)
        for name in {place.stem for place in self._root.iterdir() if place.suffix != _DRAFT}:
            if name != self._folder.name:
                _remove(self._root / name)

    def new(self) -> Path:
        """A place in the folder that nothing has yet."""
        return self._folder / str(uuid7())

    def close(self) -> None:
        """Let the next process remove the folder."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _remove(folder: Path) -> None:
    """Remove a folder whose process has ended, its lock last. One without a lock is of a release that had none."""
    file = folder.with_suffix(_LOCK)
    try:
        lock = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        remove_tree(folder)
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    else:
        remove_tree(folder)
        file.unlink(missing_ok=True)
    finally:
        os.close(lock)
