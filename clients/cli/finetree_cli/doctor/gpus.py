# SPDX-License-Identifier: Apache-2.0
"""NVIDIA GPUs of this machine, as `nvidia-smi` names them: it comes with the driver and asks NVML."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from finetree_cli.doctor.finding import Finding, Installation, Level

SUBJECT = "gpu"
_QUERY = ("nvidia-smi", "--query-gpu=name,driver_version,memory.total,memory.used", "--format=csv,noheader,nounits")
_SECONDS = 20.0
"""Longest wait: without persistence mode the driver loads for each query."""
BUSY_MIB = 1024
"""Memory of a card that is used before anything is trained: a desktop uses less."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A card; memory in MiB."""

    name: str
    driver: str
    memory: int
    used: int


def gpus() -> list[Gpu]:
    """Return the cards; none where there is no driver. Raises ValueError with what nvidia-smi says instead."""
    try:
        done = subprocess.run(
            _QUERY, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except FileNotFoundError:
        return []
    except subprocess.TimeoutExpired:
        raise ValueError(f"nvidia-smi did not answer within {_SECONDS:g} s") from None
    if done.returncode:
        said = (done.stdout or done.stderr).strip().partition("\n")[0]
        raise ValueError(f"nvidia-smi: {said or f'exit code {done.returncode}'}")
    return [parsed(line) for line in done.stdout.splitlines() if line.strip()]


def parsed(line: str) -> Gpu:
    """Read a line of the query; a number that the card does not tell ("[N/A]") is 0."""
    name, driver, memory, used = (part.strip() for part in line.split(","))
    return Gpu(name, driver, _number(memory), _number(used))


def check(installation: Installation) -> Iterator[Finding]:
    """Check that cards can be asked, and that their memory is free."""
    del installation
    try:
        cards = gpus()
    except ValueError as error:
        yield Finding(SUBJECT, "driver", Level.PROBLEM, str(error), "reboot after a driver update, or install it again")
        return
    if not cards:
        if Path("/proc/driver/nvidia/version").exists():
            text = "the driver is loaded, and nvidia-smi is not installed: devices cannot be asked"
            yield Finding(SUBJECT, "driver", Level.WARNING, text, "install the driver's tools of the same version")
        else:
            yield Finding(SUBJECT, "driver", Level.OK, "no NVIDIA GPU: training runs on the CPU")
        return
    for number, card in enumerate(cards):
        text = f"{card.name}, {card.memory:,} MiB, driver {card.driver}"
        if card.used > BUSY_MIB:
            text = f"{text}; {card.used:,} MiB are used already"
            yield Finding(SUBJECT, f"gpu{number}", Level.WARNING, text, "nvidia-smi shows by which process")
        else:
            yield Finding(SUBJECT, f"gpu{number}", Level.OK, text)


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0
