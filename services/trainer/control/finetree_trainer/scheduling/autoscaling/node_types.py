# SPDX-License-Identifier: Apache-2.0
"""Types of nodes that an autoscaler may bring, and which of them a node is of."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import overload

from finetree_trainer.scheduling.devices import CPU, Device


@dataclass(frozen=True, slots=True)
class NodeType:
    """A type of nodes: its devices as jobs will find them, whose node is the type's name.

    `resources` are those that Ray counts: "CPU", "GPU", and custom ones. `maximum`: the most nodes of it at once, those
    included that are there already.
    """

    name: str
    resources: Mapping[str, float]
    devices: tuple[Device, ...]
    maximum: int

    @property
    def cpu(self) -> Device:
        """The processors of such a node as a device."""
        return self.devices[-1]

    @property
    def size(self) -> tuple[float, float, int]:
        """What types are compared by: GPUs, then CPUs, then bytes of memory."""
        return self.resources.get("GPU", 0), self.resources.get("CPU", 0), self.cpu.total_bytes


@dataclass(frozen=True, slots=True)
class PresentNode:
    """A node that is there: its name, what Ray counts of it, its devices, and what it lacks, "" for nothing."""

    name: str
    resources: Mapping[str, float]
    devices: tuple[Device, ...] = ()
    fault: str = ""


def covers(resources: Mapping[str, float], wanted: Mapping[str, float]) -> bool:
    """Return whether a node with some resources is taken by Ray for one with others."""
    return all(resources.get(name, 0) >= number for name, number in wanted.items())


def type_of(node: PresentNode, types: Sequence[NodeType]) -> NodeType | None:
    """The type that a node is of: the largest that it has everything of."""
    return max((each for each in types if covers(node.resources, each.resources)), key=_rank, default=None)


def _rank(type_: NodeType) -> tuple[float, ...]:
    return (*type_.size, len(type_.resources))


def difference(node: PresentNode, type_: NodeType) -> str:
    """Say in what a node is less than its type; "" where it is not."""
    if node.fault:
        return f"node {node.name} of that type cannot be used: {node.fault}"
    has = sorted(device.kind for device in node.devices if device.id != CPU)
    stated = sorted(device.kind for device in type_.devices if device.id != CPU)
    if has != stated:
        return (
            f"node {node.name} of that type has {', '.join(has) or 'no GPU'}, "
            f"where the file of node types says {', '.join(stated) or 'none'}"
        )
    return ""


class Plannable(Sequence[Device]):
    """Devices that jobs may be created for: those that are there now, then those of nodes that may come."""

    def __init__(self, there: Sequence[Device], may_come: Sequence[Device]) -> None:
        self._there, self._may_come = there, may_come

    @overload
    def __getitem__(self, index: int) -> Device: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Device]: ...
    def __getitem__(self, index: int | slice) -> Device | Sequence[Device]:
        """A device."""
        return (*self._there, *self._may_come)[index]

    def __len__(self) -> int:
        """How many there are."""
        return len(self._there) + len(self._may_come)

    def __iter__(self) -> Iterator[Device]:
        """Each, as they are at the start of the loop."""
        return iter((*self._there, *self._may_come))
