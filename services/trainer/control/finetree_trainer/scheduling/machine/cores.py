# SPDX-License-Identifier: Apache-2.0
"""Processors that this process may use, and how CPU slots divide them: by physical cores, so that no two slots meet.

Two threads of one physical core share its arithmetic units. Two workers whose threads met there, or that the scheduler
moved onto each other's cores, would wait for each other by spinning, which costs both more than half of their speed.
"""

import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from finetree_trainer.scheduling.machine.cgroups import ControlGroups

_TOPOLOGY = Path("/sys/devices/system/cpu")


def usable_processors() -> list[int]:
    """Ids of the processors that this process may run on; cpusets of containers included."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def usable_cores(groups: ControlGroups | None = None) -> int:
    """Processors that this process may use: its affinity, cut by the control group's quota; 1 at least."""
    quota = (groups or ControlGroups()).processors()
    return max(1, int(min(len(usable_processors()), quota)))


def physical_cores(processors: Iterable[int], topology: Path = _TOPOLOGY) -> list[list[int]]:
    """Group processors by the physical core that they are threads of; each by itself where that is not known."""
    cores: dict[str, list[int]] = {}
    for processor in sorted(processors):
        try:
            key = (topology / f"cpu{processor}/topology/thread_siblings_list").read_text(encoding="ascii").strip()
        except OSError:
            key = str(processor)
        cores.setdefault(key, []).append(processor)
    return list(cores.values())


def divide(cores: Sequence[Sequence[int]], slots: int) -> list[list[int]]:
    """Divide physical cores among slots, neighbours together; none is in two slots, and what is left over is spread.

    Empty where there are fewer cores than slots: then nothing is gained by keeping them apart.
    """
    if len(cores) < slots:
        return []
    bounds = [len(cores) * number // slots for number in range(slots + 1)]
    shares = (cores[first:last] for first, last in itertools.pairwise(bounds))
    return [sorted(processor for core in share for processor in core) for share in shares]


def shares(slots: int, threads: int) -> list[list[int]]:
    """Processors of each slot of so many threads; empty where workers are better left to the system's scheduler.

    That is so with one slot, under a quota (which says how much, not where: others may be bound to the same ones), and
    where the slots have more threads than there are processors for them.
    """
    processors = usable_processors()
    if slots < 2 or ControlGroups().processors() < len(processors):
        return []
    found = divide(physical_cores(processors), slots)
    return found if all(len(share) >= threads for share in found) else []
