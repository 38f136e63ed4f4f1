# SPDX-License-Identifier: Apache-2.0
"""Who had the machine between two moments: this process, others, the kernel, a limit, the disk. Linux's counters.

proc_pid_schedstat, proc_stat and proc_vmstat of man 5; cpu.stat of both versions of control groups; pressure stall
information and thermal_throttle of the kernel's documentation.
"""

import os
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_BUSY = (0, 1, 2, 5, 6)
"""Fields of /proc/stat that are work of this machine: user, nice, system, irq, softirq."""
_STEAL = 7
_SELF, _GROUPS = Path("/proc/self"), Path("/sys/fs/cgroup")
_PROCESSORS = Path("/sys/devices/system/cpu")


@dataclass(frozen=True, slots=True)
class Usage:
    """Counters at one moment; seconds, but faults and `swapped_pages`, which are counts."""

    wall: float
    own: float
    """CPU time of this process, all its threads together."""
    own_kernel: float
    major_faults: int
    minor_faults: int
    waited: float
    """Time that its threads were ready and waited for a processor, all of them together."""
    busy: float
    """CPU time of all processes."""
    stolen: float
    """CPU time that the hypervisor gave to other machines."""
    throttled: float
    """Time for which the container's limit kept its threads waiting."""
    heated: float
    """Time for which a core ran slower since it was too hot, of the core with most."""
    starved: float
    """Time for which all processes that had work waited for memory."""
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
            minor_faults=own.ru_minflt,
            waited=_waited(),
            busy=sum(fields[i] for i in _BUSY),
            stolen=fields[_STEAL],
            throttled=_throttled(),
            heated=_heated(),
            starved=_starved(),
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
            # Threads that have ended take what they waited with them.
            waited=max(0.0, self.waited - before.waited) / (wall * threads),
            heated=(self.heated - before.heated) / wall,
            starved=(self.starved - before.starved) / wall,
            major_faults=(self.major_faults - before.major_faults) / wall,
            minor_faults=(self.minor_faults - before.minor_faults) / wall,
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
    waited: float
    """Of the threads that the process may use: ready, without a processor."""
    heated: float
    starved: float
    major_faults: float
    minor_faults: float
    swapped_pages: float


def _machine() -> list[float]:
    """CPU seconds since the start of the machine, by kind."""
    line = next((text for text in _lines("/proc/stat") if text.startswith("cpu ")), "")
    ticks = [int(word) for word in line.split()[1:]]
    return [value / os.sysconf("SC_CLK_TCK") for value in ticks] + [0.0] * (10 - len(ticks))


def _waited() -> float:
    """Sum over the threads of the time on a run queue: the second field of schedstat, nanoseconds."""
    fields = (line.split() for path in _SELF.glob("task/*/schedstat") for line in _lines(str(path)))
    return sum(int(words[1]) for words in fields if len(words) > 1) / 1e9


def _throttled() -> float:
    """Time of the group that was held back most, of this process's and those above it: each may have a limit."""
    return max((_group_throttled(folder) for folder in _cpu_groups()), default=0.0)


def _cpu_groups() -> Iterator[Path]:
    """Folders of the control groups that share out processor time, in the version that the system has."""
    for line in _lines(str(_SELF / "cgroup")):
        _, controllers, group = (*line.split(":", 2), "", "")[:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = _GROUPS / "cpu" if controllers else _GROUPS
        folder = root / group.strip("/")
        yield folder
        yield from (parent for parent in folder.parents if parent.is_relative_to(root))


def _group_throttled(folder: Path) -> float:
    stat = str(folder / "cpu.stat")
    # Microseconds in version 2, nanoseconds in version 1.
    return _counter(stat, "throttled_usec") / 1e6 or _counter(stat, "throttled_time") / 1e9


def _heated() -> float:
    names = _PROCESSORS.glob("cpu*/thermal_throttle/core_throttle_total_time_ms")
    return max((int(line) for path in names for line in _lines(str(path))[:1]), default=0) / 1e3


def _starved() -> float:
    """Pressure stall information: `full ... total=` is in microseconds."""
    line = next((text for text in _lines("/proc/pressure/memory") if text.startswith("full ")), "")
    return int(line.rpartition("total=")[2] or "0") / 1e6


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
