# SPDX-License-Identifier: Apache-2.0
"""A process that is confined as a worker is, without its libraries, and then tries what a hostile model would.

Its argument is a folder that a test has prepared; it prints what became of each try, as JSON: "done", or the error.
"""

import ctypes
import errno
import json
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from finetree_data.confinement.confine import confine
from finetree_data.confinement.policy import Policy

LIBC = ctypes.CDLL(None, use_errno=True)


def system_call(number: int, *arguments: int) -> int:
    """Make a system call by its number on x86-64 or, where it is the same, on arm64."""
    result = LIBC.syscall(*(ctypes.c_long(value) for value in (number, *arguments)))
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result


def truncate(path: Path) -> None:
    """Cut a file to nothing."""
    os.truncate(path, 0)


def start_namespace() -> None:
    """Make a user namespace, from which file systems could be mounted."""
    if LIBC.unshare(0x10000000) < 0:
        raise OSError(ctypes.get_errno(), "refused")


def write_program(path: Path) -> None:
    """Write a program and run it."""
    path.write_text("#!/bin/sh\nexit 0\n", encoding="ascii")
    path.chmod(0o755)
    subprocess.run([path], check=True)


def make_readable(path: Path) -> None:
    """Open a file to all users."""
    path.chmod(0o777)
    if path.stat().st_mode & 0o077:
        raise AssertionError("it is open")
    raise OSError(errno.EPERM, "it has the mode that it had")


def connect(path: str) -> None:
    """Connect to a Unix socket."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)


def tries(root: Path) -> dict[str, Callable[[], object]]:
    """Name what is tried. What `root` holds is in the test."""
    data, own, parent = root / "data", root / "data/jobs/mine/attempts/1", os.getppid()
    return {
        "read an input": (data / "datasets/rows.jsonl").read_text,
        "write a checkpoint": lambda: (own / "weights").write_bytes(b"x"),
        "rename it": lambda: (own / "weights").rename(own.parent / "kept"),
        "write a temporary file": lambda: (root / "data/workers/w/tmp/x").write_bytes(b"x"),
        "run a program of the system": lambda: subprocess.run(["/usr/bin/env", "true"], check=True),
        "connect to the service": lambda: connect(str(data / "run/worker.sock")),
        "reset its own peak": lambda: Path("/proc/self/clear_refs").write_text("5", encoding="ascii"),
        "read the database": (data / "trainer.db").read_bytes,
        "overwrite the database": lambda: (data / "trainer.db").write_bytes(b""),
        "truncate the database": lambda: truncate(data / "trainer.db"),
        "delete the database": (data / "trainer.db").unlink,
        "replace the database": lambda: (own.parent / "kept").replace(data / "trainer.db"),
        "open the database to all": lambda: make_readable(data / "trainer.db"),
        "read a secret of the system": lambda: Path("/etc/shadow").read_bytes(),
        "read a file beside": (root / "secret").read_text,
        "write a file beside": lambda: (root / "new").write_text("x"),
        "change an input": lambda: (data / "datasets/rows.jsonl").write_text("x"),
        "change the note of its process": lambda: (data / "workers/w/process.json").write_text("x"),
        "read by a link": (data / "datasets/link").read_text,
        "make a link": lambda: (own / "link").symlink_to("/etc/shadow"),
        "make a hard link to an input": lambda: (own / "hard").hardlink_to(data / "datasets/rows.jsonl"),
        "make a pipe": lambda: os.mkfifo(own / "pipe"),
        "set a setting of the kernel": lambda: Path("/proc/sys/kernel/core_pattern").write_text("|/x"),
        "run a program that it wrote": lambda: write_program(own / "program"),
        "read the service's environment": lambda: Path(f"/proc/{parent}/environ").read_bytes(),
        "signal the service": lambda: os.kill(parent, 0),
        "connect to an abstract socket": lambda: connect("\0" + (root / "data/datasets/abstract").read_text()),
        "listen": lambda: socket.create_server(("127.0.0.1", 0)),
        "connect": lambda: socket.create_connection(("127.0.0.1", int((root / "data/datasets/port").read_text()))),
        "send a datagram": lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM),
        "make a raw socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
        "trace the service": lambda: system_call({"x86_64": 101}.get(os.uname().machine, 117), 16, parent, 0, 0),
        "make a namespace": start_namespace,
        "use io_uring": lambda: system_call(425, 1, 0),
        "take a descriptor of the service": lambda: system_call(438, os.pidfd_open(parent), 0, 0),
    }


def main() -> None:
    """Confine this process, try everything, narrow it to one job, and try that job and another one."""
    root = Path(sys.argv[1])
    policy = Policy.take(os.environ)
    assert policy is not None
    confinement = confine(policy)
    outcomes = {name: outcome(attempt) for name, attempt in tries(root).items()}
    mine, other = root / "data/jobs/mine", root / "data/jobs/other"
    before = outcome((other / "weights").read_bytes)
    confinement.narrow(read=(str(root / "data/datasets/rows.jsonl"),), write=(str(mine),), job=True)
    narrowed = {
        "its own job": outcome(lambda: (mine / "more").write_bytes(b"x")),
        "its rows": outcome((root / "data/datasets/rows.jsonl").read_text),
        "rows of others": outcome((root / "data/datasets/others.jsonl").read_text),
        "another job, before": before,
        "another job": outcome((other / "weights").read_bytes),
    }
    facts = {
        "core": resource.getrlimit(resource.RLIMIT_CORE)[1],
        "file": resource.getrlimit(resource.RLIMIT_FSIZE)[0],
        "oom": int(Path("/proc/self/oom_score_adj").read_text()),
        "status": Path("/proc/self/status").read_text(),
    }
    measures = [[measure.name, measure.state, measure.why] for measure in confinement.measures]
    json.dump({"tries": outcomes, "narrowed": narrowed, "facts": facts, "measures": measures}, sys.stdout)


def outcome(attempt: Callable[[], object]) -> str:
    """Say what became of a try."""
    try:
        attempt()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "?")
    return "done"


if __name__ == "__main__":
    main()
