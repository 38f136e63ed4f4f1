# SPDX-License-Identifier: Apache-2.0
"""Positions of waiting jobs among those that wait for the same devices, counted once for all jobs of the queue.

A list of jobs shows the place of each: counted anew for every job, a page of a queue of a thousand looks at a hundred
thousand.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Group:
    """What jobs compete for: devices of a kind, or the slot for PREPARE jobs."""

    kind: str
    candidates: frozenset[tuple[str, str]]
    prepares: bool

    def overlaps(self, other: "Group") -> bool:
        """Return whether jobs of two groups compete for a slot."""
        if self.prepares != other.prepares:
            return False
        return bool(self.candidates & other.candidates) or self.kind == other.kind


class Waiting(Protocol):
    """A waiting job, as far as its place depends on it."""

    @property
    def uid(self) -> str:
        """Its uid."""

    @property
    def group(self) -> Group:
        """What it competes for."""

    @property
    def counts(self) -> bool:
        """Whether others wait behind it: a suspended job keeps nobody waiting."""


class Positions:
    """Numbers of waiting jobs, from 1, in the order of the queue."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._ahead: dict[Group, int] = {}
        """Jobs counted so far, by their group: far fewer than jobs."""
        self._stale = False

    def clear(self) -> None:
        """Count anew at the next look: a job has left the queue, or has come into the middle of it."""
        self._stale = True

    def append(self, job: Waiting) -> None:
        """Count a job at the end of the queue."""
        if not self._stale:
            self._count(job)

    def number(self, uid: str, jobs: Iterable[Waiting], length: int) -> int:
        """The place of a job; `jobs` are all that wait, in their order, and `length` is how many."""
        if self._stale or len(self._numbers) != length:
            self._numbers, self._ahead, self._stale = {}, {}, False
            for job in jobs:
                self._count(job)
        return self._numbers[uid]

    def _count(self, job: Waiting) -> None:
        group = job.group
        ahead = sum(number for other, number in self._ahead.items() if other.overlaps(group))
        self._numbers[job.uid] = ahead + 1
        self._ahead[group] = self._ahead.get(group, 0) + job.counts
