# SPDX-License-Identifier: Apache-2.0
"""Nodes of a cluster as devices with slots, and what of their memory is promised."""

from typing import Any

import pytest
from finetree_api.trainer.v1 import job_pb2
from finetree_trainer.scheduling.demand import Demand
from finetree_trainer.scheduling.devices import Slot
from finetree_trainer.scheduling.fit import Holder, Round
from finetree_trainer.scheduling.slots import Slots
from finetree_trainer.settings import Settings
from finetree_trainer.workers.ray.nodes import ClusterMemory, ClusterNodes

GB = 1_000_000_000


def node(name: str, **changes: Any) -> dict[str, Any]:
    """A node as the driver tells of it."""
    found = {"cpu_name": "CPU", "memory_found": 64 * GB, "gpus_found": [], "problem": ""}
    return (
        {"id": f"id-{name}", "name": name, "cpus": 8.0, "gpus": 0.0, "memory": 32 * GB, "resources": {}}
        | found
        | changes
    )


def cluster(*nodes: dict[str, Any], **settings: Any) -> ClusterNodes:
    made = ClusterNodes(Settings(**settings))
    made.replace(nodes)
    return made


def test_processors_are_cut_into_slots_and_memory_is_the_lesser_figure():
    (cpu,) = cluster(node("a"), cpu_slots=2)
    assert (cpu.slot_count, cpu.threads, cpu.total_bytes, cpu.processors) == (2, 4, 32 * GB, ())
    (cpu,) = cluster(node("a"), cpu_slots=4, cpu_threads=3)
    assert (cpu.slot_count, cpu.threads) == (2, 3)


def test_gpus_come_first_and_have_the_names_of_the_catalog():
    gpus = {"gpus": 2.0, "gpus_found": [["NVIDIA H100 80GB HBM3", 85 * GB]] * 2}
    found = cluster(node("a"), node("b", **gpus))
    assert [(device.node, device.id, device.kind) for device in found] == [
        ("b", "gpu0", "h100"),
        ("b", "gpu1", "h100"),
        ("a", "cpu", "cpu"),
        ("b", "cpu", "cpu"),
    ]


def test_slots_of_several_nodes_and_of_one_that_has_gone_have_no_node():
    found = cluster(node("a"), node("b"))
    assert found.id_of([Slot("a", "cpu", 0)]) == "id-a"
    assert found.id_of([Slot("a", "cpu", 0), Slot("b", "cpu", 0)]) == ""
    found.replace([node("b")])
    assert found.id_of([Slot("a", "cpu", 0)]) == ""
    assert found.of([Slot("a", "cpu", 0)]) == []


@pytest.fixture
def ledger():
    """Memory of two nodes, one of which runs a job that was promised 10 GB."""
    nodes = cluster(node("a"), node("b", problem="no folder"))
    memory = ClusterMemory(nodes, reserve=0)
    demand = Demand("cpu", 1, frozenset({("a", "cpu"), ("b", "cpu")}), memory=(10 * GB,))
    memory.promised = lambda: {"one": demand}
    slots = Slots(nodes)
    slots.hold(Slot("a", "cpu", 0), Holder("one", "one", job_pb2.TASK_KIND_TRAIN))
    memory.held_on = slots.held_on
    return memory


def test_memory_is_promised_by_node(ledger):
    budgets = ledger.budgets(ledger.read())
    a, b = budgets.of(("a", "cpu")), budgets.of(("b", "cpu"))
    assert (a.outstanding, b.outstanding) == (10 * GB, 0)
    assert a.free - a.available == 10 * GB
    assert (a.fault, b.fault) == ("", "no folder")
    assert budgets.of(("c", "cuda:0")).fault


def test_a_job_gets_all_its_devices_on_one_node():
    gpus = {"gpus_found": [["NVIDIA H100 80GB HBM3", 85 * GB]] * 2}
    nodes = cluster(node("a", gpus=1.0, **gpus), node("b", gpus=2.0, **gpus))
    places = frozenset(device.place for device in nodes if device.id != "cpu")
    memory = ClusterMemory(nodes, reserve=0)
    round_ = Round(Slots(nodes), memory.budgets(memory.read()), now=0)
    found = round_.choose(Demand("h100", 2, places, memory=(GB,), host=(GB,)), "job", {})
    assert found == (Slot("b", "gpu0", 0), Slot("b", "gpu1", 0))
