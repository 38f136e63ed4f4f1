# SPDX-License-Identifier: Apache-2.0
"""Which job starts on which devices, without any worker."""

import asyncio

import pytest
from finetree_api.trainer.v1 import job_pb2
from finetree_api.types.v1 import evidence_pb2, hardware_pb2
from finetree_trainer.joblog.log import EventLog
from finetree_trainer.scheduling.devices import Device, Slot
from finetree_trainer.scheduling.fit import Blocked, Holder, NotPlacedError
from finetree_trainer.scheduling.machine.nvml import GpuUse
from finetree_trainer.scheduling.order.backfill import PASSES
from finetree_trainer.scheduling.queue import JobQueue, Position

GPU = hardware_pb2.Hardware(accelerator="h100", count=1)
CPU = hardware_pb2.Hardware(cpu=hardware_pb2.CpuDevice(cores=4), count=1)


@pytest.fixture
async def queue(store, ledger, meter):
    """A queue of a machine with two GPUs and a CPU of two slots; `started` lists what it began."""
    devices = [Device("n", f"cuda:{index}", GPU, "H100", 80 << 30) for index in range(2)]
    devices.append(Device("n", "cpu", CPU, "CPU", 8 << 30, slot_count=2, threads=2))
    made = JobQueue(EventLog(store), devices, ledger(devices))
    made.meter = meter
    made.started = []

    async def start(uid, slots) -> bool:
        made.started.append((uid, [str(slot) for slot in slots]))
        made._drop(uid)
        return True

    made.start = start
    return made


@pytest.fixture
def enqueue(queue, new_row, create_job):
    """Create a job that waits for hardware, or that prepares a dataset where there is none."""

    def add(uid, hardware=None, *, needs=0, **changes) -> None:  # noqa: ANN003 - fields of the row
        """`needs` is the memory by its estimate, or its upper end, middle and lower end."""
        record = job_pb2.Job(uid=uid)
        if needs:
            high, expected, low = needs if isinstance(needs, tuple) else [needs] * 3
            record.estimate.device_bytes.MergeFrom(evidence_pb2.Interval(low=low, expected=expected, high=high))
        if hardware is None:
            record.prepare.dataset.name = "d"
        else:
            record.train.spec.hardware.CopyFrom(hardware)
        row = new_row(uid, state=job_pb2.JOB_STATE_QUEUED, record=record.SerializeToString(), **changes)
        create_job(row)
        queue.recover([row])

    return add


async def turn(queue) -> list[tuple[str, list[str]]]:
    """Let the queue start what it can; what it started."""
    await queue.start_all()
    started, queue.started = queue.started, []
    return started


async def test_jobs_of_one_kind_of_device_spread_over_the_devices(queue, enqueue):
    for uid in ("a", "b", "c"):
        enqueue(uid, GPU)
    assert await turn(queue) == [("a", ["n/cuda:0/0"]), ("b", ["n/cuda:1/0"])]
    text = "0 jobs ahead and 2 running on h100 (cuda:0: a, cuda:1: b)"
    assert queue.position("c") == Position(1, text, "WAITING_FOR_DEVICE")
    queue.release([slot for slot in queue.holders() if slot.device == "cuda:1"], "b")
    assert await turn(queue) == [("c", ["n/cuda:1/0"])]


async def test_a_job_goes_where_its_base_is_loaded_and_not_where_another_one_is(queue, enqueue):
    first, second = (slot for slot in queue.holders() if slot.device.startswith("cuda"))
    queue.rank_slots = lambda row: {second: -1} if row.uid == "same" else {first: 1}
    enqueue("other", GPU)
    assert await turn(queue) == [("other", ["n/cuda:1/0"])]
    queue.release([second], "other")
    enqueue("same", GPU)
    assert await turn(queue) == [("same", ["n/cuda:1/0"])]
    # Where nothing else is free, it is the place of the other one: that is ended.
    enqueue("third", GPU)
    assert await turn(queue) == [("third", ["n/cuda:0/0"])]


