# SPDX-License-Identifier: Apache-2.0
"""Several jobs at once: slots, promised memory, who waits for what, and what GetCapacity says of it."""

import asyncio
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from finetree_api.trainer.v1 import capacity_pb2, event_pb2, job_pb2, trainer_pb2
from finetree_api.types.v1 import method_pb2, run_spec_pb2
from finetree_trainer.scheduling import devices
from finetree_trainer.scheduling.machine.meter import MachineMeter, Reading
from trainer_harness import ROWS, FixedEstimator, assert_whole, job_request, jsonl, refusal, trainer

GIB = 1 << 30
PREPARING = job_pb2.JOB_STATE_PREPARING


class ByRank(FixedEstimator):
    """A job needs as many GiB as its rank."""

    async def estimate(self, request):
        estimate = await super().estimate(request)
        bytes_ = request.spec.lora.rank * GIB
        peak = estimate.memory.device_bytes
        peak.low, peak.expected, peak.high = 0.9 * bytes_, 0.95 * bytes_, bytes_
        return estimate


@pytest.fixture
def machine(monkeypatch):
    """A machine of 64 GiB of which other programs hold what a test sets."""

    class Machine:
        others = 40 * GIB

    monkeypatch.setattr(
        MachineMeter, "read", lambda _: Reading(total=64 * GIB, free=64 * GIB - Machine.others, sessions={})
    )
    monkeypatch.setattr(devices, "usable_memory", lambda: 64 * GIB)
    return Machine


async def train(talk, dataset, gb):
    task = job_pb2.TrainTask(spec=run_spec_pb2.RunSpec(lora=method_pb2.Lora(rank=gb)))
    return (await talk.train(dataset=dataset, task=task)).name


def spans(events):
    """From when until when a job had a worker, by its log."""
    starts = [e.event_time.ToMicroseconds() for e in events if e.state_changed.current == PREPARING]
    return starts[0], events[-1].event_time.ToMicroseconds()


async def capacity(talk):
    (node,) = (await talk.stub.GetCapacity(capacity_pb2.GetCapacityRequest())).nodes
    return node, node.devices[-1]


async def test_twelve_jobs_share_three_slots_and_no_more_memory_than_there_is(tmp_path, machine):
    sizes = (8, 8, 20, 2, 6, 2, 12, 1, 9, 1, 3, 23)
    script = {"steps": 2, "delay": 0.02}
    async with trainer(tmp_path, script, ByRank(), cpu_slots=3, memory_reserve_bytes=GIB) as talk:
        dataset = (await talk.upload(jsonl(ROWS))).name
        names = [await train(talk, dataset, gb) for gb in sizes]
        logs = [await talk.events(name, 60) for name in names]
        # A slot is free when its worker is proven dead, a moment after its job has ended.
        async with asyncio.timeout(60):
            while (await capacity(talk))[1].free_slots < 3:  # noqa: ASYNC110 - the service's state
                await asyncio.sleep(0.05)
        _, cpu = await capacity(talk)
        assert (list(cpu.running_jobs), cpu.memory.promised_bytes) == ([], 0)
    for events in logs:
        assert_whole(events)
        assert events[-1].terminal.state == job_pb2.JOB_STATE_SUCCEEDED
        assert events[-1].attempt == 1
    runs = [(*spans(events), gb) for events, gb in zip(logs, sizes, strict=True)]
    for begin, _, _ in runs:
        beside = [gb for start, end, gb in runs if start <= begin < end]
        assert len(beside) <= 3
        assert sum(beside) <= 23
    # Who does not fit is passed by smaller ones, and equal ones keep their order.
    starts = [begin for begin, _, _ in runs]
    assert starts[2] > starts[3]
    for gb in (1, 2, 8):
        same = [begin for begin, _, other in runs if other == gb]
        assert same == sorted(same)


async def test_a_job_waits_for_memory_that_others_hold_and_starts_when_it_is_free(tmp_path, machine):
    async with trainer(tmp_path, {"steps": 2}, ByRank(), cpu_slots=2, memory_reserve_bytes=GIB) as talk:
        dataset = (await talk.upload(jsonl(ROWS))).name
        waits = await train(talk, dataset, 30)
        events = await talk.until(waits, lambda event: event.queue_changed.code == "MEMORY_IN_USE")
        said = events[-1].queue_changed.blocked_by
        assert "needs 30.0 GiB" in said
        assert "40.0 by other programs" in said
        job = await talk.job(waits)
        assert (job.state, job.state_reason.code) == (job_pb2.JOB_STATE_QUEUED, "MEMORY_IN_USE")
        assert "by other programs" in job.state_reason.text
        passes = await train(talk, dataset, 5)
        assert (await talk.events(passes))[-1].terminal.state == job_pb2.JOB_STATE_SUCCEEDED
        machine.others = 10 * GIB
        events = await talk.events(waits, 60)
        assert events[-1].terminal.state == job_pb2.JOB_STATE_SUCCEEDED
        # The figures change with every look, the log does not.
        assert sum(event.kind == event_pb2.EVENT_KIND_QUEUE_CHANGED for event in events) <= 4


