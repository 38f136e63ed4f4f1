# SPDX-License-Identifier: Apache-2.0
"""A seccomp filter: system calls that no task needs, and sockets of other families than those that it needs, fail.

The filter is a program of classic BPF that the kernel runs before each system call (seccomp(2), and
Documentation/userspace-api/seccomp_filter.rst). It lets everything pass that it does not name: libraries and drivers
use new calls with each version. What it names gives access to other processes, to the kernel or to the machine.
"""

import ctypes
import errno
import struct
from collections.abc import Iterable

from finetree_data.confinement.syscalls import call, numbers

DENIED = (
    # Other processes' memory, descriptors and threads.
    *("ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "pidfd_getfd", "kcmp"),
    # File systems and namespaces: a folder could be put in the place of another one.
    *("mount", "umount2", "pivot_root", "chroot", "open_tree", "open_tree_attr", "move_mount", "fsopen", "fsconfig"),
    *("fsmount", "fspick", "mount_setattr", "unshare", "setns", "swapon", "swapoff", "quotactl", "quotactl_fd"),
    # Files by handle, past all folders; and watching whole file systems.
    *("name_to_handle_at", "open_by_handle_at", "fanotify_init"),
    # The kernel itself: parts that many of its vulnerabilities were in.
    *("bpf", "perf_event_open", "userfaultfd", "add_key", "request_key", "keyctl"),
    *("init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load"),
    # The machine.
    *("reboot", "acct", "syslog", "settimeofday", "clock_settime", "adjtimex", "clock_adjtime"),
    *("sethostname", "setdomainname", "iopl", "ioperm", "vhangup"),
)
"""Calls that fail with EPERM."""
UNKNOWN = ("io_uring_setup", "io_uring_enter", "io_uring_register", "clone3")
"""Calls that fail with ENOSYS, on which libraries go on without them. io_uring does what it is asked past this filter,
and the flags of clone3 are in memory, where a filter cannot look; the C library uses clone then."""
IGNORED = ("chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "lchown", "fchown", "fchownat")
"""Calls that do nothing and say that all is well. Landlock leaves them to a file's owner, which is the worker for the
data folder and, as root, for the system's programs. Libraries copy modes with files; theirs are private anyway."""
NEW_NAMESPACES = 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000 | 0x00020000
"""CLONE_NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET and NEWNS: flags that clone fails with."""
AF_UNIX, AF_INET, AF_INET6, AF_NETLINK = 1, 2, 10, 16
LOCAL_FAMILIES = (AF_UNIX, AF_NETLINK)
"""Families of sockets that reach this machine alone; drivers and the C library ask the kernel by netlink."""

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""AUDIT_ARCH_X86_64 and AUDIT_ARCH_AARCH64 (linux/audit.h)."""
_X32 = 0x40000000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
"""BPF_LD|W|ABS, JMP|JEQ|K, JMP|JGE|K, JMP|JSET|K, RET|K (linux/bpf_common.h)."""
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
"""Offsets in struct seccomp_data; both architectures are little-endian, so that 16 is the argument's low half."""
_SET_MODE_FILTER, _ALL_THREADS = 1, 1


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def program(architecture: str, families: Iterable[int]) -> bytes:
    """Build the filter of an architecture; sockets of `families` can be made. Raises OSError ENOSYS for other ones."""
    known = numbers(architecture)
    if not known:
        raise OSError(errno.ENOSYS, f"no table of system calls for {architecture}")
    denied, unknown = _fail(errno.EPERM), _fail(errno.ENOSYS)
    code = [
        _statement(_LOAD, _ARCHITECTURE),
        # A process can make the calls of another architecture, whose numbers mean something else.
        *_unless_equal(_ARCHITECTURES[architecture], denied),
        _statement(_LOAD, _NUMBER),
    ]
    if architecture == "x86_64":
        code += [_jump(_AT_LEAST, _X32, 0, 1), unknown]
    for name in DENIED:
        if name in known:
            code += [_jump(_EQUAL, known[name], 0, 1), denied]
    for name in IGNORED:
        if name in known:
            code += [_jump(_EQUAL, known[name], 0, 1), _fail(0)]
    for name in UNKNOWN:
        code += [_jump(_EQUAL, known[name], 0, 1), unknown]
    code += [
        _jump(_EQUAL, known["clone"], 0, 4),
        _statement(_LOAD, _FIRST_ARGUMENT),
        _jump(_ANY_BIT, NEW_NAMESPACES, 0, 1),
        denied,
        _statement(_RETURN, _ALLOW),
        _jump(_EQUAL, known["socket"], 0, 2 * len(tuple(families)) + 2),
        _statement(_LOAD, _FIRST_ARGUMENT),
    ]
    for family in families:
        code += [_jump(_EQUAL, family, 0, 1), _statement(_RETURN, _ALLOW)]
    code += [_fail(errno.EACCES), _statement(_RETURN, _ALLOW)]
    return b"".join(code)


def install(code: bytes) -> None:
    """Install a filter for all threads of this process, for ever. Raises OSError. Needs no_new_privs."""
    filter_ = _Program(len(code) // 8, code)
    call("seccomp", _SET_MODE_FILTER, _ALL_THREADS, ctypes.byref(filter_))


def _statement(code: int, value: int) -> bytes:
    return struct.pack("<HBBI", code, 0, 0, value)


def _jump(code: int, value: int, if_true: int, if_false: int) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, value)


def _unless_equal(value: int, otherwise: bytes) -> tuple[bytes, bytes]:
    return _jump(_EQUAL, value, 1, 0), otherwise


def _fail(number: int) -> bytes:
    return _statement(_RETURN, _ERRNO | number)
