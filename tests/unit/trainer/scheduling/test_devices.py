# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest
from finetree_api.types.v1 import hardware_pb2
from finetree_runtime.errors import FailedPrecondition, InvalidArgument
from finetree_trainer.scheduling import devices
from finetree_trainer.scheduling.devices import Device, Slot, accelerator_name, matching, placements
from finetree_trainer.scheduling.machine.cores import usable_cores
from finetree_trainer.scheduling.machine.meter import usable_memory

GIB = 1024**3
Hardware = hardware_pb2.Hardware
GPU = Device("n", "cuda:0", Hardware(accelerator="rtx-4090", count=1), "NVIDIA GeForce RTX 4090", 24 * GIB)
TWIN = Device("n", "cuda:1", Hardware(accelerator="rtx-4090", count=1), "NVIDIA GeForce RTX 4090", 24 * GIB)
CPU = Device("n", "cpu", Hardware(cpu=hardware_pb2.CpuDevice(cores=2), count=1), "CPU", 8 * GIB, 2, 1)


@pytest.mark.parametrize(
    ("name", "gib", "known"),
    [
        ("NVIDIA GeForce RTX 4090", 24, "rtx-4090"),
        ("NVIDIA H100 80GB HBM3", 80, "h100"),
        ("NVIDIA H100 PCIe", 80, "h100-pcie"),
        ("NVIDIA H200", 141, "h200"),
        ("NVIDIA A100-SXM4-40GB", 40, "a100-40gb"),
        ("NVIDIA A100-SXM4-80GB", 80, "a100-80gb"),
        ("NVIDIA A100 80GB PCIe", 80, "a100-80gb-pcie"),
        ("Tesla T4", 16, "t4"),
        ("Tesla V100-SXM2-16GB", 16, "v100-16gb"),
        ("NVIDIA L4", 24, "l4"),
        ("NVIDIA L40S", 48, "l40s"),
        ("NVIDIA RTX A6000", 48, "rtx-a6000"),
        ("NVIDIA GeForce RTX 4060 Ti", 16, "rtx-4060-ti-16gb"),
        ("NVIDIA GeForce RTX 4060 Ti", 8, "rtx-4060-ti"),
        ("NVIDIA GeForce RTX 5060 Ti", 15.9, "rtx-5060-ti-16gb"),
        ("NVIDIA GeForce RTX 3060", 11.6, "rtx-3060"),
        ("NVIDIA GeForce RTX 3060", 7.8, "rtx-3060-8gb"),
        ("NVIDIA GeForce RTX 3080", 9.8, "rtx-3080"),
        ("NVIDIA GeForce RTX 3080", 11.8, "rtx-3080-12gb"),
        ("NVIDIA GeForce RTX 4070 Laptop GPU", 8, "rtx-4070-laptop"),
        ("NVIDIA GeForce RTX 3080 Laptop GPU", 15.6, "rtx-3080-laptop-16gb"),
        ("NVIDIA RTX 6000 Ada Generation", 47.4, "rtx-6000-ada"),
        ("NVIDIA H100 NVL", 94, "h100-nvl"),
        ("Tesla V100S-PCIE-32GB", 32, "v100-32gb-pcie"),
        ("NVIDIA GH200 480GB", 96, "gh200-96gb"),
        ("NVIDIA GB200", 186, "gb200"),
        ("NVIDIA GB300", 288, "gb300"),
        ("NVIDIA B300 SXM6 AC", 288, "b300"),
        ("NVIDIA H20", 96, "h20"),
        ("NVIDIA GB10", 128, "gb10"),
    ],
)
def test_cards_are_called_as_the_catalog_calls_them(name, gib, known):
    assert accelerator_name(name, gib * GIB) == known


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        (Hardware(), [GPU, TWIN]),
        (Hardware(cpu=hardware_pb2.CpuDevice()), [CPU]),
        (Hardware(accelerator="RTX-4090", count=2), [GPU, TWIN]),
        (Hardware(unknown_accelerator=hardware_pb2.UnknownAccelerator(marketed_memory_gb=24)), [GPU, TWIN]),
    ],
    ids=["nothing", "cpu", "a name in any case", "a memory class"],
)
def test_a_spec_can_run_on_every_device_of_its_kind(wanted, chosen):
    assert matching([GPU, TWIN, CPU], wanted) == chosen


@pytest.mark.parametrize(
    "wanted",
    [
        Hardware(accelerator="h100"),
        Hardware(accelerator="rtx-4090", count=2),
        Hardware(unknown_accelerator=hardware_pb2.UnknownAccelerator(marketed_memory_gb=80)),
    ],
    ids=["another card", "two of them", "another memory class"],
)
def test_what_is_not_there_is_refused_with_what_is(wanted):
    with pytest.raises(FailedPrecondition) as error:
        matching([GPU, CPU], wanted)
    assert error.value.reason == "NO_SUCH_DEVICE"
    assert error.value.metadata["devices"] == "rtx-4090, cpu"


def test_the_cpu_is_the_last_device_and_shares_its_cores_among_its_slots():
    node = devices.discover(cpu_slots=2, cpu_threads=0)
    cpu = node.devices[-1]
    assert cpu is node.cpu
    assert [(slot.node, slot.device, slot.index) for slot in cpu.slots()] == [
        (node.name, "cpu", 0),
        (node.name, "cpu", 1),
    ]
    assert cpu.threads == cpu.hardware.cpu.cores == max(1, usable_cores() // 2)
    assert 0 < cpu.total_bytes == usable_memory()


def test_a_slot_is_read_as_it_was_written():
    for slot in (*GPU.slots(), *CPU.slots()):
        assert Slot.parse(str(slot)) == slot


def test_devices_are_placed_node_by_node():
    far = [Slot("m", "cuda:0", 0), Slot("m", "cuda:1", 0)]
    found = placements([*GPU.slots(), *far, *TWIN.slots()])
    assert [(each.node, list(each.device_ids)) for each in found] == [
        ("n", ["cuda:0", "cuda:1"]),
        ("m", ["cuda:0", "cuda:1"]),
    ]


@pytest.mark.parametrize(
    "wanted",
    [Hardware(cpu=hardware_pb2.CpuDevice(), count=3), Hardware(cpu=hardware_pb2.CpuDevice(cores=8), count=3)],
    ids=["its own cores", "cores of another machine"],
)
def test_processes_on_the_cpu_share_the_threads_of_one_slot(wanted):
    cpu = Device("n", "cpu", Hardware(cpu=hardware_pb2.CpuDevice(cores=3), count=1), "CPU", 8 * GIB, 2, threads=3)
    assert matching([GPU, cpu], wanted) == [cpu]
    wanted.count = 4
    with pytest.raises(InvalidArgument, match="lower it to 3, or give slots more threads") as error:
        matching([GPU, cpu], wanted)
    (violation,) = error.value.violations
    assert (error.value.reason, violation.field_path) == ("THREADS_TOO_FEW", "job.train.spec.hardware.count")


def test_a_machine_without_gpus_has_threads_for_whoever_names_no_device():
    assert matching([replace(CPU, threads=2)], Hardware(count=2)) == [replace(CPU, threads=2)]