async def test_a_job_of_two_devices_waits_until_both_are_free(queue, enqueue):
    enqueue("one", GPU)
    await turn(queue)
    enqueue("two", hardware_pb2.Hardware(accelerator="h100", count=2))
    assert await turn(queue) == []
    queue.release([slot for slot in queue.holders() if slot.device == "cuda:0"], "one")
    assert await turn(queue) == [("two", ["n/cuda:0/0", "n/cuda:1/0"])]


async def test_what_needs_no_accelerator_runs_on_the_cpu(queue, enqueue):
    for uid in ("a", "b", "c", "d"):
        enqueue(uid, CPU)
    assert await turn(queue) == [("a", ["n/cpu/0"]), ("b", ["n/cpu/1"])]
    assert queue.position("c").blocked_by == "0 jobs ahead and 2 running on cpu (cpu: a, cpu: b)"
    assert queue.position("d").blocked_by == "1 job ahead and 2 running on cpu (cpu: a, cpu: b)"


async def test_what_prepares_does_not_wait_for_runs_and_comes_one_at_a_time(queue, enqueue):
    for uid, hardware in (("a", CPU), ("b", CPU), ("c", None), ("d", None), ("e", CPU)):
        enqueue(uid, hardware)
    assert await turn(queue) == [("a", ["n/cpu/0"]), ("b", ["n/cpu/1"]), ("c", ["n/cpu/-1"])]
    assert queue.position("d") == Position(1, "0 jobs ahead and 1 running on cpu (cpu: c)", "WAITING_FOR_DEVICE")
    assert queue.position("e").blocked_by == "0 jobs ahead and 2 running on cpu (cpu: a, cpu: b)"
    assert len(queue.holders_on(queue._devices[-1])) == 3
    queue.release([Slot.parse("n/cpu/-1")], "c")
    assert await turn(queue) == [("d", ["n/cpu/-1"])]


async def test_what_prepares_waits_for_memory_beside_a_run(queue, enqueue):
    queue.meter.set(free=1 << 30)
    enqueue("a")
    assert await turn(queue) == [("a", ["n/cpu/-1"])]  # nothing runs beside it
    queue.release([Slot.parse("n/cpu/-1")], "a")
    queue.meter.set(free=4 << 30)
    enqueue("b", CPU)
    assert await turn(queue) == [("b", ["n/cpu/0"])]
    queue.meter.set(free=3 << 30)
    enqueue("c")
    assert await turn(queue) == []
    assert queue.position("c").code == "MEMORY_IN_USE"
    queue.release([Slot.parse("n/cpu/0")], "b")
    assert await turn(queue) == [("c", ["n/cpu/-1"])]


async def test_a_suspended_job_lets_others_pass(queue, enqueue):
    enqueue("a", CPU, suspended=True)
    enqueue("b", CPU)
    assert queue.position("b").number == 1
    assert queue.position("a").blocked_by.startswith("suspended")
    assert await turn(queue) == [("b", ["n/cpu/0"])]


async def test_a_job_whose_device_is_gone_waits(queue, enqueue):
    enqueue("a", hardware_pb2.Hardware(accelerator="rtx-4090"))
    assert await turn(queue) == []
    text = "it needs 1 of the kind rtx-4090, and the machine has cpu, h100 now"
    position = queue.position("a")
    assert position == Position(1, text, "NO_SUCH_DEVICE")
    assert position.metadata == {"device_kind": "rtx-4090", "needed": "1", "devices": "h100,h100,cpu"}


async def test_a_worker_is_kept_warm_while_a_slot_is_free(queue, enqueue):
    warmed = []
    queue.prewarm = lambda: warmed.append(True)
    task = asyncio.create_task(queue.run())
    await asyncio.sleep(0)
    async with asyncio.timeout(60):
        while not warmed:  # noqa: ASYNC110 - the queue's own task
            await asyncio.sleep(0.001)
    task.cancel()


async def test_a_slot_that_another_job_was_given_since_is_not_freed_a_second_time(queue, enqueue):
    enqueue("a", CPU)
    assert await turn(queue) == [("a", ["n/cpu/0"])]
    slot = Slot.parse("n/cpu/0")
    queue.release([slot], "a")
    enqueue("b", CPU)
    assert await turn(queue) == [("b", ["n/cpu/0"])]
    queue.release([slot], "a")
    assert [held.name for held in queue.holders_on(queue._devices[-1]).values()] == [queue.holders()[slot].name]


