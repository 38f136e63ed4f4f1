# SPDX-License-Identifier: Apache-2.0
"""Meters of a simulated fleet: what the scheduler's own steps and the store's commits take, CPU and wall."""

import sys
import time
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from finetree_trainer.scheduling.queue import JobQueue
from finetree_trainer.store import jobs

sys.path.append(str(Path(__file__).parents[2] / "tests/robustness/simulation"))  # how the control plane is simulated

from machine import SimulatedWriter

T = TypeVar("T")


@dataclass(slots=True)
class Costs:
    """CPU and wall seconds of each piece of work of one sort."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    def add(self, cpu: float, wall: float) -> None:
        """Note one piece."""
        self.cpu.append(cpu)
        self.wall.append(wall)


class Metered(Awaitable[T]):
    """Awaits something, and adds up what its own steps take: not what others do while it waits."""

    def __init__(self, inner: Awaitable[T]) -> None:
        self._inner = inner
        self.cpu = self.wall = 0.0

    def __await__(self) -> Generator[Any, Any, T]:
        """Drive it step by step."""
        steps, error = self._inner.__await__(), None
        while True:
            cpu, wall = time.thread_time(), time.perf_counter()
            try:
                waits_for = next(steps) if error is None else steps.throw(error)
            except StopIteration as stop:
                return stop.value
            finally:
                self.cpu += time.thread_time() - cpu
                self.wall += time.perf_counter() - wall
            error = None
            try:
                yield waits_for
            except BaseException as raised:  # noqa: BLE001 - a cancellation, for whoever waits inside
                error = raised


class MeteredQueue(JobQueue):
    """The queue; notes what each round, each change of a job and each change of the nodes costs."""

    def __init__(self, *given: Any) -> None:
        self.first_round: dict[str, float] = {}
        self.rounds, self.changes, self.node_changes = Costs(), Costs(), Costs()
        self.started_in_round = 0
        self.on_round: Callable[[], None] = lambda: None
        super().__init__(*given)

    async def start_all(self) -> None:
        """One round, without what tells of places in the queue."""
        self._round, self.started_in_round = Metered(super().start_all()), 0
        await self._round

    async def _announce_positions(self) -> None:
        telling = Metered(super()._announce_positions())
        await telling
        cpu, wall = self._round.cpu + telling.cpu, self._round.wall + telling.wall
        if self.first_round:
            self.rounds.add(cpu, wall)
            self.on_round()
        elif self.started_in_round:
            self.first_round = {"starts": self.started_in_round, "cpu_seconds": cpu, "wall_seconds": wall}

    def _on_change(self, row: jobs.JobRow) -> None:
        cpu, wall = time.thread_time(), time.perf_counter()
        super()._on_change(row)
        self.changes.add(time.thread_time() - cpu, time.perf_counter() - wall)

    def follow_devices(self) -> None:
        """Take devices that have come or gone."""
        cpu, wall = time.thread_time(), time.perf_counter()
        super().follow_devices()
        self.node_changes.add(time.thread_time() - cpu, time.perf_counter() - wall)


class MeteredWriter(SimulatedWriter):
    """The store's writer; notes what commits cost."""

    def close(self) -> None:
        """Write what waits, and hang up."""
        super().close()
        self._hang_up()

    def _turn(self) -> None:
        cpu = time.thread_time()
        super()._turn()
        self.machine.store_cpu += time.thread_time() - cpu
