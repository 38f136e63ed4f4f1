# SPDX-License-Identifier: Apache-2.0
"""NVIDIA GPUs as NVML reports them: whole cards, or the instances of those that are partitioned (MIG).

A GPU is named by its UUID, which neither a reboot nor another order of the cards changes: CUDA counts by speed, NVML by
the PCI bus. Memory is that of all processes, those of other users and containers too.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from finetree_runtime.server.logging import get_logger

DEVICE_FAULTS = frozenset({48, 62, 64, 74, 79, 92, 94, 95, 119, 120, 140, 143})
"""XID numbers after which a GPU computes nothing right until it is reset: double-bit errors, halted microcontroller,
row remapping failed, NVLink, fallen off the bus, uncontained errors, GSP timeouts (NVIDIA, "XID Errors"). Others, such
as 13, 31 and 43, are faults of a program."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU or an instance of one. `id` is "cuda:1", or "cuda:1.0" for the first instance of the second card."""

    id: str
    uuid: str
    name: str
    total_bytes: int
    instance: bool = False


@dataclass(frozen=True, slots=True)
class GpuUse:
    """Memory of a GPU now, bytes; `by_process` where the driver tells it. `fault`: why it cannot be used, in words."""

    total: int = 0
    free: int = 0
    by_process: Mapping[int, int] = field(default_factory=dict)
    fault: str = ""


class Gpus(Protocol):
    """The GPUs of a machine."""

    def find(self) -> list[Gpu]:
        """Those that the service may use, in NVML's order."""
        ...

    def use(self, gpu: Gpu) -> GpuUse:
        """Look at one now. Never raises: what the driver says instead is its fault."""
        ...


class NvmlGpus:
    """GPUs through NVML; none where there is no driver. `CUDA_VISIBLE_DEVICES` of the service restricts them."""

    def __init__(self, nvml: Any = None, visible: str | None = None) -> None:
        """`nvml` is the module pynvml, `visible` the variable's value; both for tests."""
        if nvml is None:
            import pynvml

            nvml = pynvml
        self._nvml = nvml
        self._visible = os.environ.get("CUDA_VISIBLE_DEVICES") if visible is None else visible
        self._handles: dict[str, Any] = {}
        self._events: Any = None
        self._watched: dict[str, str] = {}
        """UUIDs of cards by their PCI bus id."""
        self._parents: dict[str, str] = {}
        """UUID of an instance's card, by its own."""
        self._faults: dict[str, str] = {}
        """What the driver has reported of a card, by its UUID, until it is reset."""

    def find(self) -> list[Gpu]:
        """Find the GPUs, and begin to listen for their faults."""
        try:
            self._nvml.nvmlInit()
            count = self._nvml.nvmlDeviceGetCount()
        except self._nvml.NVMLError:
            return []
        found: list[Gpu] = []
        for index in range(count):
            try:
                found += self._card(index)
            except self._nvml.NVMLError as error:
                # One card that does not answer must not hide the others.
                get_logger().error("gpu_not_usable", index=index, error=str(error))
        return [gpu for gpu in found if self._is_visible(gpu)]

    def use(self, gpu: Gpu) -> GpuUse:
        """Look at a GPU's memory and faults."""
        self._take_events()
        parent = self._parents.get(gpu.uuid, gpu.uuid)
        if fault := self._faults.get(parent):
            return GpuUse(total=gpu.total_bytes, fault=fault)
        try:
            memory = self._nvml.nvmlDeviceGetMemoryInfo(self._handles[gpu.uuid])
        except self._nvml.NVMLError as error:
            return GpuUse(total=gpu.total_bytes, fault=f"the driver does not answer for it: {error}")
        return GpuUse(int(memory.total), int(memory.free), self._processes(self._handles[gpu.uuid]))

    def _card(self, index: int) -> list[Gpu]:
        handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
        uuid, name = _text(self._nvml.nvmlDeviceGetUUID(handle)), _text(self._nvml.nvmlDeviceGetName(handle))
        self._watch(handle, uuid)
        instances = self._instances(handle)
        if not instances:
            self._handles[uuid] = handle
            return [Gpu(f"cuda:{index}", uuid, name, int(self._nvml.nvmlDeviceGetMemoryInfo(handle).total))]
        found = []
        for number, instance in instances:
            own = _text(self._nvml.nvmlDeviceGetUUID(instance))
            self._handles[own], self._parents[own] = instance, uuid
            total = int(self._nvml.nvmlDeviceGetMemoryInfo(instance).total)
            label = _text(self._nvml.nvmlDeviceGetName(instance))
            found.append(Gpu(f"cuda:{index}.{number}", own, label, total, instance=True))
        return found

    def _instances(self, handle: Any) -> list[tuple[int, Any]]:
        """Instances of a partitioned card; a card in that mode without any cannot compute, and has none."""
        try:
            mode, _ = self._nvml.nvmlDeviceGetMigMode(handle)
        except self._nvml.NVMLError:  # a card that cannot be partitioned
            return []
        if mode != self._nvml.NVML_DEVICE_MIG_ENABLE:
            return []
        found = []
        for number in range(self._nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
            with suppress(self._nvml.NVMLError):  # numbers without an instance
                found.append((number, self._nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)))
        return found

    def _processes(self, handle: Any) -> dict[int, int]:
        with suppress(self._nvml.NVMLError):  # an instance, or a driver in a container
            running = self._nvml.nvmlDeviceGetComputeRunningProcesses(handle)
            return {int(each.pid): int(each.usedGpuMemory or 0) for each in running}
        return {}

    def _watch(self, handle: Any, uuid: str) -> None:
        with suppress(self._nvml.NVMLError):  # drivers without events, as in WSL
            if self._events is None:
                self._events = self._nvml.nvmlEventSetCreate()
            self._nvml.nvmlDeviceRegisterEvents(handle, self._nvml.nvmlEventTypeXidCriticalError, self._events)
            self._watched[_text(self._nvml.nvmlDeviceGetPciInfo(handle).busId)] = uuid

    def _take_events(self) -> None:
        """Note faults that the driver has reported since the last look."""
        while self._events is not None:
            try:
                event = self._nvml.nvmlEventSetWait(self._events, 0)
                bus = _text(self._nvml.nvmlDeviceGetPciInfo(event.device).busId)
            except self._nvml.NVMLError:  # none is left
                return
            if (number := int(event.eventData)) in DEVICE_FAULTS and bus in self._watched:
                self._faults[self._watched[bus]] = f"the driver reported XID {number}; it has to be reset"

    def _is_visible(self, gpu: Gpu) -> bool:
        if self._visible is None:
            return True
        index = gpu.id.removeprefix("cuda:")
        for word in (word.strip() for word in self._visible.split(",")):
            if word in (index, index.split(".")[0]) or (len(word) > 4 and gpu.uuid.startswith(word)):
                return True
        return False


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
