# SPDX-License-Identifier: Apache-2.0
"""Files that a worker needs beside those of its task: the system's libraries, Python, devices and their drivers."""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from finetree_data.confinement.landlock import (
    DEVICE,
    OWN_PROCESS,
    READ,
    RUN,
    TEMPORARY,
    WRITE,
    Access,
    Rule,
)
from finetree_data.confinement.policy import Policy

SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/opt", "/nix/store", "/gnu/store")
"""Programs and libraries; a link among them leads to another one."""
SETTINGS = (
    *("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "ld-musl-x86_64.path", "alternatives", "os-release", "machine-id"),
    *("passwd", "group", "nsswitch.conf", "localtime", "timezone", "locale.conf", "locale.alias", "mime.types"),
    *("hosts", "host.conf", "resolv.conf", "gai.conf", "services", "protocols", "ssl", "pki", "ca-certificates"),
    *("nvidia", "nvidia-container-runtime", "cufile.json", "OpenCL", "vulkan"),
)
"""Files of /etc that libraries read. Not there: shadow, keys, and whatever else an administrator keeps in /etc."""
NULLS = ("null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts")
ACCELERATORS = (
    "nvidiactl",
    "nvidia-uvm",
    "nvidia-uvm-tools",
    "nvidia-modeset",
    "nvidia-caps",
    "nvidia-caps-imex-channels",
)
"""Devices of NVIDIA's driver; those of single GPUs are nvidia0, nvidia1, …"""
OTHER_ACCELERATORS = ("kfd", "dri", "infiniband", "gdrdrv", "accel")
DRIVER_FOLDERS = ("/run/nvidia-persistenced", "/run/nvidia-fabricmanager", "/run/nvidia-container-devices")
"""Where the driver's own services listen."""
_MPS = "/tmp/nvidia-mps"  # noqa: S108 - where NVIDIA's MPS has its pipes unless CUDA_MPS_PIPE_DIRECTORY says otherwise
_CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
"""Variables by which an operator gives a cache of compiled kernels to all workers; without them each has its own."""


def rules(policy: Policy, environment: Mapping[str, str], *, dev: Path = Path("/dev")) -> list[Rule]:
    """Build the rules for all that a worker may touch; what of it is missing on this machine is left out later."""
    found = [Rule(path, RUN) for path in (*SYSTEM, *python_folders())]
    found += [Rule(f"/etc/{name}", READ) for name in SETTINGS]
    found += [Rule(environment[name], READ) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if environment.get(name)]
    found += [Rule(path, RUN) for path in (environment.get("CUDA_HOME", ""),) if path]
    found += [Rule("/proc", READ), Rule("/sys", READ), Rule("/proc/self", OWN_PROCESS)]
    found += devices(environment, dev)
    found += [Rule(path, READ) for path in policy.read]
    found += [Rule(path, WRITE) for path in policy.write]
    found += [Rule(path, Access.RESOLVE_UNIX) for path in policy.sockets]
    if policy.temporary:
        found.append(Rule(policy.temporary, TEMPORARY))
    found += [Rule(environment[name], RUN | WRITE) for name in _CACHES if environment.get(name)]
    return found


def python_folders(path: Iterable[str] = ()) -> list[str]:
    """Return where this Python, its packages and the packages that are edited in place are."""
    folders = [sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, *(path or sys.path)]
    # The program itself is a link into its base in a virtual environment, and may be anywhere without one.
    folders += [str(Path(sys.executable).resolve().parent)] if sys.executable else []
    return sorted({os.path.realpath(folder) for folder in folders if Path(folder).is_absolute()} - {"/"})


def devices(environment: Mapping[str, str], dev: Path) -> Iterator[Rule]:
    """Yield rules for device files: those of every process, shared memory, and accelerators with their services."""
    yield from (Rule(str(dev / name), READ | Access.WRITE_FILE) for name in NULLS)
    # POSIX shared memory and semaphores.
    yield Rule(str(dev / "shm"), WRITE)
    names = [*ACCELERATORS, *OTHER_ACCELERATORS]
    names += sorted(entry.name for entry in dev.glob("nvidia[0-9]*"))
    yield from (Rule(str(dev / name), DEVICE) for name in names)
    if any((dev / name).exists() for name in ("nvidiactl", "kfd")):
        # The driver names its threads, and reads the module's parameters.
        mps = environment.get("CUDA_MPS_PIPE_DIRECTORY", _MPS)
        yield from (Rule(path, READ | Access.WRITE_FILE | Access.RESOLVE_UNIX) for path in (*DRIVER_FOLDERS, mps))
