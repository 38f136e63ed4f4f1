# SPDX-License-Identifier: Apache-2.0
"""Memory that a job may still be promised, true while others use the machine.

Of what is free now, what running jobs were promised and have not taken yet is theirs, and a reserve is nobody's. What
workers hold is read from the system, not from their promises: so is what other programs hold, which is the rest.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from finetree.display.units import GIB

from finetree_trainer.scheduling.demand import Demand, needed
from finetree_trainer.scheduling.devices import CPU, Device
from finetree_trainer.scheduling.machine.meter import Meter, Reading, Session
from finetree_trainer.scheduling.machine.nvml import GpuUse

APART_SECONDS = 1.0
"""Least time between two readings that are compared: processor time is counted in hundredths of a second."""
SYSTEM_SHARE = 0.04
"""Share of a memory that no job can have: page tables, the driver, the system's own services. An idle H100 has 0.7 % of
its memory in use, an idle machine of 16 GB about 4 %."""


@dataclass(frozen=True, slots=True)
class WorkerProcess:
    """A worker: the leader of its session, and the job that it works on, "" for one that waits for work.

    `devices` are the ids of those that it holds something on.
    """

    pid: int
    job: str = ""
    resting: bool = False
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Held:
    """What a job holds of a memory, bytes: `promised` when it started, `used` now."""

    job: str
    promised: int
    used: int

    @property
    def outstanding(self) -> int:
        """What it was promised and has not taken yet."""
        return max(0, self.promised - self.used)


@dataclass(frozen=True, slots=True)
class Budget:
    """A memory at one moment, bytes: who holds what of it, and what is left to promise."""

    total: int
    free: int
    reserve: int
    held: tuple[Held, ...] = ()
    idle: int = 0
    """Held by workers that have loaded their libraries alone: the next job takes one over."""
    resting: int = 0
    """Held by workers that rest, which end for any job that needs it."""
    service: int = 0
    """Held by this service itself."""
    capacity: int = 0
    """The most that a job could ever be promised."""
    fault: str = ""

    @property
    def used_by_us(self) -> int:
        """What the service and its workers hold."""
        return sum(each.used for each in self.held) + self.idle + self.resting + self.service

    @property
    def used_by_others(self) -> int:
        """What other programs and the system hold."""
        return max(0, self.total - self.free - self.used_by_us)

    @property
    def outstanding(self) -> int:
        """What jobs were promised and have not taken yet."""
        return sum(each.outstanding for each in self.held)

    @property
    def available(self) -> int:
        """What another job can be promised now."""
        return max(0, self.free - self.outstanding - self.reserve)

    @property
    def taken_from_jobs(self) -> int:
        """How much of what jobs were promised is not there any more."""
        return max(0, self.outstanding - self.free)

    def in_words(self) -> str:
        """Who holds it, for people, in GiB."""
        parts = (
            (sum(each.used for each in self.held), "used by running jobs"),
            (self.outstanding, "promised to them"),
            (self.idle + self.resting + self.service, "by the trainer and workers without a job"),
            (self.used_by_others, "by other programs"),
            (self.reserve, "kept in reserve"),
        )
        return ", ".join(f"{size / GIB:.1f} {text}" for size, text in parts if size >= 0.05 * GIB)


GONE = Budget(0, 0, 0, fault="its node has gone")
"""The memory of a device that was there at the last look."""


@dataclass(frozen=True, slots=True)
class ProcessorUse:
    """Cores that were busy between two readings: with this service and its workers, with others; and the load."""

    ours: float
    others: float
    load: float


@dataclass(frozen=True, slots=True)
class Budgets:
    """The host's memory and that of each GPU, by the device's place; `nodes`: of other machines, by the node's name."""

    host: Budget
    devices: Mapping[tuple[str, str], Budget] = field(default_factory=dict)
    nodes: Mapping[str, Budget] = field(default_factory=dict)

    def host_of(self, node: str) -> Budget:
        """The memory of a machine."""
        return self.nodes.get(node, self.host)

    def of(self, place: tuple[str, str]) -> Budget:
        """The memory of a device; of one whose node has gone since, none."""
        return self.host_of(place[0]) if place[1] == CPU else self.devices.get(place, GONE)


