# SPDX-License-Identifier: Apache-2.0
"""Memory of this process and of its device, and a thread that samples the GPU once a second."""

import ctypes
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from finetree_api.trainer.v1 import event_pb2

PERIOD_SECONDS = 1.0
"""Time between two samples of the GPU."""
GIB = 1 << 30
"""Bytes of a GiB, in which memory is told; files are told in GB."""
_PAGE = 4096
_GROUP = Path("/sys/fs/cgroup")
_OUT_OF_MEMORY = (
    *("DefaultCPUAllocator: can't allocate memory", "std::bad_alloc"),
    *("CUDA out of memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"),
)
"""What libraries say in a RuntimeError: CUDA's driver and cuBLAS allocate beside torch, whose own error is a class."""


def trim_heap() -> None:
    """Give the heap's unused pages back to the system, those of other threads' heaps too, where it is glibc's."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def memory_bytes(device: torch.device) -> int:
    """Bytes in use now: reserved by torch on a GPU, else the resident set of this process."""
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device)
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return 0


def peak_memory_bytes(device: torch.device) -> int:
    """Highest bytes of this process so far: the most that torch has reserved on a GPU, else the resident peak.

    Samples of what is in use miss the peak within a step. 0 where the system does not report it.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)
    except (OSError, ValueError, IndexError):
        return 0


def free_memory_bytes(device: torch.device) -> int:
    """Bytes that can still be allocated: of the GPU, else the lesser of the machine's and the control group's.

    0 where the system does not report it.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min(_host_free(), _group_free(_GROUP))


def _host_free() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), 0)
    except (OSError, ValueError, IndexError):
        return 0


def _group_free(folder: Path) -> int:
    """Bytes that a control group (version 2) leaves; pages of files count as free, since they can be dropped."""
    try:
        limit = int((folder / "memory.max").read_text(encoding="ascii"))
        used = int((folder / "memory.current").read_text(encoding="ascii"))
        statistics = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
        cached = next((int(line.split()[1]) for line in statistics if line.startswith("inactive_file ")), 0)
    except (OSError, ValueError, IndexError):
        return sys.maxsize  # no such group, or one without a limit ("max")
    return max(0, limit - used + cached)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception means that memory ran out.

    torch's allocator of a GPU has a class of its own for it; others say it in a RuntimeError's text.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(sign in text for sign in _OUT_OF_MEMORY)


def free_cache(device: torch.device) -> None:
    """Release the GPU memory that torch's allocator has cached: after an out-of-memory error it is fragmented."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def emulates_bfloat16(device: torch.device) -> bool:
    """Return whether a GPU only emulates bfloat16, whose arithmetic came with compute capability 8.0 (Ampere)."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0)


class DeviceWatch:
    """Samples utilization, memory and power through NVML; `latest` is None where there is no NVIDIA GPU."""

    def __init__(self, device: torch.device, *, node: str = "", device_id: str = "") -> None:
        """`node` and `device_id` are the service's names of the device."""
        self._node, self._device_id = node, device_id
        self.latest: event_pb2.DeviceMetrics | None = None
        self._device = device
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._device.type == "cuda":
            self._thread = threading.Thread(target=self._run, name="device-watch", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5 * PERIOD_SECONDS)

    def _run(self) -> None:
        import pynvml

        # A driver that fails costs the run its GPU metrics, nothing else.
        with suppress(pynvml.NVMLError):
            pynvml.nvmlInit()
            uuid = str(torch.cuda.get_device_properties(self._device).uuid)
            handle = pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")
            while not self._stop.wait(PERIOD_SECONDS):
                self.latest = event_pb2.DeviceMetrics(
                    node=self._node,
                    device_id=self._device_id,
                    utilization_percent=float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu),
                    used_bytes=int(pynvml.nvmlDeviceGetMemoryInfo(handle).used),
                    power_watts=pynvml.nvmlDeviceGetPowerUsage(handle) / 1000.0,
                )
