# SPDX-License-Identifier: Apache-2.0
"""Keeps the logs of services that run for months at a bounded size."""

import shutil
from pathlib import Path

LIMIT_BYTES = 16 * 1024 * 1024
"""Size from which a log is rotated."""
KEPT = 3
"""Older logs that are kept beside the present one: trainer.log.1 is the newest of them."""


def rotate(log: Path, *, limit: int = LIMIT_BYTES) -> bool:
    """Move a log that has grown beyond the limit aside; return whether it had.

    The service goes on writing to the open file, which is copied and then cut to nothing: it is open for appending, so
    that the next line begins the file. A line that is written between the copy and the cut is lost.
    """
    try:
        if log.stat().st_size < limit:
            return False
        for number in range(KEPT - 1, 0, -1):
            older = _older(log, number)
            if older.exists():
                older.replace(_older(log, number + 1))
        shutil.copyfile(log, _older(log, 1))
        with log.open("r+b") as stream:
            stream.truncate(0)
    except OSError:
        return False  # a full disk: tried again with the next look
    return True


def _older(log: Path, number: int) -> Path:
    return log.with_name(f"{log.name}.{number}")