class MemoryLedger:
    """What is free, taken and promised on this machine. `reserve` is what is never promised of the host's memory."""

    def __init__(self, meter: Meter, devices: Sequence[Device], *, reserve: int) -> None:
        self._meter, self._devices, self._reserve = meter, devices, reserve
        self.workers: Callable[[], Iterable[WorkerProcess]] = tuple
        """The workers of this service that live."""
        self.promised: Callable[[], Mapping[str, Demand]] = dict
        """The demands of the jobs that hold slots, by their uid."""
        self._readings: list[Reading] = []
        """The newest reading, and one before it that is `APART_SECONDS` older at least, where there is one."""

    async def look(self) -> Budgets:
        """Read the machine, on a thread."""
        return self.budgets(await asyncio.to_thread(self.read))

    def read(self) -> Reading:
        """Read the machine."""
        reading = self._meter.read()
        before = [each for each in self._readings if reading.at - each.at >= APART_SECONDS]
        self._readings = [*(before or self._readings)[-1:], reading]
        return reading

    def processors(self) -> ProcessorUse | None:
        """Who computed before the newest reading; None where there is nothing to compare it with."""
        if len(self._readings) < 2:
            return None
        before, now = self._readings
        seconds = max(now.at - before.at, 1e-3)
        ours = now.own_cpu - before.own_cpu
        for worker in self.workers():
            ours += max(0.0, _session(now, worker).cpu - _session(before, worker).cpu)
        busy = now.busy - before.busy
        return ProcessorUse(ours / seconds, max(0.0, busy - ours) / seconds, now.load)

    def budgets(self, reading: Reading) -> Budgets:
        """Work out who holds what."""
        workers, promised = list(self.workers()), dict(self.promised())
        return Budgets(
            self._host(reading, workers, promised),
            {
                device.place: self._gpu(device, reading, workers, promised=promised)
                for device in self._devices
                if device.id != CPU
            },
        )

    def capacity(self, device: Device) -> int:
        """The most that a job could ever be promised of a device's memory."""
        reserve = self._reserve if device.id == CPU else 0
        return max(0, int(device.total_bytes * (1 - SYSTEM_SHARE)) - reserve)

    def free(self, device: Device) -> int:
        """Bytes of a device's memory that are free now; blocks while the machine is read."""
        return self.budgets(self.read()).of(device.place).free

    def to_give(self, device: Device) -> int:
        """Bytes that a job could be promised on a device now, with what workers without a job would give back."""
        budget = self.budgets(self.read()).of(device.place)
        return budget.available + budget.idle + budget.resting

    def _host(self, reading: Reading, workers: Sequence[WorkerProcess], promised: Mapping[str, Demand]) -> Budget:
        capacity = max(0, int(reading.total * (1 - SYSTEM_SHARE)) - self._reserve)
        memory = {worker.job: _session(reading, worker).memory for worker in workers if worker.job}
        held = [Held(uid, demand.host_bytes(capacity), memory.get(uid, 0)) for uid, demand in sorted(promised.items())]
        # A worker whose job is not known any more holds its memory all the same.
        held += [Held(uid, 0, used) for uid, used in sorted(memory.items()) if uid not in promised]
        return Budget(
            reading.total,
            reading.free,
            self._reserve,
            tuple(held),
            idle=_memory(reading, (worker for worker in workers if not (worker.job or worker.resting))),
            resting=_memory(reading, (worker for worker in workers if worker.resting)),
            service=reading.own,
            capacity=capacity,
        )

    def _gpu(
        self,
        device: Device,
        reading: Reading,
        workers: Sequence[WorkerProcess],
        *,
        promised: Mapping[str, Demand],
    ) -> Budget:
        use = reading.gpus.get(device.id, GpuUse(fault="the driver does not tell anything of it"))
        capacity = self.capacity(device)
        here = [worker for worker in workers if device.id in worker.devices]
        held, resting = [], 0
        for worker in here:
            mine = sum(use.by_process.get(pid, 0) for pid in _session(reading, worker).pids)
            demand = promised.get(worker.job)
            promise = needed(demand.memory, capacity) if demand is not None else 0
            if not use.by_process and not use.fault:
                # The driver does not say whose it is, as in a container: the job has the GPU to itself.
                mine = min(promise, use.total - use.free) if worker.job else use.total - use.free
            if worker.job:
                held.append(Held(worker.job, promise, mine))
            else:
                resting += mine
        total = use.total or device.total_bytes
        return Budget(total, use.free, 0, tuple(held), resting=resting, capacity=capacity, fault=use.fault)


def _session(reading: Reading, worker: WorkerProcess) -> Session:
    return reading.sessions.get(worker.pid, Session())


def _memory(reading: Reading, workers: Iterable[WorkerProcess]) -> int:
    return sum(_session(reading, worker).memory for worker in workers)
