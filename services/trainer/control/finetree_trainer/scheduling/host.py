# SPDX-License-Identifier: Apache-2.0
"""The capacity of this machine: its measured matrix rates, kept over restarts, and its devices as they are now."""

import asyncio
import base64
from collections.abc import Callable, Mapping, Sequence

from finetree_api.trainer.v1 import capacity_pb2, serving_pb2
from finetree_api.types.v1 import hardware_pb2
from finetree_api.worker.v1 import worker_pb2
from sqlalchemy import Connection, delete, insert, select

from finetree_trainer.scheduling.devices import PREPARING, Device, Node
from finetree_trainer.scheduling.machine.cores import usable_cores
from finetree_trainer.scheduling.memory import Budget, MemoryLedger
from finetree_trainer.scheduling.queue import JobQueue
from finetree_trainer.store import schema
from finetree_trainer.store.database import Store

_KEY = "host_profile"

LeasesOf = Callable[[Sequence[str]], Sequence[serving_pb2.ServingLease]]
"""Returns the leases of those of some jobs, by their resource names, that serve."""


RestingOn = Callable[[str], Sequence[capacity_pb2.RestingWorker]]
"""Returns the workers that rest on a device, by its id."""


class Host:
    """The machine's profile and its devices."""

    def __init__(
        self,
        store: Store,
        node: Node,
        memory: MemoryLedger,
        *,
        devices: Sequence[Device] | None = None,
        measured_while_idle: bool = True,
    ) -> None:
        """`devices`: those of a cluster, in place of this machine's.

        `measured_while_idle`: an idle worker is kept, which measures the rates; without one they stay unknown.
        """
        self.node, self._memory = node, memory
        self._devices = node.devices if devices is None else devices
        self._measured_while_idle = measured_while_idle
        self.node_types: Callable[[], Sequence[capacity_pb2.NodeType]] = tuple
        """Returns the types of nodes that may come."""
        self._store = store
        self._profile = worker_pb2.HostProfile()
        self._measured = asyncio.Event()

    async def load(self) -> None:
        """Read the rates that were measured before, unless they are of another processor or number of threads."""
        query = select(schema.meta.c.value).where(schema.meta.c.key == _KEY)
        found = await self._store.read(lambda connection: connection.execute(query).scalar())
        profile = worker_pb2.HostProfile.FromString(base64.b64decode(found)) if found else worker_pb2.HostProfile()
        measured = profile.cpu_name, profile.threads
        if profile.matrix_rates.bf16_flops_per_second and measured == (
            self.node.cpu.display_name,
            self.node.cpu.threads,
        ):
            self._profile = profile
            self._measured.set()

    async def record(self, profile: worker_pb2.HostProfile) -> None:
        """Store the rates that an idle worker has measured; of each the highest so far.

        Other work on the machine can only make a measurement lower, so the highest one is nearest to the true rate.
        """
        before, rates = self._profile.matrix_rates, profile.matrix_rates
        self._profile = profile
        for name in rates.DESCRIPTOR.fields_by_name:
            if getattr(before, name) > getattr(rates, name):
                setattr(rates, name, getattr(before, name))
        # The worker may spell the name differently; `load` compares this one.
        profile.cpu_name, profile.threads = self.node.cpu.display_name, self.node.cpu.threads
        text = base64.b64encode(profile.SerializeToString()).decode()

        def write(connection: Connection) -> None:
            connection.execute(delete(schema.meta).where(schema.meta.c.key == _KEY))
            connection.execute(insert(schema.meta), {"key": _KEY, "value": text})

        await self._store.write(write)
        self._measured.set()

    def rates(self) -> hardware_pb2.MatrixRates | None:
        """Measured matrix rates of the CPU; None when they are not measured."""
        return self._profile.matrix_rates if self._profile.HasField("matrix_rates") else None

    async def wait_for_rates(self, seconds: float) -> None:
        """Wait until the rates are measured, at most so many seconds; not at all where nothing measures them."""
        if seconds > 0 and self._measured_while_idle:
            try:
                await asyncio.wait_for(self._measured.wait(), seconds)
            except TimeoutError:
                return

    async def describe(self, queue: JobQueue, leases: LeasesOf, resting: RestingOn) -> list[capacity_pb2.Node]:
        """Describe the machine as it is now, or the nodes of the cluster.

        `leases` gives those of some jobs, by their names; `resting` the workers that rest on a device, by its id.
        """
        budgets = await self._memory.look()
        by_node: dict[str, list[Device]] = {}
        for device in self._devices:
            by_node.setdefault(device.node, []).append(device)
        return [
            capacity_pb2.Node(
                name=name,
                devices=[
                    _describe(device, budgets.of(device.place), queue, leases=leases, resting=resting(device.id))
                    for device in devices
                ],
                matrix_rates=self.rates(),
                cpu_name=devices[-1].display_name,
                processors=self._processors(),
            )
            for name, devices in by_node.items()
        ]

    def _processors(self) -> capacity_pb2.ProcessorUse | None:
        use = self._memory.processors()
        if use is None:
            return None
        return capacity_pb2.ProcessorUse(
            cores=usable_cores(), used_by_us=use.ours, used_by_others=use.others, load_average=use.load
        )


def _describe(
    device: Device,
    budget: Budget,
    queue: JobQueue,
    *,
    leases: LeasesOf,
    resting: Sequence[capacity_pb2.RestingWorker],
) -> capacity_pb2.Device:
    holders = queue.holders_on(device)
    names = {holder.uid: holder.name for holder in queue.holders().values() if holder is not None}
    running = [holder.name for holder in holders.values()]
    slots = device.slots() + [slot for slot in holders if slot.index == PREPARING]
    busy = sum(slot in holders for slot in device.slots())
    return capacity_pb2.Device(
        id=device.id,
        hardware=device.hardware,
        display_name=device.display_name,
        total_bytes=device.total_bytes,
        free_bytes=budget.free,
        running_jobs=running,
        slots=device.slot_count,
        free_slots=0 if budget.fault else device.slot_count - busy,
        threads_per_slot=device.threads,
        leases=leases(running),
        resting_workers=resting,
        uuid=device.uuid,
        fault=budget.fault,
        memory=_memory_use(budget, names),
        slot_uses=[
            capacity_pb2.SlotUse(
                slot=slot.index,
                job=holders[slot].name if slot in holders else "",
                processors=device.processors_of(slot),
            )
            for slot in slots
        ],
    )


def _memory_use(budget: Budget, names: Mapping[str, str]) -> capacity_pb2.MemoryUse:
    return capacity_pb2.MemoryUse(
        total_bytes=budget.total,
        free_bytes=budget.free,
        used_by_us_bytes=budget.used_by_us,
        used_by_others_bytes=budget.used_by_others,
        promised_bytes=budget.outstanding,
        reserve_bytes=budget.reserve,
        available_bytes=budget.available + budget.idle,
        jobs=[
            capacity_pb2.JobMemory(job=names[each.job], promised_bytes=each.promised, used_bytes=each.used)
            for each in budget.held
            if each.job in names
        ],
    )