async def test_a_job_whose_time_comes_while_a_round_still_works_is_not_left_waiting(queue, enqueue, monkeypatch):
    now, due = [1_000_000], 2_000_000
    queue._log.clock = lambda: now[0]
    waits = job_pb2.Job(uid="a")
    waits.state_reason.next_attempt_time.FromMicroseconds(due)
    enqueue("a", CPU, snapshot=waits.SerializeToString())

    begun = asyncio.Event()

    async def slow() -> None:
        now[0] = due

    async def start(uid, slots) -> bool:
        begun.set()
        queue._drop(uid)
        return True

    queue.start = start
    monkeypatch.setattr(queue, "_announce_positions", slow)
    running = asyncio.create_task(queue.run())
    await asyncio.wait_for(begun.wait(), 60)
    running.cancel()


async def test_what_cannot_be_started_lets_others_pass_and_is_tried_again(queue, enqueue):
    start, refusals = queue.start, ["a", "a"]

    async def refuse(uid, slots) -> bool:
        if uid in refusals:
            refusals.remove(uid)
            raise OSError(28, "No space left on device")
        return await start(uid, slots)

    queue.start = refuse
    enqueue("a", CPU)
    enqueue("b", CPU)
    assert await turn(queue) == [("b", ["n/cpu/0"])]
    assert queue.position("a") == Position(1, "it could not be started (OSError) and is tried again")
    running = asyncio.create_task(queue.run())
    async with asyncio.timeout(60):
        while not queue.started:  # noqa: ASYNC110 - the queue's own task
            await asyncio.sleep(0.01)
    running.cancel()
    assert queue.started == [("a", ["n/cpu/1"])]


async def test_a_job_waits_for_memory_that_others_hold_while_smaller_ones_pass(queue, enqueue):
    queue.meter.set(total=64 << 30, free=8 << 30)
    enqueue("large", CPU, needs=20 << 30)
    enqueue("small", CPU, needs=3 << 30)
    assert await turn(queue) == [("small", ["n/cpu/0"])]
    position = queue.position("large")
    assert position.code == "MEMORY_IN_USE"
    assert "needs 20.0 GiB" in position.blocked_by
    assert "56.0 by other programs" in position.blocked_by
    # Of what is free, three are promised: another small one would take what the first has not taken yet.
    enqueue("next", CPU, needs=6 << 30)
    assert await turn(queue) == []
    queue.meter.set(free=64 << 30)
    assert await turn(queue) == [("large", ["n/cpu/1"])]


async def test_what_can_never_be_free_is_not_waited_for(queue, enqueue):
    queue.meter.set(total=64 << 30, free=50 << 30)
    enqueue("wide", CPU, needs=(90 << 30, 45 << 30, 30 << 30))
    assert await turn(queue) == [("wide", ["n/cpu/0"])]


async def test_a_large_job_is_passed_a_bounded_number_of_times(queue, enqueue):
    pair = hardware_pb2.Hardware(accelerator="h100", count=2)
    enqueue("first", GPU)
    await turn(queue)
    enqueue("large", pair)
    passed = []
    for number in range(20):
        enqueue(f"s{number}", GPU)
        started = await turn(queue)
        if not started:
            break
        passed += [uid for uid, _ in started]
        queue.release([slot for slot in queue.holders() if slot.device == "cuda:1"], started[0][0])
    assert passed == [f"s{number}" for number in range(PASSES)]
    assert queue.position(f"s{PASSES}").code == "KEPT_FOR_ANOTHER"
    assert "large" in queue.position(f"s{PASSES}").blocked_by
    # What is kept is what it needs: the CPU is none of it.
    enqueue("cpu", CPU)
    assert await turn(queue) == [("cpu", ["n/cpu/0"])]
    queue.release([slot for slot in queue.holders() if slot.device == "cuda:0"], "first")
    assert await turn(queue) == [("large", ["n/cuda:0/0", "n/cuda:1/0"])]


