# SPDX-License-Identifier: Apache-2.0
"""Slots of all devices: which job holds each, and which are free."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from finetree_trainer.scheduling.devices import CPU, PREPARING, Device, Slot
from finetree_trainer.scheduling.fit import FreeSlots, Holder
from finetree_trainer.scheduling.order.positions import Group


@dataclass(slots=True)
class Occupancy:
    """Jobs that hold slots of a group, each with its devices, in the order of the slots; and how many are free."""

    held: dict[Holder, list[str]] = field(default_factory=dict)
    by_project: dict[str, dict[str, str]] = field(default_factory=dict)
    """Names of the jobs of each project, by their uids."""
    free: int = 0

    def add(self, slot: Slot, holder: Holder | None) -> None:
        """Count a slot; None: nobody holds it."""
        if holder is None:
            self.free += 1
            return
        devices = self.held.get(holder)
        if devices is None:
            self.held[holder] = [slot.device]
            self.by_project.setdefault(holder.project, {})[holder.uid] = holder.name
        else:
            devices.append(slot.device)


class Slots:
    """Every slot of devices, those for PREPARE jobs last, with the job that holds it."""

    def __init__(self, devices: Sequence[Device]) -> None:
        self._devices = devices
        self._holders: dict[Slot, Holder | None] = dict.fromkeys(_all(devices))
        self._ranks = {slot: number for number, slot in enumerate(self._holders)}
        """The order in which free slots are offered: that of the devices."""
        self._held: dict[str, set[Slot]] = {}
        """Slots of each job that holds any."""
        self._held_on: dict[str, dict[Slot, Holder]] = {}
        """What is held of each node."""
        self.free = set(self._holders)
        self._free_of: dict[Group, FreeSlots] = {}
        """Free slots of the groups that were asked for: of ten thousand devices few are free as a rule."""
        self._places_of: dict[Group, list[tuple[str, str]]] = {}
        self._occupancy: dict[Group, Occupancy] = {}
        """Of the groups that were asked for, until a slot is held or released."""

    def follow_devices(self) -> None:
        """Take slots of devices that have come; those of devices that have gone stay as long as jobs hold them."""
        there = _all(self._devices)
        held = {slot: holder for slot, holder in self._holders.items() if holder is not None}
        self._holders = dict.fromkeys(there) | held
        self._ranks = {slot: number for number, slot in enumerate(self._holders)}
        self.free = set(there) - held.keys()
        for known in (self._free_of, self._places_of, self._occupancy):
            known.clear()

    @property
    def holders(self) -> Mapping[Slot, Holder | None]:
        """Every slot, with the job that holds it."""
        return self._holders

    def free_in_order(self) -> Sequence[Slot]:
        """Free slots in the order of their devices."""
        return sorted(self.free, key=self._ranks.__getitem__)

    def free_of(self, group: Group) -> FreeSlots:
        """Free slots that jobs of a group can run in, in the order of their devices."""
        if group not in self._free_of:
            self._free_of[group] = found = FreeSlots(self._ranks)
            for slot in sorted(filter(group.takes, self.free), key=self._ranks.__getitem__):
                found.add(slot)
        return self._free_of[group]

    def places_of(self, group: Group) -> Sequence[tuple[str, str]]:
        """Devices that jobs of a group can run on, in their order."""
        if group not in self._places_of:
            self._places_of[group] = sorted(group.candidates)
        return self._places_of[group]

    def occupancy(self, group: Group) -> Occupancy:
        """Who holds the slots that jobs of a group can run in, and how many are free."""
        if group not in self._occupancy:
            found = self._occupancy[group] = Occupancy()
            for slot, holder in self._holders.items():
                if group.takes(slot):
                    found.add(slot, holder)
        return self._occupancy[group]

    def held_on(self, node: str) -> Mapping[Slot, Holder]:
        """Slots of a node that jobs hold."""
        return self._held_on.get(node, {})

    def of(self, uid: str) -> Collection[Slot]:
        """Slots that a job holds."""
        return self._held.get(uid, ())

    def jobs(self) -> Collection[str]:
        """Uids of the jobs that hold slots."""
        return self._held.keys()

    def hold(self, slot: Slot, holder: Holder) -> None:
        """Give a free slot to a job."""
        self._holders[slot] = holder
        self._ranks.setdefault(slot, len(self._ranks))
        self._held_on.setdefault(slot.node, {})[slot] = holder
        self._held.setdefault(holder.uid, set()).add(slot)
        self._occupancy.clear()
        if slot in self.free:
            self.free.discard(slot)
            for group, free in self._free_of.items():
                if group.takes(slot):
                    free.remove(slot)

    def release(self, slot: Slot) -> Holder | None:
        """Take a slot from the job that holds it, and return the job."""
        holder = self._holders.get(slot)
        if holder is not None:
            self._holders[slot] = None
            self.free.add(slot)
            del self._held_on[slot.node][slot]
            if not self._held_on[slot.node]:
                del self._held_on[slot.node]
            self._occupancy.clear()
            for group, free in self._free_of.items():
                if group.takes(slot):
                    free.add(slot)
            self._held[holder.uid].discard(slot)
            if not self._held[holder.uid]:
                del self._held[holder.uid]
        return holder

    def on(self, device: Device) -> dict[Slot, Holder]:
        """Jobs that hold slots of a device, those that only prepare too."""
        held = [slot for slot in self.held_on(device.node) if slot.device == device.id]
        return {slot: self._held_on[device.node][slot] for slot in sorted(held, key=self._ranks.__getitem__)}


def _all(devices: Sequence[Device]) -> list[Slot]:
    slots = [slot for device in devices for slot in device.slots()]
    return slots + [Slot(device.node, CPU, PREPARING) for device in devices if device.id == CPU]
