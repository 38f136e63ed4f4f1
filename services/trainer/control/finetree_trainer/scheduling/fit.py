# SPDX-License-Identifier: Apache-2.0
"""Which slots a waiting job gets now, and what is in its way where it gets none: one round through the queue."""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Protocol

from finetree.display.units import GIB
from finetree_runtime.ids import project_in

from finetree_trainer.scheduling.demand import Demand, needed
from finetree_trainer.scheduling.devices import CPU, Slot
from finetree_trainer.scheduling.memory import Budget, Budgets
from finetree_trainer.scheduling.order.backfill import HOST, Kept, Passed
from finetree_trainer.scheduling.order.positions import Group

WAITING_FOR_DEVICE, MEMORY_IN_USE = "WAITING_FOR_DEVICE", "MEMORY_IN_USE"
KEPT_FOR_ANOTHER, DEVICE_LOST, WAITING_FOR_NODE = "KEPT_FOR_ANOTHER", "DEVICE_LOST", "WAITING_FOR_NODE"
"""Codes of the reason for which a job waits."""


class NotPlacedError(Exception):
    """A worker could not be started on the node of its slots, for a reason in words; the job waits for another try."""


@dataclass(frozen=True, slots=True)
class Blocked:
    """What a job waits for: a stable code, and the same in words."""

    code: str
    text: str
    ours: bool = False
    """Whether it could start if other jobs of this service gave back what they hold of the host's memory."""
    kept_for: str = ""
    """Name of the job for which it is kept, for reasons.told_to; empty: for none."""
    remedy: str = ""
    """What would end the wait, for people."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Figures and names behind it, for programs (StateReason.metadata)."""


@dataclass(frozen=True, slots=True)
class Holder:
    """The job that holds a slot."""

    uid: str
    name: str
    task: int

    @property
    def project(self) -> str:
        """Whose it is."""
        return project_in(self.name) or ""


class FreeSlots:
    """Free slots in the order in which they are offered, which `ranks` has, and the same by node."""

    def __init__(self, ranks: Mapping[Slot, int]) -> None:
        self._rank = ranks.__getitem__
        self._slots: list[Slot] = []
        self._by_node: dict[str, list[Slot]] = {}

    def __len__(self) -> int:
        """How many are free."""
        return len(self._slots)

    def __iter__(self) -> Iterator[Slot]:
        """Each, in order."""
        return iter(self._slots)

    def on(self, node: str) -> Iterable[Slot]:
        """Those of a node, in order."""
        return self._by_node.get(node, ())

    def add(self, slot: Slot) -> None:
        """Add one that is free now."""
        insort(self._slots, slot, key=self._rank)
        insort(self._by_node.setdefault(slot.node, []), slot, key=self._rank)

    def remove(self, slot: Slot) -> None:
        """Drop one that is held now."""
        here = self._by_node[slot.node]
        for slots in (self._slots, here):
            del slots[bisect_left(slots, self._rank(slot), key=self._rank)]
        if not here:
            del self._by_node[slot.node]


class SlotsNow(Protocol):
    """Every slot, and who holds it."""

    @property
    def holders(self) -> Mapping[Slot, Holder | None]:
        """Every slot, with the job that holds it."""

    def free_of(self, group: Group) -> FreeSlots:
        """Free ones that jobs of a group can run in."""

    def places_of(self, group: Group) -> Sequence[tuple[str, str]]:
        """Devices that jobs of a group can run on, in their order."""


