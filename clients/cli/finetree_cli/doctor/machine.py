# SPDX-License-Identifier: Apache-2.0
"""The machine: disk, memory, open files, shared memory."""

import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

from finetree_cli.doctor.finding import Finding, Installation, Level
from finetree_cli.doctor.gpus import gpus

SUBJECT = "machine"
GIB = 1024**3
FREE_DISK = (1 * GIB, 20 * GIB)
"""Free bytes below which it is a problem, and a warning: a base of 7B in 16 bits has 14 GB, and each export again."""
FREE_MEMORY = (1 * GIB, 3 * GIB)
"""Memory that can be used, likewise: importing the training libraries takes 0.9 GB."""
OPEN_FILES = 4096
"""As many streams as a service takes (`--max-streams`), each a file where they come over connections of their own."""
SHARED_MEMORY = GIB
"""What NCCL may need on /dev/shm with several GPUs; a container has 64 MiB unless it is told otherwise."""
_REMOTE = ("nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "lustre", "fuse.sshfs", "fuse.s3fs")
"""File systems whose locks and shared memory SQLite's write-ahead log cannot rely on (sqlite.org/wal.html)."""


def check(installation: Installation) -> Iterator[Finding]:
    """Check what training and the services need of the machine."""
    folder = existing(installation.data_dir)
    yield disk(shutil.disk_usage(folder).free)
    yield file_system(file_system_of(folder.resolve(), Path("/proc/mounts").read_text(encoding="utf-8")))
    yield memory(usable_memory())
    yield open_files(resource.getrlimit(resource.RLIMIT_NOFILE))
    shared = Path("/dev") / "shm"
    if shared.is_dir() and _several_gpus():
        yield shared_memory(shutil.disk_usage(shared).total)


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def disk(free: int) -> Finding:
    """Judge the free bytes on the disk of the data folder."""
    text = f"{free / GIB:.1f} GiB are free on the disk of the data folder"
    return _graded(
        "disk", free, FREE_DISK, text, "finetree storage shows what takes room; free some, or move the folder"
    )


def memory(usable: int) -> Finding:
    """Judge the bytes of memory that programs can still get."""
    text = f"{usable / GIB:.1f} GiB of memory can be used"
    return _graded("memory", usable, FREE_MEMORY, text, "end other programs, or raise the container's limit")


def _graded(name: str, value: int, limits: tuple[int, int], text: str, remedy: str) -> Finding:
    if value >= limits[1]:
        return Finding(SUBJECT, name, Level.OK, text)
    return Finding(SUBJECT, name, Level.PROBLEM if value < limits[0] else Level.WARNING, text, remedy)


def file_system(kind: str) -> Finding:
    """Judge the kind of file system that the data folder is on."""
    if kind in _REMOTE:
        text = f"the data folder is on {kind}: the database needs a disk of this machine, or it will be damaged"
        return Finding(SUBJECT, "file system", Level.PROBLEM, text, "move the data folder to a local disk")
    if kind in ("tmpfs", "ramfs"):
        text = f"the data folder is on {kind}: everything in it is lost when the machine stops"
        return Finding(SUBJECT, "file system", Level.WARNING, text, "name a folder on a disk with --data-dir")
    return Finding(SUBJECT, "file system", Level.OK, f"the data folder is on {kind or 'an unknown file system'}")


def file_system_of(folder: Path, mounts: str) -> str:
    """Kind of the file system of a folder, from the text of /proc/mounts; the last mount of the longest path holds."""
    best, kind = "", ""
    for line in mounts.splitlines():
        fields = line.split()
        place = fields[1].replace("\\040", " ") if len(fields) > 2 else ""
        if place and folder.is_relative_to(place) and len(place) >= len(best):
            best, kind = place, fields[2]
    return kind


def usable_memory() -> int:
    """Bytes that programs can still get: of the machine, or of this container's limit where that is less."""
    text = Path("/proc/meminfo").read_text(encoding="ascii")
    free = next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("MemAvailable:"))
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = ((group / name).read_text(encoding="ascii").strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return free
    return min(free, int(limit) - int(used)) if limit.isdecimal() else free


def open_files(limits: tuple[int, int]) -> Finding:
    """Judge how many files a process may open: the soft and the hard limit."""
    soft, hard = limits
    if 0 <= soft < OPEN_FILES:
        text = f"a process may open {soft} files; watchers and connections need one each"
        remedy = f"ulimit -n {OPEN_FILES}" if hard < 0 or hard >= OPEN_FILES else "raise nofile in limits.conf"
        return Finding(SUBJECT, "open files", Level.WARNING, text, f"{remedy} (LimitNOFILE= in a systemd unit)")
    return Finding(
        SUBJECT, "open files", Level.OK, f"a process may open {soft if soft >= 0 else 'any number of'} files"
    )


def shared_memory(size: int) -> Finding:
    """Judge the size of /dev/shm where several GPUs train together."""
    text = f"{size / GIB:.1f} GiB on /dev/shm"
    if size < SHARED_MEMORY:
        text = f"{text}; GPUs that train together exchange gradients through it"
        return Finding(SUBJECT, "shared memory", Level.WARNING, text, "run the container with --shm-size 1g or more")
    return Finding(SUBJECT, "shared memory", Level.OK, text)


def _several_gpus() -> bool:
    try:
        return len(gpus()) > 1
    except ValueError:
        return False
