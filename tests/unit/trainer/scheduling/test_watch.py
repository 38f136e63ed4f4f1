# SPDX-License-Identifier: Apache-2.0
"""What running jobs are told of the machine."""

import pytest
from finetree_api.trainer.v1 import event_pb2, job_pb2
from finetree_api.types.v1 import hardware_pb2
from finetree_trainer.joblog.log import EventLog
from finetree_trainer.scheduling.devices import Device
from finetree_trainer.scheduling.fit import Holder
from finetree_trainer.scheduling.machine.nvml import GpuUse
from finetree_trainer.scheduling.queue import JobQueue
from finetree_trainer.scheduling.watch import MachineWatch
from finetree_trainer.store import events

GPU = Device("n", "cuda:0", hardware_pb2.Hardware(accelerator="h100", count=1), "H100", 80 << 30)
CPU = Device("n", "cpu", hardware_pb2.Hardware(cpu=hardware_pb2.CpuDevice(cores=4), count=1), "CPU", 64 << 30)


@pytest.fixture
async def told(store, ledger, new_row, create_job):
    """`await told()`: one more look, and the codes of all alerts of a job on the GPU so far."""
    log = EventLog(store)
    memory = ledger([GPU, CPU])
    queue = JobQueue(log, [GPU, CPU], memory)
    record = job_pb2.Job(uid="a")
    record.train.spec.hardware.CopyFrom(GPU.hardware)
    record.estimate.host_bytes.expected = 10 << 30
    row = new_row("a", state=job_pb2.JOB_STATE_RUNNING, attempt=1, record=record.SerializeToString())
    create_job(row)
    queue.recover([row])
    queue.hold(GPU.slots(), Holder("a", "jobs/a", row.task))
    watch = MachineWatch(log, queue, memory)

    async def look() -> list[str]:
        await watch.look()
        last = (await log.row("a")).last_seq
        found, _ = await store.read(lambda connection: events.read_after(connection, "a", 0, last_seq=last))
        return [event.alert.code for event in found if event.kind == event_pb2.EVENT_KIND_ALERT]

    look.watch = watch
    return look


async def test_a_job_is_told_once_that_its_memory_is_gone_and_again_after_it_was_back(told, meter):
    assert await told() == []
    meter.set(free=6 << 30)
    assert await told() == ["PROMISED_MEMORY_TAKEN"]
    assert await told() == ["PROMISED_MEMORY_TAKEN"]
    meter.set(free=60 << 30)
    await told()
    meter.set(free=6 << 30)
    assert await told() == ["PROMISED_MEMORY_TAKEN"] * 2


async def test_a_gpu_that_fails_is_said_to_its_job(told, meter):
    meter.set(gpus={"cuda:0": GpuUse(fault="the driver reported XID 79; it has to be reset")})
    assert await told() == ["DEVICE_LOST"]
    assert told.watch._queue._wake.is_set()
