# SPDX-License-Identifier: Apache-2.0
"""What programs that work on a data folder print for the one that runs them: JSON, one object on a line.

{"progress": {"done": …, "total": …}} in bytes, then {"result": {…}} or {"error": {"reason": …, "message": …}}.
"""

import json
import sys
import time
from typing import Any

from finetree_runtime.config.settings import SettingsError

PROGRESS_SECONDS = 0.2
"""Shortest time between two reports of progress."""


class Progress:
    """Reports progress, not more often than somebody can see."""

    def __init__(self) -> None:
        self._next = 0.0

    def __call__(self, done: int, total: int) -> None:
        """Report the bytes that are done, and those in all."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + PROGRESS_SECONDS
            write({"progress": {"done": done, "total": total}})


def refuse(error: SettingsError) -> int:
    """Report an error, and return the exit code 1."""
    write({"error": {"reason": error.reason, "message": str(error)}})
    return 1


def write(document: dict[str, Any]) -> None:
    """Print one object."""
    sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
    sys.stdout.flush()
