# SPDX-License-Identifier: Apache-2.0
"""Which nodes the queue needs beside those that are there: jobs in their turn, put on nodes until these are full."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from finetree_trainer.scheduling.autoscaling.node_types import NodeType, PresentNode
from finetree_trainer.scheduling.demand import Demand, needed
from finetree_trainer.scheduling.devices import CPU, PREPARING, Device, Slot
from finetree_trainer.scheduling.memory import Budgets
from finetree_trainer.scheduling.waiting import WaitingJob


@dataclass(slots=True)
class Machine:
    """A node as waiting jobs fill it: free slots by device, and bytes of memory that are left, "" for the host's.

    `places` are the devices by the name of the node or, of one that is to come, of its type.
    """

    node: str
    places: Mapping[str, Device]
    slots: Counter[str]
    memory: dict[str, int]
    capacity: Mapping[str, int]
    taken: bool = False
    """Whether a job was put there."""

    def take(self, demand: Demand, places: frozenset[tuple[str, str]]) -> bool:
        """Put a job on this machine's devices among `places`, if it has room; return whether it has."""
        devices = [id_ for id_ in self.places if (self.node, id_) in places]
        if demand.prepares:
            devices = [_PREPARING] if CPU in devices else []
        on_gpus = CPU not in devices and _PREPARING not in devices
        free = [id_ for id_ in devices if self.slots[id_] > 0]
        if on_gpus:
            free = [id_ for id_ in free if needed(demand.memory, self.capacity[id_]) <= self.memory[id_]]
        host = demand.host_bytes(self.capacity[CPU])
        if len(free) < demand.count or host > self.memory[CPU]:
            return False
        for id_ in free[: demand.count]:
            self.slots[id_] -= 1
            if on_gpus:
                self.memory[id_] -= needed(demand.memory, self.capacity[id_])
        self.memory[CPU] -= host
        self.taken = True
        return True


_PREPARING = f"{CPU}/{PREPARING}"
"""The slot for PREPARE jobs among the free ones."""


class Starts(Protocol):
    """Limits of projects, with the jobs that were put somewhere counted as if they ran."""

    def allows(self, job: WaitingJob) -> bool:
        """Return whether a job would be started beside those that count."""

    def add(self, job: WaitingJob) -> None:
        """Count a job."""


@dataclass(frozen=True, slots=True)
class Shortage:
    """What is missing: how many nodes of each type, and which type each job waits for, by its uid.

    `kept`: nodes that are there, hold no job, and are needed by one that cannot begin yet.
    """

    nodes: Counter[str] = field(default_factory=Counter)
    jobs: Mapping[str, str] = field(default_factory=dict)
    kept: frozenset[str] = frozenset()


def machine_of(type_: NodeType, capacity: Callable[[Device], int]) -> Machine:
    """An empty node of a type."""
    places = {device.id: device for device in type_.devices}
    slots = Counter({device.id: device.slot_count for device in type_.devices}) + Counter({_PREPARING: 1})
    sizes = {device.id: capacity(device) for device in type_.devices}
    return Machine(type_.name, places, slots, dict(sizes), sizes)


def machine_there(node: PresentNode, free: Iterable[Slot], budgets: Budgets) -> Machine:
    """A node that is there, with what is free of it now."""
    places = {device.id: device for device in node.devices}
    slots: Counter[str] = Counter()
    for slot in free:
        if slot.node == node.name:
            slots[_PREPARING if slot.index == PREPARING else slot.device] += 1
    each = {device.id: budgets.of(device.place) for device in node.devices}
    memory = {id_: budget.available for id_, budget in each.items()}
    return Machine(node.name, places, slots, memory, {id_: budget.capacity for id_, budget in each.items()})


def find_shortage(
    waiting: Iterable[WaitingJob],
    present: Sequence[Machine],
    types: Sequence[NodeType],
    *,
    room: Mapping[str, int],
    capacity: Callable[[Device], int],
    starts: Starts,
) -> Shortage:
    """Put waiting jobs, in their turn, on the nodes that are there and on new ones, of the smallest type that does.

    `room`: how many nodes of each type may still come. `capacity`: the most that a job could have of a device's memory.
    """
    machines, left = list(present), Counter(room)
    by_size = sorted(types, key=lambda type_: type_.size)
    nodes: Counter[str] = Counter()
    jobs: dict[str, str] = {}
    full: set[Demand] = set()
    new: dict[int, str] = {}
    for job in waiting:
        demand = job.demand
        if demand in full or not (demand.candidates or demand.may_come) or not starts.allows(job):
            continue
        found = next(
            (
                i
                for i, each in enumerate(machines)
                if each.take(demand, demand.may_come if i in new else demand.candidates)
            ),
            None,
        )
        if found is None:
            for type_ in by_size:
                made = machine_of(type_, capacity)
                if left[type_.name] > 0 and made.take(demand, demand.may_come):
                    found = len(machines)
                    machines.append(made)
                    new[found] = type_.name
                    nodes[type_.name] += 1
                    left[type_.name] -= 1
                    break
        if found is None:
            full.add(demand)
            if not any(left.values()) and not any(each.slots.total() for each in machines):
                break  # of a long queue, the rest
            continue
        starts.add(job)
        if found in new:
            jobs[job.uid] = new[found]
    return Shortage(nodes, jobs, frozenset(each.node for each in machines[: len(present)] if each.taken))
