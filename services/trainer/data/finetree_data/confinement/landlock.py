# SPDX-License-Identifier: Apache-2.0
"""Landlock: a process gives up access to all files but those that are named, for itself and all that it starts.

See landlock(7) and the kernel's Documentation/userspace-api/landlock.rst. A rule belongs to a file or a folder with all
that is in it; a link is followed to where it leads, so that a link out of a folder leads to what no rule names.
"""

import ctypes
import enum
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from finetree_data.confinement.syscalls import call


class Access(enum.IntFlag):
    """Rights of the kernel's include/uapi/linux/landlock.h, LANDLOCK_ACCESS_FS_*."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13
    TRUNCATE = 1 << 14
    IOCTL_DEV = 1 << 15
    RESOLVE_UNIX = 1 << 16


READ = Access.READ_FILE | Access.READ_DIR
RUN = READ | Access.EXECUTE
# No links: whoever serves a file of such a folder could be led out of it. No device files, pipes or sockets either.
WRITE = (
    READ
    | Access.WRITE_FILE
    | Access.TRUNCATE
    | Access.MAKE_DIR
    | Access.MAKE_REG
    | Access.REMOVE_DIR
    | Access.REMOVE_FILE
    | Access.REFER
)
TEMPORARY = WRITE | Access.MAKE_SOCK | Access.MAKE_FIFO | Access.RESOLVE_UNIX
DEVICE = READ | Access.WRITE_FILE | Access.IOCTL_DEV
OWN_PROCESS = READ | Access.WRITE_FILE | Access.TRUNCATE

_FILE_RIGHTS = (
    Access.EXECUTE | Access.WRITE_FILE | Access.READ_FILE | Access.TRUNCATE | Access.IOCTL_DEV | Access.RESOLVE_UNIX
)
_SINCE = {Access.REFER: 2, Access.TRUNCATE: 3, Access.IOCTL_DEV: 5, Access.RESOLVE_UNIX: 9}
"""First ABI of each right; the others are of ABI 1 (Linux 5.13)."""
NETWORK_ABI, SCOPE_ABI, ALL_THREADS_ABI = 4, 6, 8
_BIND_TCP, _CONNECT_TCP = 1 << 0, 1 << 1
_SCOPE_ABSTRACT_SOCKETS, _SCOPE_SIGNALS = 1 << 0, 1 << 1
_VERSION, _PATH_BENEATH, _TSYNC = 1 << 0, 1, 1 << 3


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


@dataclass(frozen=True, slots=True)
class Rule:
    """What may be done with a file, or with a folder and all in it."""

    path: str
    access: Access


def abi() -> int:
    """Return the version of the kernel's Landlock; 0 where there is none, or it is switched off."""
    with suppress(OSError):
        return call("landlock_create_ruleset", None, 0, _VERSION)
    return 0


def handled(version: int) -> Access:
    """Return the rights that a version of Landlock controls."""
    return Access(sum(right for right in Access if _SINCE.get(right, 1) <= version))


def gaps(version: int) -> str:
    """Say what of the access to files a version does not control; empty where that is nothing."""
    found = []
    if version < _SINCE[Access.TRUNCATE]:
        found.append("files elsewhere can be truncated")
    if version < _SINCE[Access.IOCTL_DEV]:
        found.append("device files can be controlled by ioctl")
    return " and ".join(found)


def restrict(
    rules: Iterable[Rule],
    *,
    version: int,
    network: bool = True,
    ports: bool = False,
    scope: bool = False,
    all_threads: bool = False,
) -> None:
    """Restrict this thread, those that it starts and their processes to the rules; paths that are missing are left out.

    `network`: whether TCP connections may be opened; `ports`: whether ports may be bound. Both where `version` controls
    them.
    `scope`: signals and abstract Unix sockets reach no process outside. `all_threads` restricts the process's other
    threads, too, and needs ALL_THREADS_ABI. Raises OSError; then nothing is restricted.
    """
    known = handled(version)
    attributes = _Ruleset(int(known), 0, 0)
    if version >= NETWORK_ABI:
        attributes.handled_access_net = (0 if ports else _BIND_TCP) | (0 if network else _CONNECT_TCP)
    if scope and version >= SCOPE_ABI:
        attributes.scoped = _SCOPE_ABSTRACT_SOCKETS | _SCOPE_SIGNALS
    # Earlier kernels know a shorter structure and refuse a longer one only where the rest is not zero.
    ruleset = call("landlock_create_ruleset", ctypes.byref(attributes), ctypes.sizeof(attributes), 0)
    try:
        for rule in rules:
            _add(ruleset, rule, known)
        call("landlock_restrict_self", ruleset, _TSYNC if all_threads else 0)
    finally:
        os.close(ruleset)


def _add(ruleset: int, rule: Rule, known: Access) -> None:
    try:
        descriptor = os.open(rule.path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        access = rule.access & known
        if not os.path.isdir(descriptor):  # noqa: PTH112 - a descriptor has no Path
            access &= _FILE_RIGHTS
        if access:
            beneath = _PathBeneath(int(access), descriptor)
            call("landlock_add_rule", ruleset, _PATH_BENEATH, ctypes.byref(beneath), 0)
    finally:
        os.close(descriptor)
