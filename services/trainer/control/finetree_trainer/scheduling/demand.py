# SPDX-License-Identifier: Apache-2.0
"""What a job needs to start: devices of a kind, memory on each of them, and memory of the host."""

from collections.abc import Sequence
from dataclasses import dataclass

from finetree_api.trainer.v1 import job_pb2
from finetree_api.types.v1 import evidence_pb2
from finetree_runtime.errors import DomainError

from finetree_trainer.scheduling.devices import CPU, PREPARING, Device, Slot, matching
from finetree_trainer.scheduling.positions import Group

PREPARE_BYTES = 2 * 1024**3
"""Memory that is promised to a job whose need nobody has estimated: its process has 0.9 GB after its imports, and had
0.8 GB more at the peak of preparing a million rows (benchmarks/results/worker/data_memory.json has the slope)."""


@dataclass(frozen=True, slots=True)
class Demand:
    """The devices that a job needs: their kind, for people, how many, and the ids of those that it can run on.

    `candidates` is empty for a job whose devices no longer exist: it waits. `prepares`: it takes the slot for PREPARE
    jobs alone. `memory` is what it needs of each device, `host` of the host beside GPUs: estimates in bytes, the
    largest first, of which `needed` chooses one; empty where nothing is known or needed.
    """

    kind: str
    count: int
    candidates: frozenset[tuple[str, str]]
    prepares: bool = False
    memory: tuple[int, ...] = ()
    host: tuple[int, ...] = ()

    @property
    def on_cpu(self) -> bool:
        """Whether the memory that it needs of its device is the host's."""
        return any(device == CPU for _, device in self.candidates)

    def takes(self, slot: Slot) -> bool:
        """Return whether the job can run in a slot."""
        return (slot.node, slot.device) in self.candidates and (slot.index == PREPARING) == self.prepares

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


def demand_of(record: job_pb2.Job, devices: Sequence[Device]) -> Demand:
    """Read what a job needs from its record."""
    task = record.WhichOneof("task")
    figures = figures_of(record.estimate.device_bytes)
    if task not in ("train", "evaluate", "serve"):
        cpus = [device for device in devices if device.id == CPU]
        return _demand(cpus, 1, prepares=True, memory=figures or (PREPARE_BYTES,))
    hardware = record.train.spec.hardware
    if task != "train":
        hardware = record.serve.hardware if task == "serve" else record.evaluate.hardware
    try:
        found = matching(devices, hardware)
    except DomainError:
        return Demand(hardware.accelerator or CPU, max(1, hardware.count), frozenset())
    if found[0].id == CPU:
        # Several are processes in one slot, and each takes what one was estimated to take.
        processes = max(1, hardware.count)
        return _demand(found, 1, memory=tuple(processes * figure for figure in figures or (PREPARE_BYTES,)))
    host = figures_of(record.estimate.host_bytes) or (PREPARE_BYTES,)
    return _demand(found, max(1, hardware.count), memory=figures, host=host)


def _demand(
    candidates: Sequence[Device],
    count: int,
    *,
    prepares: bool = False,
    memory: tuple[int, ...],
    host: tuple[int, ...] = (),
) -> Demand:
    places = frozenset(device.place for device in candidates)
    return Demand(candidates[0].kind, count, places, prepares, memory, host)
