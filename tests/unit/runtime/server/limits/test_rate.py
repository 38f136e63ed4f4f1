# SPDX-License-Identifier: Apache-2.0
"""Requests a second, with a clock that is set by the test."""

import pytest
from finetree_runtime.errors import ResourceExhausted
from finetree_runtime.server.limits import rate
from finetree_runtime.server.limits.file import LimitsFile
from finetree_runtime.server.limits.rate import RateLimits


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def limiter(clock, **usual):  # noqa: ANN003 - limits by kind of subject
    return RateLimits(LimitsFile(None, usual), clock)


def let_in(rates, tries, principal="ci", projects=("search",)):
    count = 0
    for _ in range(tries):
        try:
            rates.take(principal, lambda: projects)
        except ResourceExhausted:
            continue
        count += 1
    return count


def test_a_burst_then_as_many_a_second_as_the_limit_says():
    clock = Clock()
    rates = limiter(clock, principals={"requests_per_second": 4.0, "burst": 10})
    assert let_in(rates, 50) == 10
    clock.now += 1.0
    assert let_in(rates, 50) == 4
    clock.now += 3600.0
    assert let_in(rates, 50) == 10
    assert let_in(rates, 50, principal="other") == 10


def test_the_refusal_says_when_the_next_one_is_let_in():
    clock = Clock()
    rates = limiter(clock, projects={"requests_per_second": 0.5, "burst": 1})
    rates.take("ci", lambda: ["search"])
    with pytest.raises(ResourceExhausted) as caught:
        rates.take("ci", lambda: ["search"])
    error = caught.value
    assert (error.reason, error.retry_delay) == ("RATE_LIMIT_EXCEEDED", 2.0)
    assert error.metadata["limit"] == "requests_per_second"
    assert (error.metadata["subject"], error.metadata["value"]) == ("projects/search", "0.5")
    clock.now += error.retry_delay
    rates.take("ci", lambda: ["search"])


def test_a_request_that_a_project_refuses_costs_its_caller_nothing():
    rates = limiter(
        Clock(), principals={"requests_per_second": 1.0, "burst": 3}, projects={"requests_per_second": 1.0, "burst": 1}
    )
    assert let_in(rates, 5, projects=("search",)) == 1
    assert let_in(rates, 5, projects=()) == 2


def test_without_a_limit_nothing_is_counted():
    rates = limiter(Clock())
    assert let_in(rates, 1000) == 1000


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(rate, "MAX_BUCKETS", 10)
    rates = limiter(Clock(), principals={"requests_per_second": 1.0, "burst": 1})
    for number in range(100):
        rates.take(str(number), list)
    assert len(rates._buckets) <= 10
