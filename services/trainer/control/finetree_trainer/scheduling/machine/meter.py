# SPDX-License-Identifier: Apache-2.0
"""Reads who uses the machine at one moment: memory of the host and of each GPU, processor time, by session.

A worker is the leader of a session of its own, so that what its session uses is what it and all that it started use.
"""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psutil

from finetree_trainer.scheduling.machine.cgroups import ControlGroups
from finetree_trainer.scheduling.machine.nvml import Gpu, Gpus, GpuUse

_BUSY = (0, 1, 2, 5, 6)
"""Fields of /proc/stat that are work of this machine: user, nice, system, irq, softirq."""


@dataclass(frozen=True, slots=True)
class Session:
    """Resident memory of the processes of a session, bytes, and the processor time that they have used, seconds."""

    memory: int = 0
    cpu: float = 0.0
    pids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """The machine at one moment; `total` and `free` are host memory that this service may use, bytes."""

    total: int
    free: int
    sessions: Mapping[int, Session] = field(default_factory=dict)
    gpus: Mapping[str, GpuUse] = field(default_factory=dict)
    """By the device's id."""
    load: float = 0.0
    """Processes that ran or waited to run, mean of the last minute."""
    busy: float = 0.0
    """Processor time of all processes of the machine since its start, seconds."""
    at: float = 0.0
    """`time.monotonic()` of it."""
    own: int = 0
    """Resident memory of this process, bytes; its session may hold programs of others."""
    own_cpu: float = 0.0
    """Processor time of this process, seconds."""
    limited: bool = False
    """Whether the limit of a control group is below the machine's memory."""


class Meter(Protocol):
    """Reads the machine."""

    def read(self) -> Reading:
        """Look now; takes some milliseconds."""
        ...


class MachineMeter:
    """This machine, by /proc, its control groups and NVML."""

    def __init__(self, gpus: Gpus, known: Sequence[Gpu], groups: ControlGroups | None = None) -> None:
        self._gpus, self._known, self._groups = gpus, known, groups or ControlGroups()

    def read(self) -> Reading:
        """Look now: memory in use is read before what is free, so that what is given back meanwhile counts once."""
        sessions = sessions_of(Path("/proc"))
        memory, limits = psutil.virtual_memory(), self._groups.memory()
        total = min([int(memory.total), *(each.limit for each in limits)])
        return Reading(
            total=total,
            # What Linux calls available: free, or held by files and given up at once. Swap is no part of it.
            free=min([int(memory.available), total, *(each.free for each in limits)]),
            sessions=sessions,
            gpus={gpu.id: self._gpus.use(gpu) for gpu in self._known},
            load=os.getloadavg()[0],
            busy=busy_seconds(),
            at=time.monotonic(),
            own=int(psutil.Process().memory_info().rss),
            own_cpu=time.process_time(),
            limited=total < memory.total,
        )


def usable_memory(groups: ControlGroups | None = None) -> int:
    """Bytes of memory that this process may use: the machine's, cut by the limits of its control groups."""
    limits = (groups or ControlGroups()).memory()
    return min([int(psutil.virtual_memory().total), *(each.limit for each in limits)])


def sessions_of(proc: Path) -> dict[int, Session]:
    """Add up memory and processor time of all processes by session; empty where /proc is not Linux's."""
    page, tick = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
    found: dict[int, tuple[int, int, list[int]]] = {}
    for entry in proc.iterdir() if proc.is_dir() else ():
        if not entry.name.isdecimal():
            continue
        try:
            fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        # Fields of proc(5), from the third on: session, utime, stime, those of children that it has waited for, rss.
        session, ticks, pages = int(fields[3]), sum(map(int, fields[11:15])), int(fields[21])
        memory, cpu, pids = found.get(session, (0, 0, []))
        found[session] = memory + pages * page, cpu + ticks, [*pids, int(entry.name)]
    return {session: Session(memory, cpu / tick, tuple(pids)) for session, (memory, cpu, pids) in found.items()}


def busy_seconds(stat: Path = Path("/proc/stat")) -> float:
    """Processor time of all processes since the machine started, seconds; 0 where the system does not tell."""
    try:
        words = stat.read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
    except OSError:
        return 0.0
    return float(sum(int(words[place]) for place in _BUSY) / os.sysconf("SC_CLK_TCK"))