async def test_memory_is_kept_for_a_large_job_only_where_our_own_jobs_are_in_its_way(queue, enqueue):
    queue.meter.set(total=64 << 30, free=40 << 30)
    enqueue("first", CPU, needs=20 << 30)
    await turn(queue)
    enqueue("large", CPU, needs=35 << 30)
    enqueue("hopeless", CPU, needs=60 << 30)
    for number in range(20):
        enqueue(f"s{number}", CPU, needs=1 << 30)
        started = await turn(queue)
        if not started:
            break
        queue.release([Slot.parse("n/cpu/1")], started[0][0])
    assert number == PASSES
    assert queue.position(f"s{PASSES}").code == "KEPT_FOR_ANOTHER"
    assert queue.position("hopeless").code == "MEMORY_IN_USE"
    queue.release([Slot.parse("n/cpu/0")], "first")
    assert [uid for uid, _ in await turn(queue)] == ["large", f"s{PASSES}"]
    # What the last one needs can never be free beside other programs: whoever comes passes it.
    for number in range(PASSES + 2):
        (last,) = [holder.uid for slot, holder in queue.holders().items() if holder and holder.uid != "large"]
        queue.release(queue.holders(), last)
        enqueue(f"t{number}", CPU, needs=1 << 30)
        assert [uid for uid, _ in await turn(queue)] == [f"t{number}"]


async def test_a_gpu_that_does_not_work_is_taken_out_and_said(queue, enqueue):
    broken = GpuUse(80 << 30, fault="the driver reported XID 79; it has to be reset")
    queue.meter.set(gpus={"cuda:0": broken, "cuda:1": GpuUse(80 << 30, 80 << 30)})
    enqueue("a", GPU)
    enqueue("b", GPU)
    assert await turn(queue) == [("a", ["n/cuda:1/0"])]
    queue.meter.set(gpus={"cuda:0": broken, "cuda:1": broken})
    await turn(queue)
    assert queue.position("b").code == "DEVICE_LOST"
    assert "XID 79" in queue.position("b").blocked_by


async def test_a_gpu_whose_memory_others_hold_is_waited_for(queue, enqueue):
    full = GpuUse(80 << 30, 10 << 30, {4242: 70 << 30})
    queue.meter.set(gpus={"cuda:0": full, "cuda:1": full})
    enqueue("a", GPU, needs=30 << 30)
    assert await turn(queue) == []
    position = queue.position("a")
    assert position.code == "MEMORY_IN_USE"
    assert "70.0 by other programs" in position.blocked_by
    queue.meter.set(gpus={"cuda:0": full, "cuda:1": GpuUse(80 << 30, 78 << 30)})
    assert await turn(queue) == [("a", ["n/cuda:1/0"])]


async def test_whom_a_limit_keeps_waiting_keeps_nobody_else(queue, enqueue):
    queue.may_start = lambda row, _: Blocked("LIMIT", "its project runs two jobs") if row.uid == "a" else None
    enqueue("a", CPU)
    enqueue("b", CPU)
    assert await turn(queue) == [("b", ["n/cpu/0"])]
    assert queue.position("a") == Position(1, "its project runs two jobs", "LIMIT")


async def test_a_job_that_holds_memory_is_wanted_by_one_that_waits_for_it(queue, enqueue):
    queue.meter.set(total=64 << 30, free=40 << 30)
    enqueue("lease", CPU, needs=30 << 30)
    await turn(queue)
    assert not queue.is_wanted("lease")
    enqueue("a", CPU, needs=20 << 30)
    await turn(queue)
    assert queue.is_wanted("lease")


async def test_processes_on_the_cpu_take_one_slot_and_are_promised_the_memory_of_all(queue, enqueue):
    queue.meter.set(total=64 << 30, free=50 << 30)
    two = hardware_pb2.Hardware(cpu=hardware_pb2.CpuDevice(cores=2), count=2)
    enqueue("two", two, needs=20 << 30)
    assert await turn(queue) == [("two", ["n/cpu/0"])]
    (demand,) = queue._promised().values()
    assert (demand.count, demand.host_bytes(64 << 30)) == (1, 40 << 30)
    # The other slot is free, and of the memory 10 GiB.
    enqueue("one", CPU, needs=11 << 30)
    assert await turn(queue) == []
    assert queue.position("one").code == "MEMORY_IN_USE"


