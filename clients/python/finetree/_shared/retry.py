# SPDX-License-Identifier: Apache-2.0
"""When to try again after a broken connection: jittered exponential backoff.

A stream is bounded by the time of continuous failure (`Backoff`), a unary call by a number of attempts, by its deadline
and by what all calls of the client may spend (`Attempts`, `RetryBudget`).
"""

from __future__ import annotations

import random
import threading
import time

from finetree._shared.status import TOKEN_RENEWED, is_broken_connection
from finetree.errors import DeadlineExceeded, FinetreeError, FinetreeTimeout, Unavailable

FIRST_DELAY = 0.05
LONGEST_DELAY = 5.0
CALL_DELAYS = (0.05, 0.15, 0.45, 1.35)
"""Seconds before the second, third … attempt of a unary call, the last one also before those that follow."""
LONGEST_HINT = 10.0
"""Longest `retry_after` that a unary call waits for by itself; a longer one is its caller's to decide."""
RETRY_TOKENS = 20.0
"""Retries in a row, over all calls of a client, that a service may cost without an answer in between."""
EARNED = 0.1
"""Retries that an answer earns: in the long run at most every tenth call is sent again."""
SPREAD = 0.5
"""Share of `retry_after` over which the next attempts of many clients are spread."""
REFUSED = frozenset({"SERVER_OVERLOADED", "TOO_MANY_STREAMS", "RATE_LIMIT_EXCEEDED"})
"""Reasons of calls for which the server had no place: nothing was done, and the same call may succeed soon."""
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
            # The caller's own time is over: that is no word about the service, unless it failed before.
            raise out_of_time(None if self._failing_since is None else error)
        if not self._helps(error):
            raise error
        self._failing_since = now if self._failing_since is None else self._failing_since
        if now - self._failing_since > self._patience:
            raise error
        grown = min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(self._attempts, 10))
        self._attempts += 1
        delay = max(random.uniform(grown / 2, grown), spread(error.retry_after))
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
        return within(self.deadline, seconds)


class RetryBudget:
    """Retries that the calls of a client may still make at one service, so that none multiplies an outage."""

    def __init__(self) -> None:
        self._tokens = RETRY_TOKENS
        self._lock = threading.Lock()

    def spend(self) -> bool:
        """Take one retry; False when none is left."""
        with self._lock:
            if self._tokens < 1.0:
                return False
            self._tokens -= 1.0
            return True

    def earn(self) -> None:
        """Give a tenth of a retry back: the service answered."""
        if self._tokens < RETRY_TOKENS:
            with self._lock:
                self._tokens = min(RETRY_TOKENS, self._tokens + EARNED)


class Attempts:
    """The attempts of one unary call, all under one deadline.

    Args:
        retries: attempts after the first.
        budget: what the client may spend at the service.
        timeout: seconds for all attempts, None for no limit.
    """

    def __init__(self, retries: int, budget: RetryBudget, timeout: float | None) -> None:
        self._left, self._made = retries, 0
        self._budget = budget
        self._deadline = deadline_after(timeout)

    def timeout(self) -> float | None:
        """Seconds that the next attempt may take."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def succeeded(self) -> None:
        """Record that the service answered."""
        self._budget.earn()

    def delay(self, error: FinetreeError) -> float:
        """Seconds to wait before the next attempt, with jitter, at least what the service asks for.

        Raises:
            FinetreeError: `error` itself: another attempt cannot help, comes too late, or was one too many.
        """
        if error.reason == TOKEN_RENEWED:
            return 0.0  # the service is well; `Token.renew` bounds how often this happens
        # A full queue or quota (RESOURCE_EXHAUSTED) is not asked again: its caller knows what can wait, `retry_after`
        # says for how long. A server that had no place for the call did nothing, and has one soon.
        helps = is_broken_connection(error) or error.reason in REFUSED
        if not helps or self._left <= 0:
            raise error
        grown = CALL_DELAYS[min(self._made, len(CALL_DELAYS) - 1)]
        delay = max(random.uniform(grown / 2, grown), spread(error.retry_after))
        left = self.timeout()
        if (error.retry_after or 0.0) > LONGEST_HINT or (left is not None and delay >= left):
            raise error
        if not self._budget.spend():
            raise error
        self._left, self._made = self._left - 1, self._made + 1
        return delay


def spread(retry_after: float | None) -> float:
    """Seconds to wait where a service asks for `retry_after`: up to half as much more, at random.

    All that were refused in one moment would else come back in one.
    """
    return random.uniform(1.0, 1.0 + SPREAD) * (retry_after or 0.0)


def deadline_after(timeout: float | None) -> float | None:
    """`time.monotonic()` of a deadline."""
    return None if timeout is None else time.monotonic() + timeout


def within(deadline: float | None, seconds: float | None) -> float | None:
    """Timeout of an attempt: `seconds` (None: no limit of its own), but no later than the deadline (None: none).

    Raises:
        FinetreeTimeout: the deadline has passed.
    """
    if deadline is None:
        return seconds
    left = deadline - time.monotonic()
    if left <= 0:
        raise out_of_time(None)
    return left if seconds is None else min(left, seconds)


def out_of_time(cause: FinetreeError | None) -> FinetreeTimeout:
    """Make the exception for a caller's deadline that has passed."""
    why = f"; last error: {cause.message}" if cause is not None else ""
    return FinetreeTimeout(f"the timeout passed; the job or transfer continues{why}", reason="TIMEOUT")


def stalled() -> Unavailable:
    """Make the error for a transfer without progress."""
    return Unavailable(f"no bytes arrived for {STALLED:g} s", reason="TRANSFER_STALLED")
