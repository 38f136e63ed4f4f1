# SPDX-License-Identifier: Apache-2.0
"""What a check found, and what all of them may look at."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from finetree_cli.options.command import Settings


class Level(IntEnum):
    """How bad it is: a warning may become a problem, a problem is one now."""

    OK = 0
    WARNING = 1
    PROBLEM = 2

    @property
    def word(self) -> str:
        """The level in lower case."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: what the check is about, such as "packages".
        name: what was looked at, unique in its subject.
        level: whether it is as it should be.
        found: what was found, in one sentence without a full stop.
        remedy: what to do or to type; empty where nothing is to be done.
    """

    subject: str
    name: str
    level: Level
    found: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Installation:
    """What is checked: the data folder of `finetree up` or of a trainer, and the services that a client would call."""

    data_dir: Path
    settings: "Settings"
    offline: bool
    """Whether nothing outside of this machine and the services may be asked."""
    certificates: tuple[Path, ...] = ()
    access_dir: Path | None = None
    backups: Path | None = None
    timeout: float = 3.0
    """Longest wait for each answer over a network, in seconds."""


Check = Callable[[Installation], Iterator[Finding]]
"""Looks at one subject; what it raises is a finding of its own."""