async def test_what_could_not_even_start_alone_is_refused(tmp_path, machine):
    async with trainer(tmp_path, {}, ByRank(), memory_reserve_bytes=GIB) as talk:
        dataset = (await talk.upload(jsonl(ROWS))).name
        template = job_request(dataset)
        template.train.spec.lora.rank = 80
        for call, request in (
            (talk.stub.CreateJob, trainer_pb2.CreateJobRequest(job=template)),
            (talk.stub.ValidateJob, trainer_pb2.ValidateJobRequest(job=template)),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await call(request)
            code, reason, info, _ = refusal(error.value)
            assert (code, reason) == ("RESOURCE_EXHAUSTED", "OUT_OF_MEMORY_PREFLIGHT")
            assert int(info.metadata["needed_bytes"]) == 72 * GIB > int(info.metadata["capacity_bytes"])


async def test_a_promise_that_others_break_is_said_and_ends_nothing(tmp_path, machine, monkeypatch):
    monkeypatch.setattr("finetree_trainer.scheduling.watch.PERIOD_SECONDS", 0.05)
    async with trainer(tmp_path, {"steps": 10**6, "delay": 0.02}, ByRank(), memory_reserve_bytes=GIB) as talk:
        name = await train(talk, "", 20)
        await talk.until(name, lambda event: event.step_metrics.step == 1)
        _, cpu = await capacity(talk)
        assert cpu.memory.promised_bytes == 20 * GIB
        assert [(each.job, each.promised_bytes) for each in cpu.memory.jobs] == [(name, 20 * GIB)]
        assert (cpu.memory.available_bytes, cpu.memory.used_by_others_bytes) == (3 * GIB, 40 * GIB)
        assert [(each.slot, each.job) for each in cpu.slot_uses] == [(0, name)]
        machine.others = 55 * GIB
        events = await talk.until(name, lambda event: event.alert.code == "PROMISED_MEMORY_TAKEN")
        assert "55.0 by other programs" in events[-1].alert.message
        await talk.until(name, lambda event: event.seq > events[-1].seq and event.HasField("step_metrics"))
        await talk.cancel(name)
        await talk.events(name)


async def test_cancel_pause_and_resume_free_and_take_slots(tmp_path, machine):
    async with trainer(tmp_path, {"steps": 10**6, "delay": 0.02}, ByRank(), cpu_slots=2) as talk:
        dataset = (await talk.upload(jsonl(ROWS))).name
        one, two, three = [await train(talk, dataset, 2) for _ in range(3)]
        for name in (one, two):
            await talk.until(name, lambda event: event.step_metrics.step == 1)
        job = await talk.job(three)
        assert (job.queue_position, job.state_reason.code) == (1, "WAITING_FOR_DEVICE")
        for name in (one, two):
            assert name.rpartition("/")[2] in job.blocked_by
        await talk.pause(one)
        await talk.until(three, lambda event: event.step_metrics.step == 1)
        await talk.resume(one)
        assert (await talk.job(one)).queue_position == 1
        await talk.cancel(two)
        await talk.until(one, lambda event: event.attempt == 2 and event.step_metrics.step > 0)
        _, cpu = await capacity(talk)
        assert sorted(cpu.running_jobs) == sorted([one, three])
        for name in (one, three):
            await talk.cancel(name)
            await talk.events(name)


HOG = "held = bytearray(b'x') * (1 << 30); print(flush=True)\nwhile True: pass"


async def test_capacity_tells_what_a_program_of_others_takes(tmp_path):
    """A GiB, to a quarter of it, and half a core. Other programs come and go beside the tests: it is looked again."""
    async with trainer(tmp_path, {}) as talk:
        async with asyncio.timeout(60):
            while True:
                before = (await capacity(talk))[1].memory
                hog = await asyncio.create_subprocess_exec(sys.executable, "-c", HOG, stdout=subprocess.PIPE)
                try:
                    await hog.stdout.readline()
                    after = (await capacity(talk))[1].memory
                    taken = after.used_by_others_bytes - before.used_by_others_bytes
                    freed = before.free_bytes - after.free_bytes
                    await asyncio.sleep(1.1)
                    node, _ = await capacity(talk)
                finally:
                    hog.kill()
                    await hog.communicate()
                near = all(abs(figure - 2**30) < 2**28 for figure in (taken, freed))
                if near and node.processors.used_by_others > 0.5:
                    break
        assert after.total_bytes == before.total_bytes
        assert after.used_by_us_bytes - before.used_by_us_bytes < 2**28
        assert node.processors.cores >= 1


async def test_a_workers_share_of_the_cores_is_in_its_task_and_its_estimate(tmp_path, machine, monkeypatch):
    from finetree_trainer.scheduling.machine import cores

    monkeypatch.setattr(cores, "usable_processors", lambda: [0, 1, 2, 3])
    monkeypatch.setattr(cores, "physical_cores", lambda _: [[0, 2], [1, 3]])
    monkeypatch.setattr(cores.ControlGroups, "processors", lambda _: float("inf"))
    estimator = ByRank()
    monkeypatch.chdir(tmp_path)
    async with trainer(tmp_path, {"steps": 1}, estimator, cpu_slots=2, data_dir=Path("data")) as talk:
        _, cpu = await capacity(talk)
        assert [list(each.processors) for each in cpu.slot_uses] == [[0, 2], [1, 3]]
        assert (cpu.threads_per_slot, cpu.hardware.cpu.cores) == (2, 2)
        dataset = (await talk.upload(jsonl(ROWS))).name
        template = job_request(dataset)
        template.train.spec.hardware.cpu.cores = 64
        answer = await talk.stub.ValidateJob(trainer_pb2.ValidateJobRequest(job=template))
        assert estimator.asked[-1].spec.hardware.cpu.cores == 2
        assert "CORES_OF_A_SLOT" in {remark.code for remark in answer.remarks}
        tasks = talk.application._supervisor._tasks
        name = await train(talk, dataset, 1)
        slots = next(each for each in talk.application._hardware.devices if each.id == "cpu").slots()
        built = [await tasks.build(name.rpartition("/")[2], [slot]) for slot in slots]
        assert Path(tasks.assign(built[0], 1, "secret").folders.work_dir).is_absolute()
        assert [(task.threads, list(task.processors)) for task in built] == [(2, [0, 2]), (2, [1, 3])]
        await talk.events(name)
