# SPDX-License-Identifier: Apache-2.0
"""Installed packages: one version for all distributions of the suite, Python, torch and the device that it is for."""

import sys
from collections.abc import Iterator
from importlib import metadata

from finetree_cli.doctor.finding import Finding, Installation, Level
from finetree_cli.doctor.gpus import Gpu, gpus

SUBJECT = "packages"
PYTHON = (3, 11)
"""Oldest version of Python that every distribution takes."""
_CUDA_DRIVERS = {11: (450, 80), 12: (525, 60), 13: (580, 0)}
"""Oldest driver for programs of each major version of CUDA (NVIDIA, "CUDA compatibility", minor version
compatibility)."""


def check(installation: Installation) -> Iterator[Finding]:
    """Check versions; nothing is imported, so that a broken torch does not end the check."""
    del installation
    yield _python()
    yield _suite()
    yield from _torch()


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < PYTHON:
        return Finding(SUBJECT, "python", Level.PROBLEM, f"Python {version} is too old", "install Python 3.11 or newer")
    return Finding(SUBJECT, "python", Level.OK, f"Python {version} in {sys.prefix}")


def _suite() -> Finding:
    """All distributions of the suite have one version (docs/decisions/0029)."""
    found = {
        str(each.metadata["Name"]): each.version
        for each in metadata.distributions()
        if str(each.metadata["Name"] or "").partition("-")[0] == "finetree"
    }
    versions = sorted(set(found.values()))
    if len(versions) > 1:
        own = metadata.version("finetree-cli")
        others = ", ".join(f"{name} {version}" for name, version in sorted(found.items()) if version != own)
        text = f"finetree-cli is {own}, but {others}; they work together in one version alone"
        return Finding(SUBJECT, "versions", Level.PROBLEM, text, f"pip install 'finetree-cli[suite]=={own}'")
    names = ", ".join(sorted(name.removeprefix("finetree-") for name in found))
    return Finding(SUBJECT, "versions", Level.OK, f"{len(found)} of finetree, all {versions[0]}: {names}")


def _torch() -> Iterator[Finding]:
    try:
        metadata.version("finetree-worker")
    except metadata.PackageNotFoundError:
        text = "no worker in this environment: training runs elsewhere"
        yield Finding(SUBJECT, "torch", Level.OK, text)
        return
    try:
        found = metadata.distribution("torch")
    except metadata.PackageNotFoundError:
        yield Finding(SUBJECT, "torch", Level.PROBLEM, "the worker has no torch", "pip install 'finetree-cli[suite]'")
        return
    yield torch_finding(found.version, found.requires or [], gpus())


def torch_finding(version: str, requires: list[str], cards: list[Gpu]) -> Finding:
    """Say whether a build of torch computes on the cards of this machine."""
    build = cuda_of(version, requires)
    if not build:
        if not cards:
            return Finding(SUBJECT, "torch", Level.OK, f"torch {version}, for the CPU; there is no NVIDIA GPU")
        text = f"torch {version} is built for the CPU, and there is {cards[0].name}: training would not use it"
        remedy = f"pip install --force-reinstall torch=={version.partition('+')[0]} from the index of CUDA builds"
        return Finding(SUBJECT, "torch", Level.PROBLEM, text, remedy)
    if not cards:
        text = f"torch {version} is built for CUDA {build}, and no NVIDIA GPU is found: training runs on the CPU"
        return Finding(SUBJECT, "torch", Level.WARNING, text, "look at nvidia-smi, or take the smaller CPU build")
    oldest = _CUDA_DRIVERS.get(build, (0, 0))
    driver = cards[0].driver
    if tuple(int(part) for part in driver.split(".")[:2] if part.isdecimal()) < oldest:
        text = f"torch {version} is built for CUDA {build}, which driver {driver} is too old for"
        remedy = f"install NVIDIA driver {oldest[0]} or newer"
        return Finding(SUBJECT, "torch", Level.PROBLEM, text, remedy)
    return Finding(SUBJECT, "torch", Level.OK, f"torch {version} for CUDA {build}, driver {driver}")


def cuda_of(version: str, requires: list[str]) -> int:
    """Major version of CUDA that a build of torch is for; 0 for the CPU.

    A wheel of PyTorch's own index has it in its version (`+cu128`, `+cpu`); one of PyPI in what it requires.
    """
    local = version.partition("+")[2]
    if local.startswith("cu"):
        return int(local[2:4])
    if local:
        return 0
    for requirement in requires:
        name = requirement.partition(";")[0].split("=")[0].strip().partition("[")[0]
        if name.startswith("nvidia-") and name.rpartition("-cu")[2].isdecimal():
            return int(name.rpartition("-cu")[2])
        if name == "cuda-toolkit" and "==" in requirement:
            return int(requirement.partition("==")[2].partition(".")[0])
    return 0
