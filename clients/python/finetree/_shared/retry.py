# SPDX-License-Identifier: Apache-2.0
"""When to try again after a broken connection: jittered exponential backoff, bounded by continuous failure."""

from __future__ import annotations

import random
import time

from finetree._shared.status import is_broken_connection
from finetree.errors import DeadlineExceeded, FinetreeError, FinetreeTimeout, Unavailable

FIRST_DELAY = 0.05
LONGEST_DELAY = 5.0
STALLED = 45.0
"""Seconds of silence that end a transfer: longer than a keepalive round (30 s + 10 s), which detects a dead peer."""


class Backoff:
    """Delays between attempts. Progress resets it; there is no limit on attempts, only on time without progress.

    Args:
        patience: seconds of continuous failure after which the last error is raised.
        deadline: `time.monotonic()` at which the caller wants to be back, None for never.
    """

    def __init__(self, patience: float, deadline: float | None = None) -> None:
        self.deadline = deadline
        self._patience = patience
        self._attempts = 0
        self._failing_since: float | None = None

    def progressed(self) -> None:
        """Reset: something arrived."""
        self._attempts, self._failing_since = 0, None

    def delay(self, error: FinetreeError) -> float:
        """Seconds to wait before the next attempt, with jitter.

        Raises:
            FinetreeError: `error` itself, when another attempt cannot help or patience has run out.
            FinetreeTimeout: the deadline comes first.
        """
        now = time.monotonic()
        if isinstance(error, DeadlineExceeded) and self.deadline is not None and now >= self.deadline:
            raise out_of_time(error)
        if not self._helps(error):
            raise error
        self._failing_since = now if self._failing_since is None else self._failing_since
        if now - self._failing_since > self._patience:
            raise error
        grown = min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(self._attempts, 10))
        self._attempts += 1
        delay = max(random.uniform(grown / 2, grown), error.retry_after or 0.0)
        if self.deadline is not None and now + delay >= self.deadline:
            raise out_of_time(error)
        return min(delay, max(0.0, self._failing_since + self._patience - now) + FIRST_DELAY)

    @staticmethod
    def _helps(error: FinetreeError) -> bool:
        # An attempt that ran into its own deadline met a silent peer; a caller's deadline was looked at before.
        silent = isinstance(error, DeadlineExceeded)
        return silent or is_broken_connection(error) or (error.retry_after is not None and error.code != "INTERNAL")

    def within(self, seconds: float | None) -> float | None:
        """Timeout of an attempt: `seconds` (None: no limit of its own), but no later than the deadline.

        Raises:
            FinetreeTimeout: it has passed.
        """
        if self.deadline is None:
            return seconds
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise out_of_time(None)
        return left if seconds is None else min(left, seconds)


def deadline_after(timeout: float | None) -> float | None:
    """`time.monotonic()` of a deadline."""
    return None if timeout is None else time.monotonic() + timeout


def out_of_time(cause: FinetreeError | None) -> FinetreeTimeout:
    """Make the exception for a caller's deadline that has passed."""
    why = f"; last error: {cause.message}" if cause is not None else ""
    return FinetreeTimeout(f"the timeout passed; the job or transfer continues{why}", reason="TIMEOUT")


def stalled() -> Unavailable:
    """Make the error for a transfer without progress."""
    return Unavailable(f"no bytes arrived for {STALLED:g} s", reason="TRANSFER_STALLED")
