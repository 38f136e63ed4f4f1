# SPDX-License-Identifier: Apache-2.0
"""Slots of all devices: which job holds each, and which are free."""

from collections.abc import Collection, Iterable, Mapping, Sequence

from finetree_trainer.scheduling.devices import Device, Slot
from finetree_trainer.scheduling.fit import Holder


class Slots:
    """Every slot, with the job that holds it."""

    def __init__(self, slots: Iterable[Slot]) -> None:
        self._holders: dict[Slot, Holder | None] = dict.fromkeys(slots)
        self._ranks = {slot: number for number, slot in enumerate(self._holders)}
        """The order in which free slots are offered: that of the devices."""
        self._held: dict[str, set[Slot]] = {}
        """Slots of each job that holds any."""
        self.free = set(self._holders)

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
