# SPDX-License-Identifier: Apache-2.0
"""Which nodes a queue needs beside those that are there."""

from collections import Counter
from types import SimpleNamespace

import pytest
from finetree_api.types.v1 import hardware_pb2
from finetree_trainer.scheduling.autoscaling.node_types import NodeType, PresentNode
from finetree_trainer.scheduling.autoscaling.shortage import Shortage, find_shortage, machine_there
from finetree_trainer.scheduling.demand import Demand
from finetree_trainer.scheduling.devices import Device, Slot
from finetree_trainer.scheduling.memory import Budget, Budgets

GB = 1_000_000_000


def devices(node: str, *, gpus: int = 0, memory: int = 32 * GB, slots: int = 1) -> tuple[Device, ...]:
    gpu = hardware_pb2.Hardware(accelerator="h100", count=1)
    cpu = hardware_pb2.Hardware(cpu=hardware_pb2.CpuDevice(cores=4), count=1)
    cards = [Device(node, f"gpu{index}", gpu, "H100", 80 * GB) for index in range(gpus)]
    return (*cards, Device(node, "cpu", cpu, "CPU", memory, slots, 4))


def node_type(name: str, maximum: int = 4, *, gpus: int = 0, memory: int = 32 * GB, slots: int = 1) -> NodeType:
    resources = {"CPU": 4.0 * slots} | ({"GPU": float(gpus)} if gpus else {})
    return NodeType(name, resources, devices(name, gpus=gpus, memory=memory, slots=slots), maximum)


SMALL, LARGE = node_type("small"), node_type("large", memory=128 * GB, slots=2)
GPUS = node_type("gpus", gpus=2)
CPU_PLACES = frozenset({("small", "cpu"), ("large", "cpu")})
GPU_PLACES = frozenset({("gpus", "gpu0"), ("gpus", "gpu1")})


def on_cpu(memory: int = GB, candidates: frozenset[tuple[str, str]] = frozenset()) -> Demand:
    return Demand("cpu", 1, candidates, memory=(memory,), may_come=CPU_PLACES)


def on_gpus(count: int) -> Demand:
    return Demand("h100", count, frozenset(), memory=(GB,), host=(GB,), may_come=GPU_PLACES)


class Starts:
    """At most so many jobs."""

    def __init__(self, most: int = 100) -> None:
        self.left = most

    def allows(self, job: object) -> bool:
        del job
        return self.left > 0

    def add(self, job: object) -> None:
        del job
        self.left -= 1


def short_of(*demands: Demand, types=(SMALL,), present=(), most: int = 100, room=None) -> Shortage:
    waiting = [SimpleNamespace(uid=str(number), demand=demand) for number, demand in enumerate(demands)]
    return find_shortage(
        waiting,
        present,
        types,
        room=room or {type_.name: type_.maximum for type_ in types},
        capacity=lambda device: device.total_bytes,
        starts=Starts(most),
    )


def there(*, free: int = 1, memory: int = 32 * GB):
    node = PresentNode("a", {"CPU": 4.0}, devices("a"))
    budget = Budget(32 * GB, memory, 0, capacity=32 * GB)
    slots = [Slot("a", "cpu", index) for index in range(free)]
    return machine_there(node, slots, Budgets(Budget(0, 0, 0), nodes={"a": budget}))


def test_nothing_waits_and_nothing_is_asked_for():
    assert short_of() == Shortage()


def test_each_job_gets_a_node_up_to_the_maximum():
    found = short_of(*[on_cpu()] * 6)
    assert found.nodes == Counter(small=4)
    assert found.jobs == {str(number): "small" for number in range(4)}
    assert short_of(*[on_cpu()] * 6, room={"small": 1}).nodes == Counter(small=1)


def test_jobs_share_a_node_that_has_slots_and_memory_for_them():
    assert short_of(on_cpu(), on_cpu(), types=(LARGE,)).nodes == Counter(large=1)
    assert short_of(on_cpu(100 * GB), on_cpu(100 * GB), types=(LARGE,)).nodes == Counter(large=2)
    assert short_of(on_gpus(1), on_gpus(1), types=(GPUS,)).nodes == Counter(gpus=1)
    assert short_of(on_gpus(2), on_gpus(1), types=(GPUS,)).nodes == Counter(gpus=2)


def test_the_smallest_type_that_has_enough_is_taken():
    found = short_of(on_cpu(), on_cpu(100 * GB), types=(LARGE, SMALL))
    assert found.jobs == {"0": "small", "1": "large"}
    assert short_of(on_cpu(200 * GB), types=(LARGE, SMALL)).nodes == Counter()


def test_a_job_of_more_devices_than_a_node_has_asks_for_nothing():
    assert short_of(on_gpus(3), types=(GPUS,)).nodes == Counter()


@pytest.mark.parametrize(("most", "wanted"), [(0, 0), (1, 1), (3, 3)])
def test_jobs_that_a_limit_holds_back_ask_for_nothing(most: int, wanted: int):
    assert short_of(*[on_cpu()] * 4, most=most).nodes.total() == wanted


def test_a_job_that_can_run_on_a_node_that_is_there_keeps_it_and_asks_for_none():
    job = on_cpu(candidates=frozenset({("a", "cpu")}))
    found = short_of(job, job, present=[there()])
    assert (found.nodes, found.jobs, found.kept) == (Counter(small=1), {"1": "small"}, frozenset({"a"}))
    # Held by another job, or short of memory.
    for full in (there(free=0), there(memory=0)):
        found = short_of(job, present=[full])
        assert (found.nodes, found.kept) == (Counter(small=1), frozenset())


def test_what_only_prepares_has_a_slot_of_its_own():
    prepares = Demand("cpu", 1, frozenset(), prepares=True, memory=(GB,), may_come=CPU_PLACES)
    assert short_of(prepares, on_cpu()).nodes == Counter(small=1)
    assert short_of(prepares, prepares).nodes == Counter(small=2)
