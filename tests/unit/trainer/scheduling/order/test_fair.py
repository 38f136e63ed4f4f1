# SPDX-License-Identifier: Apache-2.0
"""Whose turn it is: by shares among projects, by priority and place within one."""

from collections import Counter
from dataclasses import dataclass

import pytest
from finetree_api.types.v1 import hardware_pb2
from finetree_trainer.scheduling.devices import Device, Slot
from finetree_trainer.scheduling.order.fair import HALF_LIFE_SECONDS, DeviceUse, in_turn

HOUR = 3_600_000_000
DEVICES = [
    *(Device("n", f"cuda:{index}", hardware_pb2.Hardware(accelerator="h100"), "H100", 80 << 30) for index in range(8)),
    Device("n", "cpu", hardware_pb2.Hardware(), "CPU", 8 << 30, slot_count=2),
]
GPUS = [Slot("n", f"cuda:{index}", 0) for index in range(8)]


@dataclass(frozen=True)
class Job:
    project: str
    order: tuple[int, str, str]


def jobs(project, *orders: tuple[int, int | str]) -> list[Job]:
    return [Job(project, (priority, str(place), "")) for priority, place in sorted(orders)]


def test_without_shares_the_order_is_that_of_priorities_and_places_of_all():
    lines = {
        "one": jobs("a", (-2, 5), (-1, 0), (-1, 3)),
        "two": jobs("a", (-1, 1)),
        "three": jobs("b", (-3, 9), (-1, 2)),
    }
    orders = [job.order[:2] for job in in_turn(lines, lambda _: 0.0)]
    assert orders == [(-3, "9"), (-2, "5"), (-1, "0"), (-1, "1"), (-1, "2"), (-1, "3")]


def test_the_project_with_the_least_share_is_next_and_a_priority_counts_within_it_alone():
    held = Counter(a=0, b=2)
    lines = {"a": jobs("a", *((-3, place) for place in range(6))), "b": jobs("b", (-1, 0), (-3, 7), (-2, 1))}
    turns = []
    for job in in_turn(lines, lambda project: held[project]):
        turns.append((job.project, job.order[0]))
        held[job.project] += 1
    assert turns[:2] == [("a", -3)] * 2
    assert turns[2:8] == [("a", -3), ("b", -3), ("a", -3), ("b", -2), ("a", -3), ("b", -1)]


def test_a_project_with_two_lines_has_one_share():
    held = Counter()
    lines = {("a", 1): jobs("a", (0, 0), (0, 2)), ("a", 2): jobs("a", (0, 1)), ("b", 1): jobs("b", (0, 8), (0, 9))}
    turns = []
    for job in in_turn(lines, lambda project: held[project]):
        turns.append(job.order[1])
        held[job.project] += 1
    assert turns == ["0", "8", "1", "9", "2"]


def test_of_a_line_that_is_not_open_the_first_job_comes_alone():
    lines = {"full": jobs("a", (0, 0), (0, 1)), "free": jobs("a", (0, 2), (0, 3))}
    turns = [job.order[1] for job in in_turn(lines, lambda _: 0.0, lambda line: line == "free")]
    assert turns == ["0", "2", "3"]


def shared_out(weights, slots, *, hours=200):
    """Devices that projects had on average, where each always wants more and each job runs for half an hour."""
    use, now, had = DeviceUse(DEVICES), 0, Counter()
    running = []
    for step in range(hours * 2):
        now = step * HOUR // 2
        for project, slot in running:
            use.give_back(project, slot, now)
        running = []
        for slot in slots:
            chosen = min(weights, key=lambda project: (use.share(project, weights[project], now), project))
            use.take(chosen, slot, now)
            running.append((chosen, slot))
            had[chosen] += 1 / (hours * 2)
    return had


@pytest.mark.parametrize("slots", [GPUS, GPUS[:1]], ids=["eight devices", "one device"])
def test_devices_are_held_in_the_proportion_of_the_weights(slots):
    had = shared_out({"a": 3.0, "b": 1.0}, slots)
    assert had["a"] / len(slots) == pytest.approx(0.75, abs=0.03)


def test_the_example_of_the_page_on_limits():
    use, weights, started = DeviceUse(DEVICES), {"search": 3.0, "ads": 1.0}, []
    lines = {
        "search": jobs("search", *((-2, place) for place in range(10))),
        "ads": jobs("ads", *((-2, f"a{place}") for place in range(10))),
    }
    turns = in_turn(lines, lambda project: use.share(project, weights[project], 0))
    for slot, job in zip(GPUS, turns, strict=False):
        use.take(job.project, slot, 0)
        started.append(job.project)
    assert started == ["search", "ads", "search", "search", "search", "ads", "search", "search"]


def test_the_kind_counts_of_which_a_project_has_most():
    use = DeviceUse(DEVICES)
    use.take("a", GPUS[0], 0)
    use.take("a", Slot("n", "cpu", 0), 0)
    use.take("a", Slot("n", "cpu", -1), 0)  # the slot for PREPARE jobs is no device
    assert use.share("a", 1.0, 0) == 1 / 2
    assert use.share("a", 4.0, 0) == 1 / 8
    assert use.share("b", 1.0, 0) == 0.0


def test_what_was_held_is_forgotten_by_and_by():
    use, later = DeviceUse(DEVICES), int(HALF_LIFE_SECONDS * 1e6)
    use.take("a", GPUS[0], 0)
    assert use.share("a", 1.0, later) == (1 + 0.5) / 8
    use.give_back("a", GPUS[0], later)
    assert use.share("a", 1.0, later) == 0.5 / 8
    assert use.share("a", 1.0, 3 * later) == 0.125 / 8


def test_after_a_restart_the_averages_are_those_of_the_attempts():
    used, recalled, now = DeviceUse(DEVICES), DeviceUse(DEVICES), 5 * HOUR
    used.take("a", GPUS[0], HOUR)
    used.take("a", GPUS[1], 2 * HOUR)
    used.give_back("a", GPUS[0], 3 * HOUR)
    recalled.take("a", GPUS[1], now)
    recalled.recall("a", GPUS[0], started=HOUR, ended=3 * HOUR, now=now)
    recalled.recall("a", GPUS[1], started=2 * HOUR, ended=now, now=now)
    recalled.recall("a", Slot("n", "gone", 0), started=0, ended=now, now=now)
    assert recalled.share("a", 1.0, now) == pytest.approx(used.share("a", 1.0, now))
