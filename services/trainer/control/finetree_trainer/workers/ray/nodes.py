# SPDX-License-Identifier: Apache-2.0
"""The cluster's nodes as devices with slots, and the memory that jobs may be promised there."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from finetree_api.types.v1 import hardware_pb2

from finetree_trainer.scheduling.autoscaling.node_types import PresentNode
from finetree_trainer.scheduling.demand import Demand, needed
from finetree_trainer.scheduling.devices import CPU, Device, Slot, accelerator_name
from finetree_trainer.scheduling.fit import Holder
from finetree_trainer.scheduling.machine.meter import Reading
from finetree_trainer.scheduling.memory import SYSTEM_SHARE, Budget, Budgets, Held, MemoryLedger, ProcessorUse
from finetree_trainer.settings import Settings


class ClusterNodes(Sequence[Device]):
    """The devices of the nodes that are there now, GPUs first."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._devices: tuple[Device, ...] = ()
        self._ids: dict[str, str] = {}
        self.cpus: dict[str, Device] = {}
        """The processors of each node, by its name."""
        self.gpus: dict[tuple[str, str], Device] = {}
        """GPUs by their places."""
        self.present: tuple[PresentNode, ...] = ()
        """The nodes themselves."""
        self.faults: dict[str, str] = {}
        """What is wrong with nodes that cannot be used, by name."""

    def replace(self, nodes: Sequence[Mapping[str, Any]]) -> None:
        """Take the nodes as the driver has found them."""
        self.present = tuple(node_of(node, self._settings) for node in nodes)
        devices = [device for node in self.present for device in node.devices]
        self._devices = tuple(sorted(devices, key=lambda device: (device.id == CPU, device.place)))
        self.cpus = {device.node: device for device in self._devices if device.id == CPU}
        self.gpus = {device.place: device for device in self._devices if device.id != CPU}
        self._ids = {node["name"]: node["id"] for node in nodes}
        self.faults = {node["name"]: node["problem"] for node in nodes if node["problem"]}

    @overload
    def __getitem__(self, index: int) -> Device: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Device]: ...
    def __getitem__(self, index: int | slice) -> Device | Sequence[Device]:
        """A device."""
        return self._devices[index]

    def __len__(self) -> int:
        """How many there are."""
        return len(self._devices)

    def __iter__(self) -> Iterator[Device]:
        """Each, as they are at the start of the loop."""
        return iter(self._devices)

    def of(self, slots: Sequence[Slot]) -> list[Device]:
        """The devices of slots, those that have gone left out."""
        places = {device.place: device for device in self._devices}
        return [places[slot.node, slot.device] for slot in slots if (slot.node, slot.device) in places]

    def id_of(self, slots: Sequence[Slot]) -> str:
        """Ray's id of the node of slots; "" for one that has gone, and for slots of several."""
        names = {slot.node for slot in slots}
        return self._ids.get(names.pop(), "") if len(names) == 1 else ""


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU of a node: its name in the catalog, as the driver says it, and its memory, bytes."""

    accelerator: str
    display_name: str
    total_bytes: int


def node_of(found: Mapping[str, Any], settings: Settings) -> PresentNode:
    """A node as the driver has found it: each GPU that Ray has there, and its processors in slots."""
    there = [*found["gpus_found"], *[("GPU", 0)] * int(found["gpus"])][: int(found["gpus"])]
    cards = [Card(accelerator_name(marketed, total), marketed, total) for marketed, total in there]
    memory = int(min(found["memory"] or found["memory_found"], found["memory_found"] or found["memory"]))
    devices = devices_of(found["name"], int(found["cpus"]), memory, cards, settings, cpu_name=found["cpu_name"])
    counted = {"CPU": found["cpus"], "GPU": found["gpus"]} | found["resources"]
    resources = {name: float(number) for name, number in counted.items() if number}
    return PresentNode(found["name"], resources, tuple(devices), found["problem"])


def devices_of(
    node: str, cpus: int, memory: int, cards: Sequence[Card], settings: Settings, *, cpu_name: str
) -> list[Device]:
    """The devices of a node with so many CPUs and bytes of memory: its cards, and its processors in slots."""
    threads = max(1, cpus // max(1, len(cards)))
    found = [
        Device(
            node,
            f"gpu{index}",
            hardware_pb2.Hardware(accelerator=card.accelerator, count=1),
            card.display_name,
            card.total_bytes,
            threads=threads,
        )
        for index, card in enumerate(cards)
    ]
    threads = settings.cpu_threads or max(1, cpus // settings.cpu_slots)
    slots = min(settings.cpu_slots, cpus // threads)
    cpu = hardware_pb2.CpuDevice(cores=threads, memory_bytes=memory, model_name=cpu_name)
    return [*found, Device(node, CPU, hardware_pb2.Hardware(cpu=cpu, count=1), cpu_name, memory, slots, threads)]


class ClusterMemory(MemoryLedger):
    """Memory of the nodes by what jobs were promised there: what other programs take is not seen from here."""

    def __init__(self, nodes: ClusterNodes, *, reserve: int) -> None:
        super().__init__(_NoMeter(), nodes, reserve=reserve)
        self._nodes = nodes
        self.held_on: Callable[[str], Mapping[Slot, Holder]] = lambda _node: {}
        """Returns the slots of a node that jobs hold."""

    def processors(self) -> ProcessorUse | None:
        """Nobody counts the processor time of the cluster."""
        return None

    def budgets(self, reading: Reading) -> Budgets:
        """Work out what was promised on each device."""
        del reading
        promised = self.promised()
        return Budgets(
            Budget(0, 0, 0),
            _WhenAsked(self._nodes.gpus, lambda device: self._budget(device, promised)),
            nodes=_WhenAsked(self._nodes.cpus, lambda device: self._budget(device, promised)),
        )

    def _budget(self, device: Device, promised: Mapping[str, Demand]) -> Budget:
        capacity = self.capacity(device)
        held = []
        for uid in self._jobs_on(device):
            if (demand := promised.get(uid)) is not None:
                figure = demand.host_bytes(capacity) if device.id == CPU else needed(demand.memory, capacity)
                held.append(Held(uid, figure, 0))
        reserve = self._reserve if device.id == CPU else 0
        free = int(device.total_bytes * (1 - SYSTEM_SHARE))
        fault = self._nodes.faults.get(device.node, "")
        return Budget(device.total_bytes, free, reserve, tuple(held), capacity=capacity, fault=fault)

    def _jobs_on(self, device: Device) -> list[str]:
        """Jobs that hold something of a device; of a node's processors, those on its GPUs too."""
        held = self.held_on(device.node).items()
        return sorted({holder.uid for slot, holder in held if device.id in (CPU, slot.device)})


K = TypeVar("K")


class _WhenAsked(Mapping[K, Budget]):
    """Budgets of devices, each worked out when it is first asked for: of ten thousand, a round asks for a few."""

    def __init__(self, devices: Mapping[K, Device], work_out: Callable[[Device], Budget]) -> None:
        self._devices, self._work_out = devices, work_out
        self._known: dict[K, Budget] = {}

    def __getitem__(self, key: K) -> Budget:
        if key not in self._known:
            self._known[key] = self._work_out(self._devices[key])
        return self._known[key]

    def __iter__(self) -> Iterator[K]:
        return iter(self._devices)

    def __len__(self) -> int:
        return len(self._devices)


class _NoMeter:
    """Reads nothing: this machine runs no worker."""

    def read(self) -> Reading:
        """Nothing."""
        return Reading(0, 0)
