# SPDX-License-Identifier: Apache-2.0
"""Which slots a waiting job gets now, and what is in its way where it gets none: one round through the queue."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetree_trainer.scheduling.backfill import HOST, Kept, Passed
from finetree_trainer.scheduling.demand import Demand, needed
from finetree_trainer.scheduling.devices import CPU, Slot
from finetree_trainer.scheduling.memory import Budget, Budgets

WAITING_FOR_DEVICE, MEMORY_IN_USE = "WAITING_FOR_DEVICE", "MEMORY_IN_USE"
KEPT_FOR_ANOTHER, DEVICE_LOST = "KEPT_FOR_ANOTHER", "DEVICE_LOST"
"""Codes of the reason for which a job waits."""


@dataclass(frozen=True, slots=True)
class Blocked:
    """What a job waits for: a stable code, and the same in words."""

    code: str
    text: str
    ours: bool = False
    """Whether it could start if other jobs of this service gave back what they hold of the host's memory."""


@dataclass(frozen=True, slots=True)
class Holder:
    """The job that holds a slot."""

    uid: str
    name: str
    task: int

    @property
    def project(self) -> str:
        """Whose it is."""
        return self.name.removeprefix("projects/").partition("/")[0]


class Round:
    """One look through the queue, in its order; `holders`, `free` slots and `budgets` are as they are now."""

    def __init__(
        self, holders: Mapping[Slot, Holder | None], free: Sequence[Slot], budgets: Budgets, *, now: int
    ) -> None:
        self._holders, self._free, self.budgets, self._now = holders, free, budgets, now
        self._kept = Kept()

    def choose(self, demand: Demand, name: str, rank: Mapping[Slot, int]) -> tuple[Slot, ...] | Blocked:
        """Choose free slots for a job, one of each device, those of a lower rank first; or say what is in its way."""
        if demand.candidates and all(self.budgets.of(place).fault for place in demand.candidates):
            faults = {place: self.budgets.of(place).fault for place in sorted(demand.candidates)}
            text = "; ".join(f"{device} cannot be used: {fault}" for (_, device), fault in faults.items())
            return Blocked(DEVICE_LOST, text)
        free: dict[tuple[str, str], Slot] = {}
        for slot in sorted(self._free, key=lambda slot: rank.get(slot, 0)):
            if demand.takes(slot) and not self.budgets.of((slot.node, slot.device)).fault:
                free.setdefault((slot.node, slot.device), slot)
        if len(free) < demand.count:
            return Blocked(WAITING_FOR_DEVICE, "")
        open_ = {place: slot for place, slot in free.items() if self._kept.owner([place]) in ("", name)}
        if len(open_) < demand.count or self._kept.owner([HOST]) not in ("", name):
            owner = self._kept.owner([HOST, *free])
            return Blocked(KEPT_FOR_ANOTHER, f"what is free is kept for {_short(owner)}, which others have passed")
        if demand.prepares and not self._runs_on_cpu():
            return tuple(open_.values())[: demand.count]
        return self._with_memory(demand, open_, loaded=any(rank.get(slot, 0) < 0 for slot in open_.values()))

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
            usable = [place for place in demand.candidates if not self.budgets.of(place).fault]
            self._kept.keep_devices(self._free, usable, demand.count, name=name)
        elif blocked.code == MEMORY_IN_USE and blocked.ours:
            self._kept.keep_memory(HOST, name)

    def _with_memory(
        self, demand: Demand, free: Mapping[tuple[str, str], Slot], *, loaded: bool
    ) -> tuple[Slot, ...] | Blocked:
        enough = [slot for place, slot in free.items() if place[1] == CPU or not self._lacks(demand, place)]
        if len(enough) < demand.count:
            place = min(free, key=lambda place: self._lacks(demand, place))
            budget = self.budgets.of(place)
            return _memory_in_use(f"{place[1]} has", needed(demand.memory, budget.capacity), budget)
        host = self.budgets.host
        bytes_ = demand.host_bytes(host.capacity)
        if bytes_ <= host.available + host.idle + (host.resting if loaded else 0):
            return tuple(enough[: demand.count])
        ours = sum(each.used + each.outstanding for each in host.held) + host.resting + host.idle
        return _memory_in_use("the machine has", bytes_, host, ours=bytes_ <= host.available + ours)

    def _lacks(self, demand: Demand, place: tuple[str, str]) -> int:
        """Bytes of a GPU's memory that a job lacks; who rests there is ended before it starts."""
        budget = self.budgets.of(place)
        return max(0, needed(demand.memory, budget.capacity) - budget.available - budget.resting)

    def _runs_on_cpu(self) -> bool:
        return any(holder is not None for slot, holder in self._holders.items() if slot.device == CPU)


def _memory_in_use(where: str, bytes_: int, budget: Budget, *, ours: bool = False) -> Blocked:
    text = (
        f"it needs {bytes_ / 1e9:.1f} GB of memory and {where} {budget.available / 1e9:.1f} to give "
        f"of {budget.total / 1e9:.1f}: {budget.in_words()}"
    )
    return Blocked(MEMORY_IN_USE, text, ours)


def _short(name: str) -> str:
    return name.rpartition("/")[2]
