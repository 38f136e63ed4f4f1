# SPDX-License-Identifier: Apache-2.0
"""Who yields to a job of a higher priority, and who does not."""

from dataclasses import replace

import pytest
from finetree_trainer.scheduling.demand import Demand
from finetree_trainer.scheduling.devices import Slot
from finetree_trainer.scheduling.order.preemption import PREEMPTIBLE, Claim, Running, Terms, victims

SLOTS = [Slot("n", f"cuda:{index}", 0) for index in range(4)] + [Slot("m", f"cuda:{index}", 0) for index in range(4)]
PLACES = frozenset((slot.node, slot.device) for slot in SLOTS)
TERMS = Terms(max_lost=60.0, min_run=600.0)
NOW = 10_000_000_000


def running(uid, *slots: int, priority=1, started=0.0, saved=NOW / 1e6):
    return Running(uid, "p", priority, [SLOTS[index] for index in slots], int(started * 1e6), int(saved * 1e6))


def claim(count=1, *, priority=3, allowed=lambda _: True):
    demand = Demand("h100", count, PLACES)
    return Claim(demand, priority, lambda each: PREEMPTIBLE if allowed(each) else "")


def chosen(asked, *jobs: Running, free=(), leaving=()):
    free, leaving = ([SLOTS[index] for index in indices] for indices in (free, leaving))
    return [each.uid for each in victims(asked, jobs, free=free, leaving=leaving, terms=TERMS, now=NOW)]


def test_the_lowest_priority_yields_first_then_the_youngest_attempt():
    jobs = [running("old", 0), running("young", 1, started=100.0), running("low", 2, priority=0, started=50.0)]
    assert chosen(claim(), *jobs) == ["low"]
    assert chosen(claim(2), *jobs) == ["low", "young"]
    assert chosen(claim(3), *jobs) == ["low", "young", "old"]


@pytest.mark.parametrize(
    "changes",
    [
        {"priority": 3},
        {"started": int((NOW / 1e6 - 599) * 1e6)},
        {"saved": int((NOW / 1e6 - 61) * 1e6)},
        {"slots": [Slot("n", "cpu", 0)]},
    ],
    ids=["its priority is no lower", "it has hardly begun", "its checkpoint is old", "it is on another device"],
)
def test_who_does_not_yield(changes):
    assert chosen(claim(), running("a", 0)) == ["a"]
    assert chosen(claim(), replace(running("a", 0), **changes)) == []


def test_nobody_yields_who_need_not_by_the_limits_file():
    assert chosen(claim(allowed=lambda each: each.uid == "b"), running("a", 0, priority=0), running("b", 1)) == ["b"]


def test_nobody_yields_where_that_would_not_suffice():
    assert chosen(claim(3), running("a", 0), running("b", 1), running("c", 2, priority=3)) == []


def test_devices_that_are_free_or_given_up_already_count():
    jobs = running("a", 0), running("b", 1)
    assert chosen(claim(3), *jobs, free=[2], leaving=[3]) == ["a"]
    assert chosen(claim(2), *jobs, free=[2], leaving=[3]) == []
    assert chosen(claim(2), running("two", 0, 1)) == ["two"]


def test_the_devices_of_a_job_are_on_one_node_where_the_fewest_yield():
    jobs = running("a", 0), running("b", 4), running("c", 1), running("both", 5, 6, priority=2)
    assert chosen(claim(2, priority=2), *jobs[:3]) == ["a", "c"]
    assert chosen(claim(2), *jobs[2:]) == ["both"]
    assert chosen(claim(2), *jobs[:2], free=[7]) == ["b"]
    assert chosen(claim(2), *jobs[:2]) == []
