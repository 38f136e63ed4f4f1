# SPDX-License-Identifier: Apache-2.0
"""Names and contents of files that survive a power cut."""

import errno
import os
from contextlib import suppress
from pathlib import Path

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says of a full disk, a used up quota and a limit on the size of files."""


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk: the names of what was made, renamed or deleted in it. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, on the disk: what is flushed inside would else be lost with its name.

    Raises OSError.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        with suppress(PermissionError):  # a folder that may be written and not read
            sync_folder(path.parent)


def draft_of(file: Path) -> Path:
    """Name of the draft by which `replace_file` writes a file.

    It begins with no dot: what does so in a folder of checkpoints is removed with those of a worker that has just died.
    """
    return file.with_name(f"{file.name}.new")


def replace_file(file: Path, content: bytes, *, private: bool = False) -> None:
    """Put a file in place of the one before: whole and on the disk, or not at all.

    Writers of one file must exclude each other. With `private` its owner alone can read it. Raises OSError.
    """
    draft = draft_of(file)
    with draft.open("wb") as stream:
        if private:
            os.fchmod(stream.fileno(), 0o600)
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(file)
    sync_folder(file.parent)
