# SPDX-License-Identifier: Apache-2.0
"""What is decided for an NVIDIA GPU and can be checked without one: torch.cuda's answers are made up, no more."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
import torch
from finetree_api.trainer.v1 import event_pb2
from finetree_worker import device_memory
from finetree_worker.errors import MemoryExhaustedError
from finetree_worker.methods.full import Full
from finetree_worker.methods.lora import Lora
from finetree_worker.methods.qlora import Qlora, Quantization
from finetree_worker.models import load as base_models
from finetree_worker.plan import OptimizerName, Plan, Precision
from finetree_worker.training import optimizers, preflight
from finetree_worker.training.run import weight_dtype
from worker_harness import optimization, run, tuned

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


@pytest.mark.parametrize(("precision", "told"), [(Precision.BF16, True), (Precision.FP32, False)])
def test_a_run_says_that_bfloat16_is_emulated(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, precision: Precision, told: bool
) -> None:
    monkeypatch.setattr(device_memory, "emulates_bfloat16", lambda _: True)
    recorder = run(tuned(plan, precision=precision, max_steps=1, epochs=None))
    assert recorder.alerts() == ["BFLOAT16_EMULATED"] * told


@pytest.mark.parametrize(
    ("method", "precision", "loaded", "stored"),
    [
        (Full(), Precision.BF16, torch.bfloat16, torch.bfloat16),
        (Full(), Precision.BF16_MIXED, torch.float32, torch.bfloat16),
        (Full(), Precision.FP16_MIXED, torch.float32, torch.float16),
        (Full(), Precision.FP32, torch.float32, torch.float32),
        (Lora(), Precision.BF16, torch.bfloat16, torch.bfloat16),
        (Lora(), Precision.BF16_MIXED, torch.bfloat16, torch.bfloat16),
        (Lora(), Precision.FP16_MIXED, torch.float16, torch.float16),
        (Qlora(), Precision.FP16_MIXED, torch.float16, torch.float16),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_weights_have_the_type_of_the_precision(
    plan: Plan, method: Any, precision: Precision, loaded: torch.dtype, stored: torch.dtype
) -> None:
    chosen = replace(tuned(plan, precision=precision), method=method)
    assert (weight_dtype(chosen), weight_dtype(chosen, stored=True)) == (loaded, stored)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_four_bit_products_are_computed_in_the_type_of_the_run(dtype: torch.dtype) -> None:
    """bitsandbytes computes in float32 by default, many times slower on a GPU."""
    settings = Qlora(quantized_as=Quantization.NF4).quantization(dtype)
    assert (settings.bnb_4bit_compute_dtype, settings.bnb_4bit_quant_type) == (dtype, "nf4")
    assert base_models.placement(CUDA, settings)["device_map"] == {"": "cuda:0"}
    assert base_models.placement(torch.device("cuda", 1), settings)["device_map"] == {"": "cuda:1"}
    assert base_models.placement(CPU, settings)["device_map"] == {"": "cpu"}
    assert base_models.placement(CUDA, None) == {}


def test_paged_state_is_neither_made_nor_counted_by_the_preflight(monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves the GPU when there is too little memory, so it never decides whether a run fits."""
    weight = torch.nn.Parameter(torch.ones(8, 8))
    paged = optimizers.build([weight], optimization(optimizer=OptimizerName.PAGED_ADAMW_8BIT), CUDA)
    monkeypatch.setattr(paged, "step", lambda: pytest.fail("the state was made"))
    preflight._make_state(paged, SimpleNamespace(trainable={"weight": weight}))
    assert not paged.state


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), MemoryError()], ids=["gpu", "host"])
def test_a_model_that_does_not_fit_is_no_unreadable_model(
    base_folder: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def refusing(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(base_models.AutoModelForCausalLM, "from_pretrained", refusing)
    four_bit = Qlora(Lora()).quantization(torch.bfloat16)
    for dtype, quantization, advice in (
        (torch.float32, None, "Use qlora, bfloat16 weights, a smaller model,"),
        (torch.bfloat16, None, "Use qlora, a smaller model,"),
        (torch.bfloat16, four_bit, "Use a smaller model,"),
    ):
        with pytest.raises(MemoryExhaustedError, match="GB are free") as refused:
            base_models.load_model(base_folder, dtype, device=CPU, quantization=quantization)
        assert (refused.value.reason, refused.value.field) == ("OUT_OF_MEMORY_LOADING", "model")
        assert refused.value.remedy.startswith(advice)


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
