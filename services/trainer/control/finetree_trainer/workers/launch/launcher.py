# SPDX-License-Identifier: Apache-2.0
"""What the supervisor needs of whatever starts workers: start one, find one again, signal it, know of its death."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from finetree_trainer.scheduling.devices import Slot
from finetree_trainer.workers.process import Liveness

TOKEN_VARIABLE = "FINETREE_WORKER_TOKEN"  # noqa: S105 - the variable's name; nobody else can read the environment
AUTHORITY_VARIABLE = "FINETREE_WORKER_AUTHORITY"
"""PEM certificates by which a worker knows the trainer's own; unset: it attaches in plain text."""


@dataclass(frozen=True, slots=True)
class Order:
    """A worker to start: its secret, what it may connect to, and the slots of its first task, if it has one.

    `reach` is as `WorkerConfinement.reach` says. `measure`: whether it measures the machine's matrix rates.
    """

    token: str = field(repr=False)
    reach: Mapping[str, bool]
    slots: Sequence[Slot] = ()
    measure: bool = False


class LaunchedProcess(Protocol):
    """A worker's process, wherever it runs.

    `exit` says how it ended, `reason` why the service ended it, if it did; `dead` is set by proof that it has ended, or
    that its lease has: what only may have happened never sets it.
    """

    pid: int
    exit: str
    reason: str
    overran: bool
    """Whether the kernel ended it since what it rendered or tokenized did not come to an end."""
    signalled: bool
    """Whether the service has asked it to end by a signal."""
    dead: asyncio.Event

    async def placed(self) -> None:
        """Wait until it runs. Raises NotPlacedError where it cannot be started now."""
        ...

    def activity(self) -> tuple[int, ...] | None:
        """What it has done so far, to be compared; None where that cannot be told."""
        ...

    def limit_output(self) -> None:
        """Cut the file of what it prints where it has grown too long."""
        ...

    def hand_over_output(self, folder: Path) -> None:
        """Move what it has printed so far to a folder."""
        ...

    def terminate(self) -> None:
        """Ask it to end (SIGTERM)."""
        ...

    def kill(self) -> None:
        """End it and everything in its process group (SIGKILL)."""
        ...

    def give_up(self) -> None:
        """End it; its lease is over, so that its death need not be seen."""
        ...


class Launcher(Protocol):
    """Starts workers and finds those that an earlier run of the service has started.

    `keeps_idle`: whether it starts workers that have no task yet, and whether workers may wait for another one.
    """

    keeps_idle: bool

    def start(self, folder: Path, order: Order) -> LaunchedProcess:
        """Begin to start a worker with a folder of its own. Raises OSError; then nothing of it is left."""
        ...

    def find(self, folder: Path, pid: int) -> tuple[Liveness, LaunchedProcess | None]:
        """Find the worker of a folder again: what is known of it, and the process, where there is one to watch."""
        ...
