# SPDX-License-Identifier: Apache-2.0
"""Which job holds which slots, and which slots are free; devices may come and go."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from finetree_trainer.clock import Clock
from finetree_trainer.scheduling.devices import CPU, PREPARING, Device, Slot
from finetree_trainer.scheduling.fit import Holder
from finetree_trainer.scheduling.order.fair import DeviceUse


def all_slots(devices: Sequence[Device]) -> list[Slot]:
    """Every slot of devices, those for PREPARE jobs last."""
    slots = [slot for device in devices for slot in device.slots()]
    return slots + [Slot(device.node, CPU, PREPARING) for device in devices if device.id == CPU]


class SlotTable:
    """Every slot with the job that holds it."""

    def __init__(self, devices: Sequence[Device], clock: Clock) -> None:
        self._devices, self._clock = devices, clock
        slots = all_slots(devices)
        self.holders: dict[Slot, Holder | None] = dict.fromkeys(slots)
        self._free = set(slots)
        self._ranks = {slot: number for number, slot in enumerate(slots)}
        self._held: dict[str, set[Slot]] = {}
        self.use = DeviceUse(devices)

    def __contains__(self, uid: object) -> bool:
        """Whether a job holds any."""
        return uid in self._held

    def uids(self) -> Iterable[str]:
        """The jobs that hold any."""
        return self._held.keys()

    def of(self, uid: str) -> set[Slot]:
        """Those that a job holds."""
        return self._held.get(uid, set())

    def on(self, device: Device) -> Mapping[Slot, Holder]:
        """Those of a device that are held, the one for PREPARE jobs too."""
        return {
            slot: holder
            for slot, holder in self.holders.items()
            if holder is not None and (slot.node, slot.device) == device.place
        }

    def free(self) -> list[Slot]:
        """Those that are free, in the order of their devices."""
        return sorted(self._free, key=lambda slot: self._ranks[slot])

    def count_free(self, takes: Callable[[Slot], bool]) -> int:
        """How many of some are free."""
        return sum(map(takes, self._free))

    def any_free(self, takes: Callable[[Slot], bool]) -> bool:
        """Whether one of some is free."""
        return any(map(takes, self._free))

    def hold(self, slots: Iterable[Slot], holder: Holder) -> None:
        """Give slots to a job."""
        for slot in slots:
            self._vacate(slot)
            self.holders[slot] = holder
            self._ranks.setdefault(slot, len(self._ranks))
            self._free.discard(slot)
            self._held.setdefault(holder.uid, set()).add(slot)
            self.use.take(holder.project, slot, self._clock())

    def release(self, slots: Iterable[Slot], uid: str) -> None:
        """Free those slots of a job that no other job has been given since."""
        for slot in slots:
            if slot in self._held.get(uid, ()):
                self._vacate(slot)
                self._free.add(slot)

    def _vacate(self, slot: Slot) -> None:
        holder = self.holders.get(slot)
        if holder is not None:
            self.holders[slot] = None
            self._held[holder.uid].discard(slot)
            self.use.give_back(holder.project, slot, self._clock())
            if not self._held[holder.uid]:
                del self._held[holder.uid]

    def follow_devices(self) -> None:
        """Take the slots of devices that have come, and drop free ones of those that have gone."""
        slots = all_slots(self._devices)
        there = set(slots)
        for slot in [each for each, holder in self.holders.items() if holder is None and each not in there]:
            del self.holders[slot]
        self._free = {slot for slot in slots if self.holders.setdefault(slot, None) is None}
        for slot in slots:
            self._ranks.setdefault(slot, len(self._ranks))
        self.use.follow_devices(self._devices)
