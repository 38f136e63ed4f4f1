# SPDX-License-Identifier: Apache-2.0
"""Requests a second of each principal and project: token buckets in this server's memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from finetree_runtime.server.limits.file import LimitsFile
from finetree_runtime.server.limits.table import PRINCIPALS, PROJECTS, exceeded

RATE_LIMIT_EXCEEDED = "RATE_LIMIT_EXCEEDED"
_LIMIT = "requests_per_second"
BURST_SECONDS = 2.0
"""Seconds of requests that may come at once where the file says nothing of a burst."""
MAX_BUCKETS = 10_000
"""Buckets that are kept. One more, and all are begun anew, full: a server with so many subjects has more than a bucket
can protect."""


@dataclass(slots=True)
class _Bucket:
    tokens: float
    time: float


class RateLimits:
    """Lets a request in where every subject that it counts for has a token for it."""

    def __init__(self, file: LimitsFile, clock: Callable[[], float] = time.monotonic) -> None:
        self._file, self._clock = file, clock
        self._buckets: dict[str, _Bucket] = {}

    def take(self, principal: str, projects: Callable[[], Iterable[str]]) -> None:
        """Count a request of a principal about projects, which are asked for where one of them has a limit.

        Raises ResourceExhausted RATE_LIMIT_EXCEEDED, and then the request counts for nobody.
        """
        table, now = self._file.table, self._clock()
        taken: list[_Bucket] = []
        subjects = [f"{PRINCIPALS}/{principal}"]
        if table.limits_any(_LIMIT, PROJECTS):
            subjects += [f"{PROJECTS}/{project}" for project in sorted(projects())]
        for subject in subjects:
            rate = table.value(_LIMIT, subject)
            if rate is None:
                continue
            burst = float(table.value("burst", subject) or max(1.0, rate * BURST_SECONDS))
            bucket = self._bucket(subject, burst, now)
            bucket.tokens = min(burst, bucket.tokens + (now - bucket.time) * rate)
            bucket.time = now
            if bucket.tokens < 1.0:
                delay = (1.0 - bucket.tokens) / rate
                raise exceeded(
                    _LIMIT,
                    subject,
                    f"{rate:g}",
                    f"{rate:g}",
                    todo="wait for the time in RetryInfo",
                    reason=RATE_LIMIT_EXCEEDED,
                    retry_delay=delay,
                )
            taken.append(bucket)
        for bucket in taken:
            bucket.tokens -= 1.0

    def _bucket(self, subject: str, burst: float, now: float) -> _Bucket:
        bucket = self._buckets.get(subject)
        if bucket is None:
            if len(self._buckets) >= MAX_BUCKETS:
                self._buckets.clear()
            bucket = self._buckets[subject] = _Bucket(burst, now)
        return bucket
