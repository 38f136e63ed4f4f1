# SPDX-License-Identifier: Apache-2.0
"""What a process may do to the system: no privileges by programs that it starts, no capabilities, no network."""

import ctypes
import errno
import fcntl
import os
import socket
import struct
from contextlib import suppress
from pathlib import Path

from finetree_data.confinement.syscalls import call, prctl

_NO_NEW_PRIVS, _DROP_BOUNDING, _AMBIENT, _CLEAR_ALL = 38, 24, 47, 4
_DUMPABLE = 4
_CAPABILITY_VERSION = 0x20080522
"""_LINUX_CAPABILITY_VERSION_3 (linux/capability.h)."""
DAC_READ_SEARCH = 2
_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000
_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 0x1
"""SIOCGIFFLAGS, SIOCSIFFLAGS and IFF_UP: netdevice(7)."""


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def give_up_new_privileges() -> None:
    """From now on no program that this process starts has more privileges than it. Raises OSError."""
    prctl(_NO_NEW_PRIVS, 1)


def drop_capabilities() -> None:
    """Give up all capabilities for ever; root keeps that of reading files of other owners. Raises OSError.

    A service that runs as root may have been given models of other users; what of the files a worker may read is
    Landlock's to say.
    """
    kept = 1 << DAC_READ_SEARCH if os.geteuid() == 0 else 0
    _empty_bounding_set()
    with suppress(OSError):
        prctl(_AMBIENT, _CLEAR_ALL)
    kept &= effective()
    header, sets = _Header(_CAPABILITY_VERSION, 0), (_Sets * 2)()
    sets[0] = _Sets(kept, kept, 0)
    call("capset", ctypes.byref(header), ctypes.byref(sets))


def become(user: int, group: int) -> None:
    """Become another user, with one group and no capabilities, for ever. Raises OSError; the process has to end then.

    Only root can. It is checked afterwards: a program that believes that it is somebody else is worse than none.
    """
    # Also loads what Python reads such files with: its folder may be closed to that user, which is for others to say.
    if not effective():
        raise PermissionError(errno.EPERM, "only root can become another user")
    _empty_bounding_set()
    os.setgroups([])
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)
    drop_capabilities()
    give_up_new_privileges()
    # The kernel takes a process that was another user for one that knows secrets, and gives its own files in /proc to
    # root; a worker reads and resets its peak of memory there.
    prctl(_DUMPABLE, 1)
    if os.getresuid() != (user,) * 3 or os.getresgid() != (group,) * 3 or os.getgroups() or effective():
        raise PermissionError(errno.EPERM, "the system let it become this user in part")
    for name, back in (("user", os.setuid), ("group", os.setgid)):
        try:
            back(0)
        except PermissionError:
            continue
        raise PermissionError(errno.EPERM, f"the system let it take root's {name} again")


def _empty_bounding_set() -> None:
    for number in range(64):
        # Without CAP_SETPCAP they stay in the bounding set, of which nobody without new privileges gets any.
        with suppress(OSError):
            prctl(_DROP_BOUNDING, number)


def effective() -> int:
    """Return this process's effective capabilities as a set of bits."""
    return int(_status("CapEff:") or "0", 16)


def leave_network() -> None:
    """Move this process into a network of its own, which has no interfaces. Raises OSError.

    Who may not do that makes a user namespace first, in which it is the same user; that needs a single thread. A
    process for which this fails may be nobody afterwards, and has to end: it is tried in another one first.
    """
    try:
        call("unshare", _NEW_NETWORK)
    except PermissionError:
        user, group = os.geteuid(), os.getegid()
        call("unshare", _NEW_USER | _NEW_NETWORK)
        # Without the maps the process would be nobody, who may not use its own files.
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1", encoding="ascii")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1", encoding="ascii")


def raise_loopback() -> None:
    """Switch the loopback interface of this process's own network on. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(any_socket, _GET_FLAGS, request))[1]
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sh14x", b"lo", flags | _UP))


def _status(field: str) -> str:
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next((line.split()[1] for line in lines if line.startswith(field)), "")
