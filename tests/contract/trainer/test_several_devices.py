# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN003 - arguments are fields of protobuf messages
"""Jobs that need several devices: where they are placed, what they wait for, and what no machine here will have."""

import grpc
import pytest
from finetree_api.trainer.v1 import job_pb2, trainer_pb2
from finetree_api.types.v1 import hardware_pb2, method_pb2, run_spec_pb2, training_pb2
from finetree_trainer.scheduling import devices
from finetree_trainer.scheduling.machine.meter import MachineMeter, Reading
from finetree_trainer.scheduling.machine.nvml import GpuUse
from trainer_harness import ROWS, assert_whole, job_request, jsonl, refusal, trainer

GIB = 1024**3
FULL, COPIES = hardware_pb2.SHARDING_FULL, hardware_pb2.SHARDING_REPLICATED
Hardware = hardware_pb2.Hardware


@pytest.fixture
def cards(monkeypatch):
    """A machine with three H100 and a CPU whose two slots have two threads each."""
    card = Hardware(accelerator="h100", count=1)
    found = [devices.Device("n", f"cuda:{i}", card, "H100", 80 * GIB, threads=2) for i in range(3)]
    cpu = Hardware(cpu=hardware_pb2.CpuDevice(cores=2), count=1)
    found.append(devices.Device("n", "cpu", cpu, "CPU", 64 * GIB, slot_count=2, threads=2))
    use = {device.id: GpuUse(80 * GIB, 80 * GIB) for device in found[:3]}
    reading = Reading(total=64 * GIB, free=60 * GIB, sessions={}, gpus=use)
    monkeypatch.setattr(devices, "discover", lambda *_: devices.Node("n", tuple(found)))
    monkeypatch.setattr(MachineMeter, "read", lambda _: reading)


async def start(talk, dataset, **hardware):
    task = job_pb2.TrainTask(spec=run_spec_pb2.RunSpec(hardware=Hardware(**hardware)))
    return (await talk.train(dataset=dataset, task=task)).name


async def test_a_job_has_all_its_gpus_at_once_and_others_wait_until_they_are_free(tmp_path, cards):
    async with trainer(tmp_path, {"steps": 10**6, "delay": 0.02}) as talk:
        dataset = (await talk.upload(jsonl(ROWS))).name
        pair = await start(talk, dataset, accelerator="h100", count=2, sharding=FULL)
        await talk.until(pair, lambda event: event.state == job_pb2.JOB_STATE_RUNNING)
        (placement,) = (await talk.job(pair)).placements
        assert (placement.node, list(placement.device_ids)) == ("n", ["cuda:0", "cuda:1"])
        second = await start(talk, dataset, accelerator="h100", count=2)
        await talk.until(second, lambda event: event.queue_changed.code == "WAITING_FOR_DEVICE")
        waiting = await talk.job(second)
        assert waiting.blocked_by.startswith("it needs 2 devices at once and 1 is free; 0 jobs ahead and 1 running")
        # One that needs one device passes it.
        single = await start(talk, dataset, accelerator="h100")
        await talk.until(single, lambda event: event.state == job_pb2.JOB_STATE_RUNNING)
        assert list((await talk.job(single)).placements[0].device_ids) == ["cuda:2"]
        await talk.cancel(pair)
        events = await talk.until(second, lambda event: event.state == job_pb2.JOB_STATE_RUNNING)
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        assert list((await talk.job(second)).placements[0].device_ids) == ["cuda:0", "cuda:1"]
        for name in (second, single):
            await talk.cancel(name)
            assert_whole(await talk.events(name))


async def test_processes_on_the_cpu_are_placed_in_one_slot_with_its_threads(tmp_path, cards):
    async with trainer(tmp_path, {"steps": 10**6, "delay": 0.02}) as talk:
        dataset = (await talk.upload(jsonl(ROWS))).name
        two = await start(talk, dataset, cpu=hardware_pb2.CpuDevice(), count=2)
        await talk.until(two, lambda event: event.state == job_pb2.JOB_STATE_RUNNING)
        job = await talk.job(two)
        assert list(job.placements[0].device_ids) == ["cpu"]
        assert (job.train.spec.hardware.count, job.train.spec.hardware.sharding) == (2, COPIES)
        (worker,) = talk.application._supervisor._workers.values()
        assert worker.task.threads == 2
        await talk.pause(two)
        await talk.until(two, lambda event: event.state == job_pb2.JOB_STATE_PAUSED)
        await talk.resume(two)
        await talk.until(two, lambda event: event.attempt == 2 and event.state == job_pb2.JOB_STATE_RUNNING)
        await talk.cancel(two)
        assert_whole(await talk.events(two))


REFUSED = {
    "more GPUs than there are": (
        run_spec_pb2.RunSpec(hardware=Hardware(accelerator="h100", count=4)),
        ("NO_SUCH_DEVICE", "hardware", "4 devices of the kind"),
    ),
    "more processes than threads": (
        run_spec_pb2.RunSpec(hardware=Hardware(cpu=hardware_pb2.CpuDevice(cores=16), count=3)),
        ("THREADS_TOO_FEW", "hardware.count", "lower it to 2"),
    ),
    "several machines": (
        run_spec_pb2.RunSpec(hardware=Hardware(accelerator="h100", count=2, nodes=2)),
        ("SETTING_NOT_SUPPORTED", "hardware.nodes", "is more than the 1"),
    ),
    "a part that is divided": (
        run_spec_pb2.RunSpec(hardware=Hardware(accelerator="h100", count=2, sharding=hardware_pb2.SHARDING_GRADIENTS)),
        ("SETTING_NOT_SUPPORTED", "hardware.sharding", "use SHARDING_FULL"),
    ),
    "8-bit states that are divided": (
        run_spec_pb2.RunSpec(
            optimizer=training_pb2.OPTIMIZER_ADAMW_8BIT, hardware=Hardware(accelerator="h100", count=2, sharding=FULL)
        ),
        ("SETTING_NOT_SUPPORTED", "optimizer", "use OPTIMIZER_ADAMW"),
    ),
    "an 8-bit base that is divided": (
        run_spec_pb2.RunSpec(
            qlora=method_pb2.Qlora(quantization=method_pb2.QUANTIZATION_INT8),
            hardware=Hardware(accelerator="h100", count=2, sharding=FULL),
        ),
        ("SETTING_NOT_SUPPORTED", "hardware.sharding", "use SHARDING_REPLICATED"),
    ),
}


async def test_what_cannot_be_trained_on_several_devices_is_refused_with_field_and_remedy(tmp_path, cards):
    async with trainer(tmp_path) as talk:
        dataset = (await talk.upload(jsonl(ROWS))).name
        for what, (spec, (reason, field, remedy)) in REFUSED.items():
            request = job_request(dataset)
            request.train.spec.MergeFrom(spec)
            for call in (
                talk.stub.ValidateJob(trainer_pb2.ValidateJobRequest(job=request)),
                talk.stub.CreateJob(trainer_pb2.CreateJobRequest(job=request)),
            ):
                with pytest.raises(grpc.aio.AioRpcError, match=remedy) as refused:
                    await call
                _, found, _, (violation, *_) = refusal(refused.value)
                place = getattr(violation, "field", "") or violation.subject
                assert (found, place) == (reason, f"job.train.spec.{field}"), what
        assert not (await talk.stub.ListJobs(trainer_pb2.ListJobsRequest())).jobs
