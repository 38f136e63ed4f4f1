# SPDX-License-Identifier: Apache-2.0
"""Files in folders that a worker writes to, read by a service that may be another user, and may more."""

import hashlib
import os
import stat
from io import BufferedReader
from pathlib import Path


def open_own(path: Path) -> BufferedReader:
    """Open a regular file to read; a link, a pipe or a device in its place counts as no file.

    Whoever writes to the folder could have put it there to be shown a file that they cannot read, or to stop whoever
    waits for a pipe. Raises OSError.
    """
    try:
        # A pipe is opened at once with O_NONBLOCK, which means nothing to a regular file.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if path.is_symlink():
            raise FileNotFoundError(path) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(path)
    return os.fdopen(descriptor, "rb")


def hash_own(path: Path) -> str:
    """Return the sha256 (hex) of a file that `open_own` opens. Raises OSError."""
    with open_own(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
