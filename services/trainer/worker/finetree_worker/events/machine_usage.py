# SPDX-License-Identifier: Apache-2.0
"""Who had the machine between two moments: this process, others, the kernel, a limit, the disk. Linux's counters."""

import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path

_BUSY = (0, 1, 2, 5, 6)
"""Fields of /proc/stat that are work of this machine: user, nice, system, irq, softirq."""
_STEAL = 7


@dataclass(frozen=True, slots=True)
class Usage:
    """Counters at one moment; seconds, but `major_faults` and `swapped_pages`, which are counts."""

    wall: float
    own: float
    """CPU time of this process, all its threads together."""
    own_kernel: float
    major_faults: int
    busy: float
    """CPU time of all processes."""
    stolen: float
    """CPU time that the hypervisor gave to other machines."""
    throttled: float
    """Time for which the container's limit kept its threads waiting."""
    swapped_pages: int

    @classmethod
    def now(cls) -> "Usage":
        """Read the counters; one that the system does not have is 0."""
        own = resource.getrusage(resource.RUSAGE_SELF)
        fields = _machine()
        return cls(
            wall=time.perf_counter(),
            own=own.ru_utime + own.ru_stime,
            own_kernel=own.ru_stime,
            major_faults=own.ru_majflt,
            busy=sum(fields[i] for i in _BUSY),
            stolen=fields[_STEAL],
            throttled=_throttled(),
            swapped_pages=_swapped(),
        )

    def since(self, before: "Usage", *, cores: int, threads: int) -> "Shares":
        """Return what was used between two moments, of `cores` of the machine and `threads` of this process."""
        wall = max(self.wall - before.wall, 1e-9)
        own = self.own - before.own
        return Shares(
            own=own / (wall * threads),
            kernel=(self.own_kernel - before.own_kernel) / max(own, 1e-9),
            others=max(0.0, self.busy - before.busy - own) / (wall * cores),
            stolen=(self.stolen - before.stolen) / (wall * cores),
            throttled=(self.throttled - before.throttled) / (wall * threads),
            major_faults=(self.major_faults - before.major_faults) / wall,
            swapped_pages=(self.swapped_pages - before.swapped_pages) / wall,
        )


@dataclass(frozen=True, slots=True)
class Shares:
    """What was used between two moments: shares from 0 to 1, faults and pages a second."""

    own: float
    """Of the threads that the process may use."""
    kernel: float
    """Of the process's own CPU time."""
    others: float
    """Of the machine's cores."""
    stolen: float
    throttled: float
    major_faults: float
    swapped_pages: float


def _machine() -> list[float]:
    """CPU seconds since the start of the machine, by kind."""
    line = next((text for text in _lines("/proc/stat") if text.startswith("cpu ")), "")
    ticks = [int(word) for word in line.split()[1:]]
    return [value / os.sysconf("SC_CLK_TCK") for value in ticks] + [0.0] * (10 - len(ticks))


def _throttled() -> float:
    group = next((text.split("::", 1)[1] for text in _lines("/proc/self/cgroup") if "::" in text), "")
    return _counter(f"/sys/fs/cgroup{group.rstrip('/')}/cpu.stat", "throttled_usec") / 1e6


def _swapped() -> int:
    return _counter("/proc/vmstat", "pswpin") + _counter("/proc/vmstat", "pswpout")


def _counter(path: str, name: str) -> int:
    found = (text.split()[1] for text in _lines(path) if text.startswith(f"{name} "))
    return int(next(found, "0"))


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:  # another system, or a container without it
        return []
