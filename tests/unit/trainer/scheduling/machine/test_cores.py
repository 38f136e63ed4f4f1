# SPDX-License-Identifier: Apache-2.0
"""How slots divide the processors."""

import pytest
from finetree_trainer.scheduling.machine import cores
from hypothesis import given
from hypothesis import strategies as st


def test_threads_of_one_core_stay_together(tmp_path):
    for processor, siblings in enumerate(("0,4", "1,5", "2,6", "3,7") * 2):
        folder = tmp_path / f"cpu{processor}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{siblings}\n")
    found = cores.physical_cores([0, 1, 3, 4, 5, 7], tmp_path)
    assert found == [[0, 4], [1, 5], [3, 7]]
    assert cores.divide(found, 2) == [[0, 4], [1, 3, 5, 7]]
    # Of a machine that does not tell, each processor is a core.
    assert cores.physical_cores([9, 8], tmp_path) == [[8], [9]]


@given(st.integers(1, 40), st.integers(1, 40))
def test_no_processor_is_in_two_slots_and_none_is_left_out(count, slots):
    found = cores.divide([[number, number + 100] for number in range(count)], slots)
    if count < slots:
        assert found == []
        return
    assert len(found) == slots
    spread = sorted(number for share in found for number in share)
    assert spread == sorted([*range(count), *(number + 100 for number in range(count))])
    assert max(map(len, found)) - min(map(len, found)) <= 2


@pytest.mark.parametrize(
    ("slots", "threads", "quota", "expected"),
    [
        (2, 1, float("inf"), [[0], [1]]),
        (1, 2, float("inf"), []),
        (2, 2, float("inf"), []),
        (2, 1, 1.5, []),
        (3, 1, float("inf"), []),
    ],
    ids=["a core each", "one slot", "more threads than cores", "a quota", "more slots than cores"],
)
def test_workers_are_bound_only_where_each_has_its_own_cores(monkeypatch, slots, threads, quota, expected):
    monkeypatch.setattr(cores, "usable_processors", lambda: [0, 1])
    monkeypatch.setattr(cores, "physical_cores", lambda processors: [[number] for number in processors])
    monkeypatch.setattr(cores.ControlGroups, "processors", lambda _: quota)
    assert cores.shares(slots, threads) == expected
