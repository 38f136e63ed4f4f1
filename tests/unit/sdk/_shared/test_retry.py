# SPDX-License-Identifier: Apache-2.0
"""When another attempt is made, and when not."""

import time

import finetree
import pytest
from finetree._shared.retry import (
    CALL_DELAYS,
    FIRST_DELAY,
    LONGEST_DELAY,
    LONGEST_HINT,
    RETRY_TOKENS,
    SPREAD,
    Attempts,
    Backoff,
    RetryBudget,
    deadline_after,
)

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


def spend(attempts, error=BROKEN):
    """Delays until the error is raised."""
    delays: list[float] = []
    while True:
        try:
            delays.append(attempts.delay(error))
        except finetree.FinetreeError as raised:
            if raised is not error:
                raise
            return delays


def test_a_unary_call_has_so_many_further_attempts():
    assert [len(spend(Attempts(retries, RetryBudget(), None))) for retries in (0, 1, 3, 8)] == [0, 1, 3, 8]
    delays = spend(Attempts(6, RetryBudget(), None))
    for delay, grown in zip(delays, (*CALL_DELAYS, CALL_DELAYS[-1], CALL_DELAYS[-1]), strict=True):
        assert grown / 2 <= delay <= grown


def test_the_end_of_the_callers_own_time_is_no_trouble_of_the_service():
    over, silent = time.monotonic() - 1, finetree.DeadlineExceeded("did not answer in time", reason="DEADLINE_EXCEEDED")
    with pytest.raises(finetree.FinetreeTimeout) as own:
        Backoff(patience=300, deadline=over).delay(silent)
    assert "did not answer" not in own.value.message
    failing = Backoff(patience=300, deadline=deadline_after(60))
    failing.delay(BROKEN)
    failing.deadline = over
    with pytest.raises(finetree.FinetreeTimeout, match="last error: did not answer in time"):
        failing.delay(silent)


def test_attempts_share_one_deadline():
    attempts = Attempts(3, RetryBudget(), 100.0)
    assert 99 < attempts.timeout() <= 100
    assert attempts.timeout() < Attempts(3, RetryBudget(), 100.0).timeout()
    assert Attempts(3, RetryBudget(), None).timeout() is None
    assert spend(Attempts(3, RetryBudget(), 0.01)) == []


@pytest.mark.parametrize(("seconds", "waits"), [(0.5, True), (LONGEST_HINT, True), (LONGEST_HINT + 1, False)])
def test_a_service_that_says_when_to_come_back_is_waited_for_but_not_long(seconds, waits):
    stopping = finetree.Unavailable("stopping", reason="SERVER_STOPPING", retry_after=seconds)
    delays = spend(Attempts(1, RetryBudget(), 300.0), stopping)
    assert [delay >= seconds for delay in delays] == [True] * waits


@pytest.mark.parametrize("reason", ["SERVER_OVERLOADED", "TOO_MANY_STREAMS"])
def test_a_server_without_a_place_is_asked_again_when_it_says_so_and_not_by_all_at_once(reason):
    refused = finetree.ResourceExhausted("too many calls", reason=reason, retry_after=1.0)
    delays = [spend(Attempts(1, RetryBudget(), None), refused)[0] for _ in range(50)]
    assert all(1.0 <= delay <= 1.0 + SPREAD for delay in delays)
    assert max(delays) - min(delays) > SPREAD / 4
    assert spend(Attempts(3, RetryBudget(), 0.5), refused) == []  # it would come back after its deadline


@pytest.mark.parametrize(
    "error",
    [
        finetree.ResourceExhausted("full", reason="QUEUE_FULL", retry_after=0.1),
        finetree.DeadlineExceeded("late"),
        finetree.Internal("a bug", reason="INTERNAL", retry_after=0.1),
        finetree.NotFound("no job", reason="JOB_NOT_FOUND"),
    ],
)
def test_a_unary_call_is_repeated_only_where_the_service_was_not_there(error):
    assert spend(Attempts(3, RetryBudget(), None), error) == []


def test_an_outage_is_not_multiplied():
    budget = RetryBudget()
    made = sum(len(spend(Attempts(3, budget, None))) for _ in range(1000))
    assert made == RETRY_TOKENS


def test_ten_answers_earn_a_retry_and_no_more_than_the_budget_is_kept():
    budget = RetryBudget()
    for _ in range(1000):
        budget.earn()
    assert sum(budget.spend() for _ in range(100)) == RETRY_TOKENS
    for _ in range(11):
        Attempts(3, budget, None).succeeded()
    assert [budget.spend(), budget.spend()] == [True, False]
