# SPDX-License-Identifier: Apache-2.0
"""The filter of system calls, run as the kernel runs it, for each architecture."""

import errno
import struct

import pytest
from finetree_data.confinement import seccomp
from finetree_data.confinement.syscalls import numbers

AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOWED = 0x7FFF0000
ARCHITECTURES = pytest.mark.parametrize("architecture", AUDIT)


def run(code: bytes, number: int, argument: int = 0, *, audit: int) -> int:
    """Run a program of classic BPF over struct seccomp_data; what it returns."""
    data = struct.pack("<IIQQ", number, audit, 0, argument)
    steps = list(struct.iter_unpack("<HBBI", code))
    at = accumulator = 0
    while True:
        operation, if_true, if_false, value = steps[at]
        at += 1
        match operation:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, value)
            case 0x06:
                return value
            case 0x15 | 0x35 | 0x45:
                holds = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}
                at += if_true if holds[operation] else if_false
            case _:
                raise AssertionError(operation)


def verdict(architecture: str, name: str, argument: int = 0, families: tuple[int, ...] = (1, 16)) -> int:
    """What the filter says of a call: 0 for allowed, else the errno; -1 for a call that is ignored."""
    code = seccomp.program(architecture, families)
    found = run(code, numbers(architecture)[name], argument, audit=AUDIT[architecture])
    if found == ALLOWED:
        return 0
    assert found >> 16 == 5
    return found & 0xFFFF or -1


@ARCHITECTURES
def test_calls_into_other_processes_and_the_kernel_fail(architecture):
    known = numbers(architecture)
    assert {verdict(architecture, name) for name in seccomp.DENIED if name in known} == {errno.EPERM}
    for name in ("ptrace", "mount", "bpf", "keyctl", "perf_event_open", "kexec_load", "init_module", "unshare"):
        assert name in known
    assert {verdict(architecture, name) for name in seccomp.UNKNOWN} == {errno.ENOSYS}
    assert {verdict(architecture, name) for name in seccomp.IGNORED if name in known} == {-1}


@ARCHITECTURES
def test_sockets_of_this_machine_alone_can_be_made(architecture):
    families = {family: verdict(architecture, "socket", family) for family in (1, 2, 10, 16, 17, 38, 40)}
    assert families == {1: 0, 16: 0, 2: errno.EACCES, 10: errno.EACCES, 17: errno.EACCES, 38: 13, 40: 13}
    assert verdict(architecture, "socket", 10, (1, 2, 10, 16)) == 0


@ARCHITECTURES
def test_threads_and_children_can_be_made_and_namespaces_cannot(architecture):
    # What the C library passes for a thread, and for a child.
    assert verdict(architecture, "clone", 0x3D0F00) == 0
    assert verdict(architecture, "clone", 0x01200011) == 0
    for flag in (0x00020000, 0x10000000, 0x40000000):
        assert verdict(architecture, "clone", flag | 17) == errno.EPERM


@ARCHITECTURES
def test_what_is_not_named_passes_and_other_architectures_do_not(architecture):
    code = seccomp.program(architecture, (1,))
    assert run(code, numbers(architecture)["landlock_add_rule"], audit=AUDIT[architecture]) == ALLOWED
    assert run(code, 0, audit=AUDIT[architecture]) == ALLOWED
    # int 0x80 on x86-64: number 11 is execve there, munmap here.
    assert run(code, 11, audit=0x40000003) == 0x00050000 | errno.EPERM


def test_the_x32_numbers_of_the_same_calls_fail():
    code = seccomp.program("x86_64", (1,))
    assert run(code, 0x40000000 | numbers("x86_64")["ptrace"], audit=AUDIT["x86_64"]) == 0x00050000 | errno.ENOSYS


def test_an_architecture_without_a_table_is_said_to_have_none():
    with pytest.raises(OSError, match="riscv64"):
        seccomp.program("riscv64", (1,))