async def test_who_needs_several_devices_says_how_many_are_free(queue, enqueue):
    enqueue("one", GPU)
    await turn(queue)
    enqueue("pair", hardware_pb2.Hardware(accelerator="h100", count=2))
    assert await turn(queue) == []
    text = "it needs 2 devices at once and 1 is free; 0 jobs ahead and 1 running on h100 (cuda:0: one)"
    assert queue.position("pair") == Position(1, text, "WAITING_FOR_DEVICE")
    queue.release([slot for slot in queue.holders() if slot.device == "cuda:0"], "one")
    assert await turn(queue) == [("pair", ["n/cuda:0/0", "n/cuda:1/0"])]
    enqueue("next", GPU)
    await turn(queue)
    assert queue.position("next").blocked_by == "0 jobs ahead and 1 running on h100 (cuda:0, cuda:1: pair)"


async def test_projects_take_turns_by_their_weights_and_positions_say_so(queue, enqueue):
    queue.use.weight = lambda project: {"a": 2.0, "b": 1.0}.get(project, 1.0)
    for number in range(4):
        enqueue(f"a{number}", CPU, project="a")
    enqueue("b0", CPU, project="b")
    enqueue("b1", CPU, project="b", priority=job_pb2.JOB_PRIORITY_HIGH)
    order = sorted((queue.position(uid).number, uid) for uid in ("a0", "a1", "a2", "a3", "b0", "b1"))
    assert [uid for _, uid in order] == ["b1", "a0", "a1", "a2", "b0", "a3"]
    assert [uid for uid, _ in await turn(queue)] == ["b1", "a0"]
    queue.release([Slot.parse("n/cpu/0")], "b1")
    # It holds nothing now, the other project a half of the processors: what it held for a moment is next to nothing.
    assert [uid for uid, _ in await turn(queue)] == ["b0"]


async def test_a_project_without_room_keeps_no_other_waiting(queue, enqueue):
    queue.use.weight = lambda project: {"a": 1.0, "b": 1.0}.get(project, 1.0)
    pair = hardware_pb2.Hardware(accelerator="h100", count=2)
    enqueue("b0", GPU, project="b")
    assert await turn(queue) == [("b0", ["n/cuda:0/0"])]
    enqueue("large", pair, project="a")
    enqueue("a1", GPU, project="a")
    assert await turn(queue) == [("a1", ["n/cuda:1/0"])]


async def test_a_long_queue_costs_a_round_no_look_at_each_job(queue, enqueue):
    enqueue("a", GPU)
    enqueue("b", GPU)
    await turn(queue)
    asked = []
    queue.may_start = lambda row, _: asked.append(row.uid)
    for number in range(500):
        enqueue(f"w{number:03}", GPU)
    assert await turn(queue) == []
    assert asked == ["w000"]
    assert queue.position("w499").number == 500
    assert queue.position("w499").code == "WAITING_FOR_DEVICE"


async def test_a_reason_has_figures_and_names_jobs_of_the_same_project_alone(queue, enqueue):
    enqueue("mine", GPU, project="a")
    enqueue("theirs", GPU, project="b")
    await turn(queue)
    enqueue("first", GPU, project="a")
    enqueue("pair", hardware_pb2.Hardware(accelerator="h100", count=2), project="a")
    await turn(queue)
    position = queue.position("pair")
    assert "cuda:0: mine, cuda:1: another project" in position.blocked_by
    assert position.metadata == {
        "device_kind": "h100",
        "needed": "2",
        "free": "0",
        "ahead": "1",
        "held_by": "projects/a/jobs/mine",
        "held_by_other_projects": "1",
    }
    assert "ending or pausing a job" in position.remedy
    queue.about_holders = lambda: {"theirs": "serves a model"}
    assert queue.position("pair").blocked_by.endswith("; a job of another project serves a model")


