# SPDX-License-Identifier: Apache-2.0
"""What a principal or a project may have open at once: watches, uploads, Generate streams."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from finetree_runtime.server.limits.file import LimitsFile
from finetree_runtime.server.limits.table import QUOTA_EXCEEDED, Caller, exceeded


class OpenStreams:
    """Counts what is open, by limit and subject; a restart closes all of it."""

    def __init__(self, file: LimitsFile) -> None:
        self._file = file
        self._open: Counter[tuple[str, str]] = Counter()

    def count(self, limit: str, subject: str) -> int:
        """How many a subject has open."""
        return self._open[limit, subject]

    @contextmanager
    def taken(self, limit: str, caller: Caller, *, reason: str = QUOTA_EXCEEDED) -> Iterator[None]:
        """Count one more while the block runs. Raises ResourceExhausted with `reason`."""
        keys = [(limit, subject) for subject in caller.subjects]
        for _, subject in keys:
            value, used = self._file.table.value(limit, subject), self._open[limit, subject]
            if value is not None and used >= value:
                todo, delay = "end some, or try again after the time in RetryInfo", 5.0
                raise exceeded(limit, subject, value, used, todo=todo, reason=reason, retry_delay=delay)
        self._open.update(keys)
        try:
            yield
        finally:
            self._open.subtract(keys)
            for key in keys:
                if not self._open[key]:
                    del self._open[key]
