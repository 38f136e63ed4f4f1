# SPDX-License-Identifier: Apache-2.0
"""Slots of all devices: which job holds each, and which are free."""

from collections.abc import Collection, Mapping, Sequence

from finetree_trainer.scheduling.devices import CPU, PREPARING, Device, Slot
from finetree_trainer.scheduling.fit import Holder


class Slots:
    """Every slot of devices, those for PREPARE jobs last, with the job that holds it."""

    def __init__(self, devices: Sequence[Device]) -> None:
        self._devices = devices
        self._holders: dict[Slot, Holder | None] = dict.fromkeys(_all(devices))
        self._ranks = {slot: number for number, slot in enumerate(self._holders)}
        """The order in which free slots are offered: that of the devices."""
        self._held: dict[str, set[Slot]] = {}
        """Slots of each job that holds any."""
        self.free = set(self._holders)

    def follow_devices(self) -> None:
        """Take slots of devices that have come; those of devices that have gone stay as long as jobs hold them."""
        there = _all(self._devices)
        held = {slot: holder for slot, holder in self._holders.items() if holder is not None}
        self._holders = dict.fromkeys(there) | held
        self._ranks = {slot: number for number, slot in enumerate(self._holders)}
        self.free = set(there) - held.keys()

    @property
    def holders(self) -> Mapping[Slot, Holder | None]:
        """Every slot, with the job that holds it."""
        return self._holders

    def free_in_order(self) -> Sequence[Slot]:
        """Free slots in the order of their devices."""
        return sorted(self.free, key=lambda slot: self._ranks[slot])

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
        self.free.discard(slot)
        self._held.setdefault(holder.uid, set()).add(slot)

    def release(self, slot: Slot) -> Holder | None:
        """Take a slot from the job that holds it, and return the job."""
        holder = self._holders.get(slot)
        if holder is not None:
            self._holders[slot] = None
            self.free.add(slot)
            self._held[holder.uid].discard(slot)
            if not self._held[holder.uid]:
                del self._held[holder.uid]
        return holder

    def on(self, device: Device) -> dict[Slot, Holder]:
        """Jobs that hold slots of a device, those that only prepare too."""
        return {
            slot: holder
            for slot, holder in self._holders.items()
            if holder is not None and (slot.node, slot.device) == device.place
        }


def _all(devices: Sequence[Device]) -> list[Slot]:
    slots = [slot for device in devices for slot in device.slots()]
    return slots + [Slot(device.node, CPU, PREPARING) for device in devices if device.id == CPU]
