# SPDX-License-Identifier: Apache-2.0
"""Fair sharing: which project's turn it is, by the devices that each holds and held, against its weight.

A project's share is the largest part of all devices of one kind that is its own (the dominant resource), divided by its
weight. Its devices are those that it holds now and those that it held on average over the last days: with the average
alone one project would be given everything that is free at once, without it a machine of one device, on which nobody
holds anything when it is free, would know no difference. The project with the least share is next, with its job of the
highest priority and place: a priority counts within a project alone.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

from finetree_trainer.scheduling.devices import PREPARING, Device, Slot
from finetree_trainer.scheduling.order.place import Order

HALF_LIFE_SECONDS = 86400.0
"""After this time without a device half of what a project held on average is forgotten."""
RECALLED_SECONDS = 8 * HALF_LIFE_SECONDS
"""How far back attempts are read when the service starts: older ones count for less than a two hundredth."""


class DeviceUse:
    """Devices that each project holds now, and held on average over the last days. Times: microseconds since 1970."""

    def __init__(self, devices: Iterable[Device]) -> None:
        """`devices` are all that there are; each slot of a CPU counts as one, the slot for PREPARE jobs as none."""
        self._kinds: dict[tuple[str, str], str] = {}
        self._totals: Counter[str] = Counter()
        self.follow_devices(devices)
        self._held: dict[str, Counter[str]] = {}
        self._averages: dict[str, dict[str, tuple[float, int]]] = {}
        """Devices on average, by project and kind, and when that was."""

    def follow_devices(self, devices: Iterable[Device]) -> None:
        """Take the devices that are there now; those that have gone are known as long as jobs hold them."""
        self._totals.clear()
        for device in devices:
            self._kinds[device.place] = device.kind
            self._totals[device.kind] += device.slot_count

    def take(self, project: str, slot: Slot, now: int) -> None:
        """Count a device that a job is given."""
        self._change(project, slot, now, by=1)

    def give_back(self, project: str, slot: Slot, now: int) -> None:
        """Count a device that a job holds no more."""
        self._change(project, slot, now, by=-1)

    def recall(self, project: str, slot: Slot, *, started: int, ended: int, now: int) -> None:
        """Count what an attempt of an earlier run of the service held; `ended` is `now` for one that holds it still."""
        kind = self._kind(slot)
        if kind is not None:
            held = (1 - _left(started, ended)) * _left(ended, now)
            self._averages.setdefault(project, {})[kind] = (self._average(project, kind, now) + held, now)

    def share(self, project: str, weight: float, now: int) -> float:
        """Largest part of the devices of one kind that is a project's, by its weight."""
        held = self._held.get(project, Counter())
        kinds = held.keys() | self._averages.get(project, {}).keys()
        parts = ((self._average(project, kind, now) + held[kind]) / max(1, self._totals[kind]) for kind in kinds)
        return max(parts, default=0.0) / weight

    def part(self, kind: str, count: int) -> float:
        """Part of all devices of a kind that so many are."""
        return count / max(1, self._totals[kind])

    def _change(self, project: str, slot: Slot, now: int, *, by: int) -> None:
        kind = self._kind(slot)
        if kind is not None:
            self._averages.setdefault(project, {})[kind] = (self._average(project, kind, now), now)
            self._held.setdefault(project, Counter())[kind] += by

    def _average(self, project: str, kind: str, now: int) -> float:
        value, at = self._averages.get(project, {}).get(kind, (0.0, now))
        left = _left(at, now)
        return value * left + self._held.get(project, Counter())[kind] * (1 - left)

    def _kind(self, slot: Slot) -> str | None:
        """Kind of a slot's device; None for the slot for PREPARE jobs, and for a device that is gone by now."""
        return None if slot.index == PREPARING else self._kinds.get((slot.node, slot.device))


def _left(since: int, now: int) -> float:
    """What is left of an average after a time."""
    return float(0.5 ** (max(0, now - since) / 1e6 / HALF_LIFE_SECONDS))


class Ordered(Protocol):
    """A waiting job, as far as its turn depends on it."""

    @property
    def project(self) -> str:
        """Whose it is."""

    @property
    def order(self) -> Order:
        """Its priority and place."""


JobT = TypeVar("JobT", bound=Ordered)
LineT = TypeVar("LineT", bound=Hashable)


def in_turn(
    lines: Mapping[LineT, Sequence[JobT]],
    share: Callable[[str], float],
    is_open: Callable[[LineT], bool] = lambda _line: True,
) -> Iterator[JobT]:
    """Yield waiting jobs in the order in which they are to start.

    Each of `lines` holds jobs of one project in their order. `share(project)` is asked again after each job, which may
    have been started then; shares only grow meanwhile. Of a line that is not open, the first job comes alone. Where all
    shares are equal, the order is that of priorities and places over all lines.
    """
    rest = {line: iter(jobs) for line, jobs in lines.items()}
    heap: list[tuple[float, Order, LineT, JobT]] = []

    def add_next(line: LineT) -> None:
        job = next(rest[line], None)
        if job is not None:
            heapq.heappush(heap, (share(job.project), job.order, line, job))

    for line in lines:
        add_next(line)
    while heap:
        known, order, line, job = heapq.heappop(heap)
        now = share(job.project)
        if now > known:  # a job of another line of its project has started
            heapq.heappush(heap, (now, order, line, job))
            continue
        yield job
        if is_open(line):
            add_next(line)
