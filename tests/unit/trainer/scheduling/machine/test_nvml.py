# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802, N815, ARG002, RUF012 - names and arguments are those of NVML
"""GPUs as NVML answers: a recorded shape of two cards, of which one is partitioned, in NVML's own structures."""

import ctypes

import pynvml
import pytest
from finetree_trainer.scheduling.devices import CPU, discover
from finetree_trainer.scheduling.machine.nvml import NvmlGpus

GIB = 1 << 30
WHOLE, SPLIT = "GPU-1f0c9b46-0c54-6a9e-9a3c-3f5f7c2d1a10", "GPU-7bd1e2aa-93c3-1f0e-b7b4-6a0d0e0f1b22"
PARTS = ["MIG-3c1b0a5e-7a1f-5d2c-8e21-2f0b6f9f9d01", "MIG-8d2f4e11-0b7e-5c41-9c2a-6b7f3d2c1e02"]


def failure(code):
    return pynvml.NVMLError(code)


class Recorded:
    """What pynvml does on a machine with an H100, 11 GiB in use by process 4242, and an A100 in two instances."""

    NVMLError = pynvml.NVMLError
    NVML_DEVICE_MIG_ENABLE = pynvml.NVML_DEVICE_MIG_ENABLE
    nvmlEventTypeXidCriticalError = pynvml.nvmlEventTypeXidCriticalError
    NAMES = {
        WHOLE: "NVIDIA H100 80GB HBM3",
        SPLIT: "NVIDIA A100-SXM4-40GB",
        PARTS[0]: "NVIDIA A100-SXM4-40GB MIG 3g.20gb",
        PARTS[1]: "NVIDIA A100-SXM4-40GB MIG 3g.20gb",
    }
    TOTALS = {WHOLE: 85520809984, SPLIT: 42949672960, PARTS[0]: 20937965568, PARTS[1]: 20937965568}
    BUSES = {WHOLE: b"00000000:18:00.0", SPLIT: b"00000000:3B:00.0"}

    def __init__(self) -> None:
        self.used = dict.fromkeys(self.TOTALS, 0) | {WHOLE: 11 * GIB}
        self.lost: set[str] = set()
        self.events: list[tuple[str, int]] = []

    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return (WHOLE, SPLIT)[index]

    def nvmlDeviceGetUUID(self, handle: str) -> str:
        return handle

    def nvmlDeviceGetName(self, handle: str) -> str:
        return self.NAMES[handle]

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> object:
        if handle in self.lost:
            raise failure(pynvml.NVML_ERROR_GPU_IS_LOST)
        total, used = self.TOTALS[handle], self.used[handle]
        return pynvml.c_nvmlMemory_t(total=total, free=total - used, used=used)

    def nvmlDeviceGetMigMode(self, handle: str) -> list[int]:
        if handle == WHOLE:
            return [pynvml.NVML_DEVICE_MIG_DISABLE] * 2
        return [pynvml.NVML_DEVICE_MIG_ENABLE] * 2

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: str) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: str, index: int) -> str:
        if index not in (0, 2):
            raise failure(pynvml.NVML_ERROR_NOT_FOUND)
        return PARTS[index // 2]

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[object]:
        if handle in PARTS:
            raise failure(pynvml.NVML_ERROR_NOT_SUPPORTED)
        if not self.used[handle]:
            return []
        return [pynvml.nvmlStructToFriendlyObject(pynvml.c_nvmlProcessInfo_v2_t(pid=4242, usedGpuMemory=11 * GIB))]

    def nvmlEventSetCreate(self) -> object:
        return object()

    def nvmlDeviceRegisterEvents(self, handle: str, kinds: int, events: object) -> None:
        assert kinds == pynvml.nvmlEventTypeXidCriticalError

    def nvmlDeviceGetPciInfo(self, handle: str) -> object:
        return pynvml.nvmlPciInfo_t(busId=self.BUSES[handle])

    def nvmlEventSetWait(self, events: object, milliseconds: int) -> object:
        assert milliseconds == 0
        if not self.events:
            raise failure(pynvml.NVML_ERROR_TIMEOUT)
        uuid, number = self.events.pop(0)
        found = pynvml.c_nvmlEventData_t(eventType=pynvml.nvmlEventTypeXidCriticalError, eventData=number)
        return _Event(found, uuid)


class _Event:
    def __init__(self, data: ctypes.Structure, uuid: str) -> None:
        self.eventData, self.device = data.eventData, uuid


@pytest.fixture
def nvml():
    return Recorded()


def test_a_partitioned_card_is_as_many_gpus_as_it_has_instances(nvml):
    found = NvmlGpus(nvml).find()
    assert [(gpu.id, gpu.uuid) for gpu in found] == [("cuda:0", WHOLE), ("cuda:1.0", PARTS[0]), ("cuda:1.2", PARTS[1])]
    node = discover(1, 0, NvmlGpus(nvml))
    assert [device.kind for device in node.devices] == ["h100", *["NVIDIA A100-SXM4-40GB MIG 3g.20gb"] * 2, CPU]
    assert node.devices[1].hardware.unknown_accelerator.marketed_memory_gb == 20.9
    assert [device.uuid for device in node.devices] == [WHOLE, *PARTS, ""]


def test_memory_is_that_of_every_process(nvml):
    gpus = NvmlGpus(nvml)
    whole, part, _ = gpus.find()
    use = gpus.use(whole)
    assert (use.total, use.free, dict(use.by_process)) == (85520809984, 85520809984 - 11 * GIB, {4242: 11 * GIB})
    assert gpus.use(part).by_process == {}


def test_a_gpu_that_disappears_or_reports_a_fault_is_taken_out_with_its_instances(nvml):
    gpus = NvmlGpus(nvml)
    whole, part, other = gpus.find()
    nvml.lost.add(WHOLE)
    assert "GPU is lost" in gpus.use(whole).fault
    nvml.lost.clear()
    assert gpus.use(whole).fault == ""
    nvml.events += [(WHOLE, 31), (SPLIT, 79)]  # an illegal address of a program, and a card off the bus
    assert gpus.use(whole).fault == ""
    for gpu in (part, other):
        assert "XID 79" in gpus.use(gpu).fault


@pytest.mark.parametrize(
    ("visible", "ids"),
    [
        (None, ["cuda:0", "cuda:1.0", "cuda:1.2"]),
        ("0", ["cuda:0"]),
        ("1", ["cuda:1.0", "cuda:1.2"]),
        (f"{PARTS[1]}", ["cuda:1.2"]),
        (WHOLE[:12], ["cuda:0"]),
        ("", []),
        ("-1", []),
    ],
)
def test_the_operator_restricts_them_as_for_any_cuda_program(nvml, monkeypatch, visible, ids):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [gpu.id for gpu in NvmlGpus(nvml, visible).find()] == ids


def test_one_card_that_does_not_answer_hides_no_other(nvml):
    nvml.lost.add(WHOLE)
    assert [gpu.id for gpu in NvmlGpus(nvml).find()] == ["cuda:1.0", "cuda:1.2"]


def test_without_a_driver_there_is_none(nvml):
    def missing() -> None:
        raise failure(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    nvml.nvmlInit = missing
    assert NvmlGpus(nvml).find() == []