async def test_a_job_whose_project_has_more_than_others_is_told_so(queue, enqueue):
    queue.use.weight = lambda project: {"a": 1.0, "b": 1.0, "c": 1.0}.get(project, 1.0)
    for uid in ("a0", "a1", "a2"):
        enqueue(uid, GPU, project="a")
    assert [uid for uid, _ in await turn(queue)] == ["a0", "a1"]
    enqueue("c", GPU, project="c", suspended=True)
    enqueue("cpu", CPU, project="c")
    await turn(queue)
    assert queue.position("a2").code == "WAITING_FOR_DEVICE", "nobody else waits for the same devices"
    enqueue("b", GPU, project="b")
    position = queue.position("a2")
    assert (position.number, position.code, position.metadata["least_share"]) == (2, "FAIR_SHARE", "0.0000")
    assert float(position.metadata["share"]) == pytest.approx(1.0, abs=0.01)
    assert position.blocked_by.endswith("projects with a smaller share of the devices come first")
    assert queue.position("b").code == "WAITING_FOR_DEVICE"


async def test_what_is_kept_for_a_job_of_another_project_does_not_name_it(queue, enqueue):
    enqueue("first", GPU, project="a")
    await turn(queue)
    enqueue("large", hardware_pb2.Hardware(accelerator="h100", count=2), project="a")
    for number in range(PASSES):
        enqueue(f"s{number}", GPU, project="b")
        await turn(queue)
        queue.release([Slot.parse("n/cuda:1/0")], f"s{number}")
    enqueue("own", GPU, project="a")
    enqueue("other", GPU, project="b")
    assert await turn(queue) == []
    assert queue.position("own").metadata == {"kept_for": "projects/a/jobs/large"}
    assert queue.position("other").metadata == {}
    assert queue.position("other").blocked_by == (
        "what is free is kept for a job of another project, which others have passed"
    )


async def test_a_job_that_cannot_be_placed_says_so_and_is_tried_again(queue, enqueue):
    enqueue("a", CPU)
    begin = queue.start

    async def refuse(_uid, _slots) -> bool:
        raise NotPlacedError("its node has gone")

    queue.start = refuse
    assert await turn(queue) == []
    position = queue.position("a")
    assert (position.blocked_by, position.code) == ("its node has gone", "WAITING_FOR_NODE")
    assert position.remedy
    queue.start = begin
    assert await turn(queue) == [("a", ["n/cpu/0"])]


async def test_jobs_whose_node_went_after_the_last_try_wait_for_another_one(store, new_row, create_job, ledger):
    """With no device left only the first of them has a turn; what was in the other's way then is no longer so."""
    devices = [Device("n", "cpu", CPU, "CPU", 8 << 30, threads=2)]
    queue = JobQueue(EventLog(store), devices, ledger(devices))

    async def refuse(_uid, _slots) -> bool:
        raise NotPlacedError("its node has gone")

    queue.start = refuse
    for uid in ("a", "b"):
        record = job_pb2.Job(uid=uid)
        record.train.spec.hardware.CopyFrom(CPU)
        row = new_row(uid, state=job_pb2.JOB_STATE_QUEUED, record=record.SerializeToString())
        create_job(row)
        queue.recover([row])
    await queue.start_all()
    assert [queue.position(uid).code for uid in ("a", "b")] == ["WAITING_FOR_NODE"] * 2
    devices.clear()
    queue.follow_devices()
    await queue.start_all()
    assert [queue.position(uid).code for uid in ("a", "b")] == ["NO_SUCH_DEVICE"] * 2


async def test_jobs_follow_devices_that_come_and_go(store, ledger):
    devices = [Device("n", "cpu", CPU, "CPU", 8 << 30, threads=2)]
    queue = JobQueue(EventLog(store), devices, ledger(devices))
    first, second = Slot("n", "cpu", 0), Slot("m", "cpu", 0)
    queue.hold([first], Holder("held", "held", job_pb2.TASK_KIND_TRAIN))
    devices[:] = [Device("m", "cpu", CPU, "CPU", 8 << 30, threads=2)]
    queue.follow_devices()
    # What a job holds stays its own until its process is dead, also where its node has gone.
    assert {slot for slot in queue.holders() if slot.index >= 0} == {first, second}
    queue.release([first], "held")
    queue.follow_devices()
    assert {slot for slot in queue.holders() if slot.index >= 0} == {second}
