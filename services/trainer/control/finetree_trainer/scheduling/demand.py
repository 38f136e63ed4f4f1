# SPDX-License-Identifier: Apache-2.0
"""What a job needs to start: devices of a kind, memory on each of them, and memory of the host."""

from collections.abc import Sequence
from dataclasses import dataclass

from finetree.display.units import GIB
from finetree_api.trainer.v1 import job_pb2
from finetree_api.types.v1 import evidence_pb2, hardware_pb2
from finetree_runtime.errors import DomainError

from finetree_trainer.scheduling.devices import CPU, PREPARING, Device, Slot, matching
from finetree_trainer.scheduling.order.positions import Group

PREPARE_BYTES = 2 * GIB
"""Memory that is promised to a job whose need nobody has estimated: its process has 0.9 GB after its imports, and had
0.8 GB more at the peak of preparing a million rows (benchmarks/results/worker/data_memory.json has the slope)."""


@dataclass(frozen=True, slots=True)
class Demand:
    """The devices that a job needs: their kind, for people, how many, and the ids of those that it can run on.

    `candidates` is empty for a job whose devices no longer exist: it waits. `may_come`: the same of nodes that an
    autoscaler may bring, by the names of their types. `prepares`: it takes the slot for PREPARE jobs alone. `memory` is
    what it needs of each device, `host` of the host beside GPUs: estimates in bytes, the largest first, of which
    `needed` chooses one; empty where nothing is known or needed.
    """

    kind: str
    count: int
    candidates: frozenset[tuple[str, str]]
    prepares: bool = False
    memory: tuple[int, ...] = ()
    host: tuple[int, ...] = ()
    may_come: frozenset[tuple[str, str]] = frozenset()

    @property
    def on_cpu(self) -> bool:
        """Whether the memory that it needs of its device is the host's."""
        return any(device == CPU for _, device in self.candidates or self.may_come)

    @property
    def counted(self) -> int:
        """Devices that limits of projects count: a job that only prepares takes none."""
        return 0 if self.prepares else self.count

    def takes(self, slot: Slot) -> bool:
        """Return whether the job can run in a slot."""
        return (slot.node, slot.device) in self.candidates and (slot.index == PREPARING) == self.prepares

    @property
    def group(self) -> Group:
        """What the job competes for."""
        return Group(self.kind, self.candidates, self.prepares)

    def host_bytes(self, capacity: int) -> int:
        """Bytes of host memory that must be free and are promised to it, on a machine of this capacity."""
        return needed(self.memory if self.on_cpu else self.host, capacity)


def needed(figures: Sequence[int], capacity: int) -> int:
    """Choose the largest of a job's figures that the capacity could ever hold; the smallest where it holds none.

    The upper end of an estimate, since a start on less takes the memory of a neighbour; but a job whose upper end is
    more than there is would wait for ever, and most probably it needs less.
    """
    return next((figure for figure in figures if figure <= capacity), figures[-1] if figures else 0)


def figures_of(interval: evidence_pb2.Interval) -> tuple[int, ...]:
    """The ends and the middle of an estimate, bytes, the largest first; empty for one that is not set."""
    found = {int(value) for value in (interval.high, interval.expected, interval.low) if value > 0}
    return tuple(sorted(found, reverse=True))


class Demands:
    """Reads from records what jobs need. `devices` are all that there are, `may_come` those that may come beside them.

    Devices of a kind are looked up once: of ten thousand, each of as many jobs would hold a set of its own.
    """

    def __init__(self, devices: Sequence[Device], may_come: Sequence[Device] = ()) -> None:
        self._devices, self._may_come = devices, may_come
        self._cpus, self._cpus_to_come = _cpus(devices), _cpus(may_come)
        self._found: dict[bytes, _Found | None] = {}

    def of(self, record: job_pb2.Job) -> Demand:
        """What a job needs."""
        task = record.WhichOneof("task")
        figures = figures_of(record.estimate.device_bytes)
        if task not in ("train", "evaluate", "serve"):
            memory = figures or (PREPARE_BYTES,)
            return Demand(CPU, 1, self._cpus, prepares=True, memory=memory, may_come=self._cpus_to_come)
        hardware = record.train.spec.hardware
        if task != "train":
            hardware = record.serve.hardware if task == "serve" else record.evaluate.hardware
        found, count = self._matching(hardware), max(1, hardware.count)
        if found is None:
            return Demand(hardware.accelerator or CPU, count, frozenset())
        if found.kind == CPU:
            # Several are processes in one slot, and each takes what one was estimated to take.
            memory = tuple(count * figure for figure in figures or (PREPARE_BYTES,))
            return Demand(CPU, 1, found.places, memory=memory, may_come=found.may_come)
        host = figures_of(record.estimate.host_bytes) or (PREPARE_BYTES,)
        return Demand(found.kind, count, found.places, memory=figures, host=host, may_come=found.may_come)

    def _matching(self, hardware: hardware_pb2.Hardware) -> "_Found | None":
        key = hardware.SerializeToString(deterministic=True)
        if key not in self._found:
            there, coming = _matching(self._devices, hardware), _matching(self._may_come, hardware)
            kinds = [device.kind for device in (*there, *coming)]
            self._found[key] = _Found(kinds[0], _places(there), _places(coming)) if kinds else None
        return self._found[key]


@dataclass(frozen=True, slots=True)
class _Found:
    kind: str
    places: frozenset[tuple[str, str]]
    may_come: frozenset[tuple[str, str]]


def _matching(devices: Sequence[Device], hardware: hardware_pb2.Hardware) -> list[Device]:
    try:
        return matching(devices, hardware)
    except DomainError:
        return []


def _cpus(devices: Sequence[Device]) -> frozenset[tuple[str, str]]:
    return _places([device for device in devices if device.id == CPU])


def _places(devices: Sequence[Device]) -> frozenset[tuple[str, str]]:
    return frozenset(device.place for device in devices)
