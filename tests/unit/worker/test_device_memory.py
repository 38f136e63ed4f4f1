# SPDX-License-Identifier: Apache-2.0
"""Memory of the process and of a GPU, whose answers are made up where there is none."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
import torch
from finetree_api.trainer.v1 import event_pb2
from finetree_worker import device_memory
from finetree_worker.device_memory import is_out_of_memory

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (torch.cuda.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"), False),
        (ValueError("CUDA out of memory"), False),
    ],
    ids=lambda value: "" if isinstance(value, bool) else f"{type(value).__name__} {str(value)[:40]}",
)
def test_what_ran_out_is_told_from_what_broke(error: BaseException, memory: bool) -> None:
    """A smaller micro-batch helps against the one, and would hide the other."""
    assert device_memory.is_out_of_memory(error) is memory


def test_memory_of_a_gpu_is_what_its_allocator_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reserved, not allocated: what is reserved is what others cannot have."""
    asked: list[torch.device] = []

    def saying(value: Any) -> Callable[[torch.device], Any]:
        return lambda device: (asked.append(device), value)[1]

    monkeypatch.setattr(torch.cuda, "memory_reserved", saying(3 << 30))
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", saying(5 << 30))
    monkeypatch.setattr(torch.cuda, "mem_get_info", saying((7 << 30, 24 << 30)))
    assert device_memory.memory_bytes(CUDA) == 3 << 30
    assert device_memory.peak_memory_bytes(CUDA) == 5 << 30
    assert device_memory.free_memory_bytes(CUDA) == 7 << 30
    assert asked == [CUDA] * 3


def test_the_allocators_pieces_are_given_back_on_a_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[bool] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: given.append(True))
    device_memory.free_cache(CPU)
    assert not given
    device_memory.free_cache(CUDA)
    assert given


@pytest.mark.parametrize(
    ("device", "capability", "emulated"),
    [(CUDA, (7, 0), True), (CUDA, (7, 5), True), (CUDA, (8, 0), False), (CUDA, (12, 0), False), (CPU, (0, 0), False)],
    ids=["V100", "T4", "A100", "RTX 5090", "CPU"],
)
def test_a_gpu_has_bfloat16_from_ampere_on(
    monkeypatch: pytest.MonkeyPatch, device: torch.device, capability: tuple[int, int], emulated: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert device_memory.emulates_bfloat16(device) is emulated


class Driver:
    """NVML that answers as long as it is told to."""

    def __init__(self, answers: int) -> None:
        self.answers = answers

    def utilization(self, _: object) -> Any:
        self.answers -= 1
        if self.answers < 0:
            raise pynvml.NVMLError(999)
        return SimpleNamespace(gpu=42)


def test_the_gpus_figures_are_read_until_its_driver_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(answers=2)
    monkeypatch.setattr(device_memory, "PERIOD_SECONDS", 0.001)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="1234"))
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    named: list[str] = []
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", named.append)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUtilizationRates", driver.utilization)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", lambda _: SimpleNamespace(used=5 << 30))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetPowerUsage", lambda _: 250_500)
    watch = device_memory.DeviceWatch(CUDA, node="here", device_id="cuda:1")
    # A driver that fails ends the figures, and no exception leaves the thread.
    watch._run()
    assert watch.latest == event_pb2.DeviceMetrics(
        node="here", device_id="cuda:1", utilization_percent=42.0, used_bytes=5 << 30, power_watts=250.5
    )
    assert named == ["GPU-1234"]
    assert driver.answers == -1


def test_a_run_on_the_cpu_watches_no_gpu() -> None:
    with device_memory.DeviceWatch(CPU) as watch:
        assert watch._thread is None


def test_the_cpu_allocators_refusal_is_recognized() -> None:

    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
