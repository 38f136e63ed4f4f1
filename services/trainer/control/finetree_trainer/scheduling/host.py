# SPDX-License-Identifier: Apache-2.0
"""The host's capacity: its measured matrix rates, kept over restarts, and its devices as they are now."""

import asyncio
import base64

from finetree_api.trainer.v1 import capacity_pb2
from finetree_api.worker.v1 import worker_pb2
from sqlalchemy import Connection, delete, insert, select

from finetree_trainer.scheduling.devices import CPU, Device
from finetree_trainer.scheduling.queue import JobQueue
from finetree_trainer.store import schema
from finetree_trainer.store.database import Store

_KEY = "host_profile"


class Host:
    """The host's profile and capacity."""

    def __init__(self, store: Store, devices: list[Device], *, measured_while_idle: bool = True) -> None:
        """`measured_while_idle`: an idle worker is kept, which measures the rates; without one they stay unknown."""
        self.devices = devices
        self._measured_while_idle = measured_while_idle
        self.profile = worker_pb2.HostProfile()
        self._store = store
        self._measured = asyncio.Event()

    async def load(self) -> None:
        """Read the rates that were measured before, unless they are of another processor."""
        query = select(schema.meta.c.value).where(schema.meta.c.key == _KEY)
        found = await self._store.read(lambda connection: connection.execute(query).scalar())
        profile = worker_pb2.HostProfile.FromString(base64.b64decode(found)) if found else worker_pb2.HostProfile()
        if profile.bf16_flops_per_second and profile.cpu_name == self.devices[-1].display_name:
            self.profile = profile
            self._measured.set()

    async def record(self, profile: worker_pb2.HostProfile) -> None:
        """Store the rates that an idle worker has measured; of each the highest so far.

        Other work on the machine can only make a measurement lower, so the highest one is nearest to the true rate.
        """
        bf16, fp32 = self.rates()
        self.profile = profile
        self.profile.bf16_flops_per_second = max(bf16, profile.bf16_flops_per_second)
        self.profile.fp32_flops_per_second = max(fp32, profile.fp32_flops_per_second)
        # The worker may spell the name differently; `load` compares this one.
        self.profile.cpu_name = self.devices[-1].display_name
        text = base64.b64encode(self.profile.SerializeToString()).decode()

        def write(connection: Connection) -> None:
            connection.execute(delete(schema.meta).where(schema.meta.c.key == _KEY))
            connection.execute(insert(schema.meta), {"key": _KEY, "value": text})

        await self._store.write(write)
        self._measured.set()

    def rates(self) -> tuple[float, float]:
        """Measured bfloat16 and float32 matrix rates of the host, FLOP/s; 0 when not measured."""
        return self.profile.bf16_flops_per_second, self.profile.fp32_flops_per_second

    async def wait_for_rates(self, seconds: float) -> None:
        """Wait until the rates are measured, at most so many seconds; not at all where nothing measures them."""
        if seconds > 0 and self._measured_while_idle:
            try:
                await asyncio.wait_for(self._measured.wait(), seconds)
            except TimeoutError:
                return

    async def capacity(self, queue: JobQueue, limits: dict[str, int]) -> capacity_pb2.GetCapacityResponse:
        """Describe devices, queue and limits as they are now."""
        bf16, fp32 = self.rates()
        free = await asyncio.to_thread(lambda: [device.free_bytes() for device in self.devices])
        return capacity_pb2.GetCapacityResponse(
            devices=[self._show(device, bytes_, queue) for device, bytes_ in zip(self.devices, free, strict=True)],
            queue_length=len(queue),
            limits=limits,
            host_bf16_flops_per_second=bf16,
            host_fp32_flops_per_second=fp32,
            host_cpu_name=self.devices[-1].display_name,
        )

    def _show(self, device: Device, free: int, queue: JobQueue) -> capacity_pb2.Device:
        running = queue.running_on(device.id)
        shown = capacity_pb2.Device(
            id=device.id,
            hardware=device.hardware,
            display_name=device.display_name,
            total_bytes=device.total_bytes,
            free_bytes=free,
            running_jobs=running,
            slots=device.slots,
            free_slots=max(0, device.slots - len(running)),
            threads_per_slot=device.threads,
        )
        if device.id == CPU:
            cpu = shown.hardware.cpu
            cpu.bf16_flops_per_second, cpu.fp32_flops_per_second = self.rates()
        return shown
