# SPDX-License-Identifier: Apache-2.0
"""Who holds a memory and what is left to promise, from readings that a test sets."""

import dataclasses

import pytest
from finetree_api.types.v1 import hardware_pb2
from finetree_trainer.scheduling.demand import Demand, needed
from finetree_trainer.scheduling.devices import Device
from finetree_trainer.scheduling.machine.meter import Session
from finetree_trainer.scheduling.machine.nvml import GpuUse
from finetree_trainer.scheduling.memory import WorkerProcess

GIB = 1 << 30
CPU = Device("n", "cpu", hardware_pb2.Hardware(cpu=hardware_pb2.CpuDevice(cores=4), count=1), "CPU", 100 * GIB, 2, 2)
GPU = Device("n", "cuda:0", hardware_pb2.Hardware(accelerator="h100", count=1), "H100", 80 * GIB, uuid="GPU-1")
ON_CPU, ON_GPU = frozenset({CPU.place}), frozenset({GPU.place})


def test_what_is_promised_and_not_taken_yet_is_not_promised_again(ledger, meter):
    memory = ledger([CPU], reserve=2 * GIB)
    memory.workers = lambda: [
        WorkerProcess(1, "a", devices=("cpu",)),
        WorkerProcess(2, "b", devices=("cpu",)),
        WorkerProcess(3),
        WorkerProcess(4, resting=True, devices=("cpu",)),
    ]
    memory.promised = lambda: {"a": Demand("cpu", 1, ON_CPU, memory=(20 * GIB,)), "b": Demand("cpu", 1, ON_CPU)}
    sessions = {1: Session(5 * GIB), 2: Session(7 * GIB), 3: Session(GIB), 4: Session(3 * GIB), 9: Session(30 * GIB)}
    meter.set(total=100 * GIB, free=50 * GIB, sessions=sessions, own=GIB)
    host = memory.budgets(memory.read()).host
    assert [(each.job, each.promised, each.used) for each in host.held] == [("a", 20 * GIB, 5 * GIB), ("b", 0, 7 * GIB)]
    assert (host.used_by_us, host.used_by_others) == (17 * GIB, 33 * GIB)
    assert (host.outstanding, host.available, host.taken_from_jobs) == (15 * GIB, 33 * GIB, 0)
    assert memory.to_give(CPU) == 37 * GIB
    assert host.in_words() == (
        "12.0 used by running jobs, 15.0 promised to them, 5.0 by the trainer and workers without a job, "
        "33.0 by other programs, 2.0 kept in reserve"
    )
    # Others take what was promised.
    meter.set(free=10 * GIB)
    host = memory.budgets(memory.read()).host
    assert (host.used_by_others, host.available, host.taken_from_jobs) == (73 * GIB, 0, 5 * GIB)


@pytest.mark.parametrize(
    ("figures", "capacity", "expected"),
    [
        ((9, 6, 4), 10, 9),
        ((11, 6, 4), 10, 6),
        ((14, 12, 4), 10, 4),
        ((14, 12, 11), 10, 11),
        ((5,), 10, 5),
        ((), 10, 0),
    ],
    ids=["the upper end", "the middle", "the lower end", "none fits", "one figure", "nothing is known"],
)
def test_the_largest_figure_that_could_ever_fit_is_what_must_be_free(figures, capacity, expected):
    assert needed(figures, capacity) == expected


def test_a_gpus_memory_is_shared_out_by_what_the_driver_tells(ledger, meter):
    memory = ledger([GPU, CPU])
    memory.workers = lambda: [WorkerProcess(1, "a", devices=("cuda:0",))]
    memory.promised = lambda: {"a": Demand("h100", 1, ON_GPU, memory=(30 * GIB,), host=(4 * GIB,))}
    told = GpuUse(80 * GIB, 40 * GIB, {11: 10 * GIB, 99: 30 * GIB})
    meter.set(sessions={1: Session(GIB, pids=(1, 11))}, gpus={"cuda:0": told})
    budgets = memory.budgets(memory.read())
    gpu = budgets.of(GPU.place)
    assert (gpu.used_by_us, gpu.used_by_others, gpu.outstanding) == (10 * GIB, 30 * GIB, 20 * GIB)
    assert budgets.host.outstanding == 3 * GIB
    # In a container the driver names no process: up to the promise it is taken for the job's.
    meter.set(gpus={"cuda:0": dataclasses.replace(told, by_process={})})
    gpu = memory.budgets(memory.read()).of(GPU.place)
    assert (gpu.used_by_us, gpu.used_by_others) == (30 * GIB, 10 * GIB)


def test_processor_time_is_told_apart_between_two_readings(ledger, meter):
    memory = ledger([CPU])
    memory.workers = lambda: [WorkerProcess(1, "a")]
    meter.set(at=10.0, busy=100.0, own_cpu=5.0, sessions={1: Session(cpu=50.0)})
    memory.read()
    assert memory.processors() is None
    meter.set(at=14.0, busy=112.0, own_cpu=6.0, sessions={1: Session(cpu=53.0)}, load=2.5)
    memory.read()
    use = memory.processors()
    assert (use.ours, use.others, use.load) == (1.0, 2.0, 2.5)
    # Too near to the last one to say anything: it is compared with the one before.
    meter.set(at=14.5, busy=113.0)
    memory.read()
    assert memory.processors().others == pytest.approx(9 / 4.5)
