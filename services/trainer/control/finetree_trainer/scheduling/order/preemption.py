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
    """Choose the trainings to preempt for a job, on the node where the fewest suffice; none where they suffice nowhere.

    `free` are slots that nobody holds, `leaving` those of jobs that are about to end their attempts anyway. Lower
    priorities yield first, then those that have been at work for the shortest time.
    """
    there = [slot for slot in (*free, *leaving) if claim.demand.takes(slot)]
    ready: dict[str, set[str]] = {}
    for slot in there:
        ready.setdefault(slot.node, set()).add(slot.device)
    if any(len(devices) >= claim.demand.count for devices in ready.values()):
        return []  # it need only wait for them
    by_node: dict[str, list[Running]] = {}
    for each in sorted(running, key=lambda each: (each.priority, -each.started, each.uid)):
        slots = [slot for slot in each.slots if claim.demand.takes(slot)]
        if slots and each.priority < claim.priority and terms.allow(each, now) and claim.cause(each):
            by_node.setdefault(slots[0].node, []).append(each)
    chosen = [_enough(claim, each, ready.get(node, set())) for node, each in sorted(by_node.items())]
    return min((each for each in chosen if each), key=len, default=[])


def _enough(claim: Claim, running: Iterable[Running], ready: Collection[str]) -> list[Running]:
    """Choose the first of those that may yield on a node, until they suffice; none where they do not."""
    devices, chosen = set(ready), list[Running]()
    for each in running:
        if len(devices) < claim.demand.count:
            chosen.append(each)
            devices |= {slot.device for slot in each.slots}
    return chosen if len(devices) >= claim.demand.count else []
