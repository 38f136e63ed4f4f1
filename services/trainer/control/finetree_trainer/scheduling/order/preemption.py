# SPDX-License-Identifier: Apache-2.0
"""Preemption: which running trainings give their devices up to a waiting job of a higher priority.

A training yields where jobs of its project may be preempted (`preemptible` in the limits file); where projects have
weights, it yields to jobs of another one only if its own project has a larger share. It yields only after a checkpoint
that is young enough and some time at work: what is lost is bounded, and nobody is preempted again and again.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from finetree_trainer.scheduling.demand import Demand
from finetree_trainer.scheduling.devices import Slot

PREEMPTIBLE, OVER_SHARE = "PREEMPTIBLE", "OVER_SHARE"
"""Why a training may be preempted."""


@dataclass(frozen=True, slots=True)
class Terms:
    """When a training may be preempted, seconds.

    `max_lost`: most age of its newest checkpoint, 0 for never; `min_run`: least time at work since its attempt began.
    """

    max_lost: float
    min_run: float

    def allow(self, running: "Running", now: int) -> bool:
        """Return whether a training has been at work for long enough and would lose little."""
        return now - running.started >= self.min_run * 1e6 and now - running.saved <= self.max_lost * 1e6


@dataclass(frozen=True, slots=True)
class Running:
    """A running training: when its attempt began, and when it saved its newest checkpoint (microseconds since 1970)."""

    uid: str
    project: str
    priority: int
    slots: Collection[Slot]
    started: int
    saved: int


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that waits for devices, and who may be preempted for it.

    `cause(running)` says why a training of a lower priority may be; empty: it may not.
    """

    demand: Demand
    priority: int
    cause: Callable[[Running], str]


def victims(
    claim: Claim, running: Iterable[Running], *, free: Iterable[Slot], leaving: Iterable[Slot], terms: Terms, now: int
) -> list[Running]:
    """Choose the trainings to preempt for a job, as few as it needs; none where they would not suffice.

    `free` are slots that nobody holds, `leaving` those of jobs that are about to end their attempts anyway. Lower
    priorities yield first, then those that have been at work for the shortest time.
    """
    takes = claim.demand.takes
    devices = {(slot.node, slot.device) for slot in (*free, *leaving) if takes(slot)}
    chosen: list[Running] = []
    for each in sorted(running, key=lambda each: (each.priority, -each.started, each.uid)):
        if len(devices) >= claim.demand.count:
            break
        gained = {(slot.node, slot.device) for slot in each.slots if takes(slot)} - devices
        if gained and each.priority < claim.priority and terms.allow(each, now) and claim.cause(each):
            chosen.append(each)
            devices |= gained
    return chosen if len(devices) >= claim.demand.count else []
