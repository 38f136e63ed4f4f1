# SPDX-License-Identifier: Apache-2.0
"""When another attempt is made, and when not."""

import time

import finetree
import pytest
from finetree._shared.retry import FIRST_DELAY, LONGEST_DELAY, Backoff, deadline_after

BROKEN = finetree.Unavailable("gone", reason="SERVICE_UNREACHABLE")


def test_delays_grow_with_jitter_up_to_a_limit():
    backoff = Backoff(patience=1e9)
    delays = [backoff.delay(BROKEN) for _ in range(20)]
    for attempt, delay in enumerate(delays):
        grown = min(LONGEST_DELAY, FIRST_DELAY * 2**attempt)
        assert grown / 2 <= delay <= grown
    assert len(set(delays)) == len(delays)


def test_progress_starts_anew():
    backoff = Backoff(patience=1e9)
    for _ in range(10):
        backoff.delay(BROKEN)
    backoff.progressed()
    assert backoff.delay(BROKEN) <= FIRST_DELAY


def test_retry_after_is_honoured_also_when_the_service_is_only_full():
    full = finetree.ResourceExhausted("too many watchers", reason="TOO_MANY_WATCHERS", retry_after=2.5)
    assert Backoff(patience=300).delay(full) >= 2.5


@pytest.mark.parametrize(
    "error",
    [
        finetree.NotFound("no job", reason="JOB_NOT_FOUND"),
        finetree.OutOfRange("expired", reason="EVENTS_EXPIRED"),
        finetree.ResourceExhausted("full", reason="QUEUE_FULL"),
        finetree.Internal("a bug", reason="INTERNAL", retry_after=1.0),
        finetree.ClientClosed("closed"),
    ],
)
def test_what_another_attempt_cannot_help_is_raised(error):
    with pytest.raises(type(error)):
        Backoff(patience=300).delay(error)


def test_patience_ends_with_the_last_error(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    backoff = Backoff(patience=30)
    backoff.delay(BROKEN)
    now[0] += 29
    backoff.delay(BROKEN)
    now[0] += 2
    with pytest.raises(finetree.Unavailable, match="gone"):
        backoff.delay(BROKEN)


def test_a_deadline_is_a_timeout_that_tells_the_last_trouble():
    with pytest.raises(finetree.FinetreeTimeout, match="last error: gone"):
        Backoff(patience=300, deadline=deadline_after(0.001)).delay(BROKEN)
    with pytest.raises(finetree.FinetreeTimeout):
        Backoff(patience=300, deadline=time.monotonic() - 1).within(5)
    assert (Backoff(patience=300).within(None), Backoff(patience=300).within(5)) == (None, 5)
    assert 0 < Backoff(patience=300, deadline=deadline_after(3)).within(5) <= 3
