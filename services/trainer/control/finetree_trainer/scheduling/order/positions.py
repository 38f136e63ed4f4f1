# SPDX-License-Identifier: Apache-2.0
"""Positions of waiting jobs among those that wait for the same devices, counted once for all jobs of the queue.

A list of jobs shows the place of each: counted anew for every job, a page of a queue of a thousand looks at a hundred
thousand. They are counted as far as somebody asks: of a long queue mostly its head.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from finetree_trainer.scheduling.devices import PREPARING, Slot


@dataclass(frozen=True, slots=True)
class Group:
    """What jobs compete for: devices of a kind, or the slot for PREPARE jobs."""

    kind: str
    candidates: frozenset[tuple[str, str]]
    prepares: bool

    def takes(self, slot: Slot) -> bool:
        """Return whether its jobs can run in a slot."""
        return (slot.node, slot.device) in self.candidates and (slot.index == PREPARING) == self.prepares

    def overlaps(self, other: "Group") -> bool:
        """Return whether jobs of two groups compete for a slot."""
        if self.prepares != other.prepares:
            return False
        return self.kind == other.kind or not self.candidates.isdisjoint(other.candidates)


class Waiting(Protocol):
    """A waiting job, as far as its place depends on it."""

    @property
    def uid(self) -> str:
        """Id of the waiting job."""

    @property
    def group(self) -> Group:
        """What it competes for."""

    @property
    def counts(self) -> bool:
        """Whether others wait behind it: a suspended job keeps nobody waiting."""


class Positions:
    """Numbers of waiting jobs, from 1, in the order of the queue; `jobs()` begins to give all that wait in it."""

    def __init__(self, jobs: Callable[[], Iterable[Waiting]]) -> None:
        self._jobs = jobs
        self._rest: Iterator[Waiting] = iter(())
        """Those that are not counted yet."""
        self._numbers: dict[str, int] = {}
        self._counted: dict[Group, int] = {}
        """Jobs counted so far, by their group: far fewer than jobs."""
        self._ahead: dict[Group, int] = {}
        """Jobs counted so far that a job of a group waits behind."""
        self._overlapping: dict[Group, list[Group]] = {}

    def clear(self) -> None:
        """Count anew at the next look: a job has left the queue, or has come into the middle of it."""
        self._numbers, self._counted, self._ahead, self._overlapping = {}, {}, {}, {}
        self._rest = iter(self._jobs())

    def append(self, job: Waiting) -> None:
        """Count a job at the end of the queue."""
        if next(self._rest, None) is None:
            self._count(job)
        else:
            self.clear()

    def number(self, uid: str) -> int:
        """The place of a job that waits."""
        while uid not in self._numbers:
            self._count(next(self._rest))
        return self._numbers[uid]

    def _count(self, job: Waiting) -> None:
        group = job.group
        if group not in self._counted:
            self._begin(group)
        self._numbers[job.uid] = self._ahead[group] + 1
        if job.counts:
            self._counted[group] += 1
            for other in self._overlapping[group]:
                self._ahead[other] += 1

    def _begin(self, group: Group) -> None:
        """Count a group from now on: devices of two groups are compared once."""
        self._counted[group] = 0
        self._overlapping[group] = [other for other in self._counted if other.overlaps(group)]
        for other in self._overlapping[group]:
            if other is not group:
                self._overlapping[other].append(group)
        self._ahead[group] = sum(self._counted[other] for other in self._overlapping[group])
