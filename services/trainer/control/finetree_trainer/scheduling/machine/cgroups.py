# SPDX-License-Identifier: Apache-2.0
"""Limits of the control groups that this process is in: a container's memory and processors, not the machine's.

Linux, versions 1 and 2. A limit may stand at any group from the process's own up to the root; the tightest one counts.
Processors that a group does not allow (cpuset) are missing from the process's affinity already.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_UNLIMITED = 1 << 60
"""Version 1 writes no limit as the largest multiple of a page, 2**63 - 4096."""


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """The limit of a group and what can still be allocated under it, bytes."""

    limit: int
    free: int


class ControlGroups:
    """The groups of this process, as /proc/self/cgroup names them."""

    def __init__(self, root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> None:
        self._root, self._membership = root, membership

    def memory(self) -> list[MemoryLimit]:
        """Every limit of memory that applies; pages of files that are not in use count as free. Swap never counts."""
        found = []
        for folder in self._folders("memory"):
            second = (folder / "memory.current").exists()
            limits = ("memory.max", "memory.high") if second else ("memory.limit_in_bytes",)
            limit = min((_number(folder / name) for name in limits), default=_UNLIMITED)
            if limit >= _UNLIMITED:
                continue
            used = _number(folder / ("memory.current" if second else "memory.usage_in_bytes"))
            cached = _counter(folder / "memory.stat", "inactive_file" if second else "total_inactive_file")
            found.append(MemoryLimit(limit, max(0, limit - max(0, used - cached))))
        return found

    def processors(self) -> float:
        """Processors that the tightest quota of processor time comes to; infinity without one."""
        found = float("inf")
        for folder in self._folders("cpu"):
            words = _text(folder / "cpu.max").split()
            if not words:
                words = [_text(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
            if len(words) == 2 and words[0].isdecimal() and words[1].isdecimal() and int(words[1]):
                found = min(found, int(words[0]) / int(words[1]))
        return found

    def _folders(self, controller: str) -> Iterator[Path]:
        """Folders of the groups of a controller, the process's own first; of version 1 where it has that controller."""
        groups = {}
        for line in _text(self._membership).splitlines():
            _, names, path = line.split(":", 2)
            for name in names.split(","):
                groups[name] = path
        base = self._root / controller if controller in groups else self._root
        path = groups.get(controller, groups.get("", "/"))
        if not (base / path.lstrip("/")).is_dir():
            # Named as the machine outside of the container sees it: what is mounted here is the container's own.
            path = "/"
        folder = base / path.lstrip("/")
        yield folder
        while folder != base:
            folder = folder.parent
            yield folder


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""


def _number(file: Path) -> int:
    text = _text(file).strip()
    return int(text) if text.isdecimal() else _UNLIMITED


def _counter(file: Path, name: str) -> int:
    words = (line.split() for line in _text(file).splitlines())
    return next((int(word[1]) for word in words if len(word) == 2 and word[0] == name and word[1].isdecimal()), 0)
