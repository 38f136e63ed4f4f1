# SPDX-License-Identifier: Apache-2.0
"""Files that hold a token or a key: whole or not at all, on the disk, and never readable by others."""

import os
import tempfile
from pathlib import Path

PRIVATE = 0o600
"""Mode of a file that its owner alone may read and write."""


def write_private(path: Path, content: str | bytes, *, mode: int = PRIVATE, new: bool = False) -> None:
    """Put a file in its place in one step, flushed with its name; it is of mode 0600 until it is whole.

    Args:
        path: the file; its folder must be there.
        content: its bytes, or a text that is written as UTF-8.
        mode: permissions in the end, also where the file before it had others.
        new: leave a file that is there already, and fail.

    Raises:
        OSError: It cannot be written; FileExistsError with `new`. What was there stays as it was.
    """
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")  # made with the mode 0600
    draft = Path(scratch)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
            stream.flush()
            os.fsync(stream.fileno())
        draft.chmod(mode)
        if new:
            path.hardlink_to(draft)  # fails where another process was faster
        else:
            draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Flush the names in a folder: without them, a power cut takes what was flushed under them."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