class Round:
    """One look through the queue, in its order; `slots` and `budgets` are as they are now."""

    def __init__(self, slots: SlotsNow, budgets: Budgets, *, now: int) -> None:
        self._slots, self.budgets, self._now = slots, budgets, now
        self._kept = Kept()

    def choose(self, demand: Demand, name: str, rank: Mapping[Slot, int]) -> tuple[Slot, ...] | Blocked:
        """Choose free slots for a job, one of each device, those of a lower rank first; or say what is in its way."""
        if demand.candidates and all(self.budgets.of(place).fault for place in demand.candidates):
            faults = {place: self.budgets.of(place).fault for place in sorted(demand.candidates)}
            text = "; ".join(f"{device} cannot be used: {fault}" for (_, device), fault in faults.items())
            return Blocked(DEVICE_LOST, text, metadata={"devices": ",".join(device for _, device in faults)})
        offered: Iterable[Slot] = self._slots.free_of(demand.group)
        if rank:
            offered = sorted(offered, key=lambda slot: rank.get(slot, 0))
        found = self._on_one_node(demand, name, offered, rank)
        if found is not None and not isinstance(found, Blocked):
            return found
        free: dict[tuple[str, str], Slot] = {}
        for slot in offered:
            if not self.budgets.of((slot.node, slot.device)).fault:
                free.setdefault((slot.node, slot.device), slot)
        if _most_on_a_node(free) < demand.count:
            return Blocked(WAITING_FOR_DEVICE, "")
        open_ = {place: slot for place, slot in free.items() if self._is_open([place], name)}
        if _most_on_a_node(open_) < demand.count or not self._is_open([HOST], name):
            return Blocked(KEPT_FOR_ANOTHER, "", kept_for=self._kept.owner([HOST, *free]))
        if found is None:
            return tuple(open_.values())[: demand.count]
        return found

    def _on_one_node(
        self, demand: Demand, name: str, offered: Iterable[Slot], rank: Mapping[Slot, int]
    ) -> tuple[Slot, ...] | Blocked | None:
        """Choose among slots those of the first node that has enough of them, and the memory; no further one is read.

        None for a job that only prepares while none runs on a CPU: it needs no memory.
        """
        found: tuple[Slot, ...] | Blocked = Blocked(WAITING_FOR_DEVICE, "")
        if not self._is_open([HOST], name):
            return found
        if demand.prepares and not self._runs_on_cpu():
            return None
        seen = set[str]()
        for slot in offered:
            if slot.node not in seen and self._is_usable(slot, name):
                seen.add(slot.node)
                here = self._usable_on(slot.node, demand, name, rank)
                if len(here) >= demand.count:
                    found = self._with_memory(demand, here, loaded=any(rank.get(one, 0) < 0 for one in here.values()))
                    if not isinstance(found, Blocked):
                        break
        return found

    def _usable_on(self, node: str, demand: Demand, name: str, rank: Mapping[Slot, int]) -> dict[tuple[str, str], Slot]:
        """Slots of a node that a job could have now, one of each device, those of a lower rank first."""
        slots = sorted(self._slots.free_of(demand.group).on(node), key=lambda slot: rank.get(slot, 0))
        found: dict[tuple[str, str], Slot] = {}
        for slot in slots:
            if self._is_usable(slot, name):
                found.setdefault((slot.node, slot.device), slot)
        return found

    def _is_usable(self, slot: Slot, name: str) -> bool:
        place = slot.node, slot.device
        return self._is_open([place], name) and not self.budgets.of(place).fault

    def _is_open(self, places: Iterable[tuple[str, str]], name: str) -> bool:
        """Whether places are kept for no other job."""
        return self._kept.owner(places) in ("", name)

    def passes(self, started: Demand, slots: tuple[Slot, ...], other: Demand, blocked: Blocked) -> bool:
        """Return whether a job that has started has taken what one before it waits for."""
        if blocked.code == MEMORY_IN_USE and blocked.ours:
            return bool(started.host_bytes(self.budgets.host.capacity))
        return blocked.code == WAITING_FOR_DEVICE and any(other.takes(slot) for slot in slots)

    def keep(self, demand: Demand, name: str, blocked: Blocked, passed: Passed) -> None:
        """Keep what a job waits for where it was passed often enough."""
        if not passed.enough(self._now):
            return
        if blocked.code == WAITING_FOR_DEVICE:
            self._kept.keep_devices(self._usable(demand), demand.count, name=name)
        elif blocked.code == MEMORY_IN_USE and blocked.ours:
            self._kept.keep_memory(HOST, name)

    def _usable(self, demand: Demand) -> Iterator[tuple[str, str]]:
        """Devices that a job can run on and that work, in their order, those first of which any slot is free."""
        groups = demand.group, replace(demand.group, prepares=not demand.prepares)
        free = {(slot.node, slot.device) for group in groups for slot in self._slots.free_of(group)}
        rest = (place for place in self._slots.places_of(demand.group) if place not in free)
        return (place for place in chain(sorted(free), rest) if not self.budgets.of(place).fault)

    def _with_memory(
        self, demand: Demand, free: Mapping[tuple[str, str], Slot], *, loaded: bool
    ) -> tuple[Slot, ...] | Blocked:
        enough = [slot for place, slot in free.items() if place[1] == CPU or not self._lacks(demand, place)]
        if len(enough) < demand.count:
            place = min(free, key=lambda place: self._lacks(demand, place))
            budget = self.budgets.of(place)
            return _memory_in_use(place[1], needed(demand.memory, budget.capacity), budget)
        host = self.budgets.host_of(next(iter(free))[0])
        bytes_ = demand.host_bytes(host.capacity)
        if bytes_ <= host.available + host.idle + (host.resting if loaded else 0):
            return tuple(enough[: demand.count])
        ours = sum(each.used + each.outstanding for each in host.held) + host.resting + host.idle
        return _memory_in_use(CPU, bytes_, host, ours=bytes_ <= host.available + ours)

    def _lacks(self, demand: Demand, place: tuple[str, str]) -> int:
        """Bytes of a GPU's memory that a job lacks; who rests there is ended before it starts."""
        budget = self.budgets.of(place)
        return max(0, needed(demand.memory, budget.capacity) - budget.available - budget.resting)

    def _runs_on_cpu(self) -> bool:
        return any(holder is not None for slot, holder in self._slots.holders.items() if slot.device == CPU)


def _most_on_a_node(places: Iterable[tuple[str, str]]) -> int:
    """The most of some devices that are on one node: a job's are all on the same."""
    return max(Counter(node for node, _ in places).values(), default=0)


def _memory_in_use(device: str, bytes_: int, budget: Budget, *, ours: bool = False) -> Blocked:
    where = "the machine" if device == CPU else device
    text = (
        f"it needs {bytes_ / GIB:.1f} GiB of memory and {where} has {budget.available / GIB:.1f} to give "
        f"of {budget.total / GIB:.1f}: {budget.in_words()}"
    )
    figures = {"needed_bytes": bytes_, "free_bytes": budget.available, "others_bytes": budget.used_by_others}
    metadata = {"device": device} | {name: str(figure) for name, figure in figures.items()}
    return Blocked(MEMORY_IN_USE, text, ours, metadata=metadata)
