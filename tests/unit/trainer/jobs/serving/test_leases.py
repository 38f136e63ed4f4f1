# SPDX-License-Identifier: Apache-2.0
"""When a served base model is given up, by a clock that the test moves."""

import pytest
from finetree_api.trainer.v1 import job_pb2, serving_pb2
from finetree_api.types.v1 import hardware_pb2
from finetree_runtime.errors import FailedPrecondition
from finetree_trainer.clock import duration
from finetree_trainer.joblog.log import EventLog
from finetree_trainer.jobs.serving.leases import Leases
from finetree_trainer.scheduling.devices import Device, Slot
from finetree_trainer.scheduling.queue import Holder, JobQueue
from finetree_trainer.store import jobs

CPU = hardware_pb2.Hardware(cpu=hardware_pb2.CpuDevice(cores=4), count=1)
SECOND = 1_000_000
SLOT = Slot("n", "cpu", 0)


class Now:
    """A clock in seconds that stands still until it is moved."""

    seconds = 1000.0

    def __call__(self) -> int:
        return int(self.seconds * SECOND)


class Ended(list):
    """Stands for the supervisor: the jobs whose workers were to be ended."""

    def end(self, uid: str, attempt: int) -> None:
        self.append((uid, attempt))


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
async def log(store, now) -> EventLog:
    return EventLog(store, now)


@pytest.fixture
def queue(log, ledger) -> JobQueue:
    devices = [Device("n", "cpu", CPU, "CPU", 8 << 30, threads=4)]
    return JobQueue(log, devices, ledger(devices))


@pytest.fixture
def leases(log, queue, new_row, create_job) -> Leases:
    """The lease of one job, "s", that serves on the only slot: 100 s, or 20 s while another job waits."""
    made = Leases(log, queue, Ended())
    record = job_pb2.Job(uid="s", serve=serving_pb2.ServeTask(lease=duration(100), yield_after=duration(20)))
    row = new_row(
        "s",
        task=job_pb2.TASK_KIND_SERVE,
        state=job_pb2.JOB_STATE_RUNNING,
        attempt=1,
        record=record.SerializeToString(),
    )
    create_job(row)
    queue.hold((SLOT,), Holder("s", row.name, row.task))
    made.recover([row])
    return made


@pytest.fixture
def another_waits(queue, new_row, create_job):
    def wait(**changes) -> None:  # noqa: ANN003 - fields of the row
        record = job_pb2.Job(uid="t")
        record.train.spec.hardware.CopyFrom(CPU)
        row = new_row("t", state=job_pb2.JOB_STATE_QUEUED, record=record.SerializeToString(), **changes)
        create_job(row)
        queue.recover([row])

    return wait


async def state_of(log: EventLog) -> tuple[int, str]:
    row = await log.row("s")
    return row.state, job_pb2.Job.FromString(row.snapshot).state_reason.code


async def test_a_lease_ends_by_itself_when_nobody_asks(log, leases, now):
    now.seconds += 99
    await leases.check()
    assert (await log.row("s")).state == job_pb2.JOB_STATE_RUNNING
    now.seconds += 1
    await leases.check()
    assert await state_of(log) == (job_pb2.JOB_STATE_SUCCEEDED, "LEASE_EXPIRED")
    assert leases._supervisor == [("s", 1)]
    assert leases.get("s") is None
    with pytest.raises(FailedPrecondition, match="lease"):
        leases.use(await log.row("s"))


async def test_a_call_keeps_it_and_begins_it_anew_when_it_is_answered(log, leases, now):
    row = await log.row("s")
    use = leases.use(row, sequences=3)
    now.seconds += 500
    await leases.check()
    held = leases.get("s")
    assert (held.generations, leases.sequences("s")) == (1, 3)
    assert held.expire_time.ToSeconds() == now.seconds + 100
    use.release()
    use.release()
    assert leases.sequences("s") == 0
    now.seconds += 99
    await leases.check()
    assert leases.get("s").expire_time.ToSeconds() == now.seconds + 1
    now.seconds += 1
    await leases.check()
    assert leases.get("s") is None


async def test_it_gives_way_early_to_a_job_that_waits_for_its_device_and_to_no_other(log, leases, now, another_waits):
    now.seconds += 30
    await leases.check()
    assert leases.get("s") is not None
    another_waits()
    await leases.check()
    assert await state_of(log) == (job_pb2.JOB_STATE_SUCCEEDED, "LEASE_YIELDED")


async def test_a_job_that_waits_says_when_the_device_is_given_up(queue, leases, another_waits):
    another_waits()
    text = queue.position("t").blocked_by
    assert text.startswith("0 jobs ahead and 1 running on cpu (cpu: s); ")
    assert text.endswith("serves a model and gives way when nobody has asked it for 20 s")
    assert leases.get("s") is not None


async def test_a_suspended_job_takes_no_device_away(leases, now, another_waits):
    another_waits(suspended=True)
    now.seconds += 30
    await leases.check()
    assert leases.get("s") is not None


async def test_what_the_store_cannot_write_leaves_the_lease_as_it_is(log, leases, now, store, monkeypatch):
    now.seconds += 100
    from finetree_runtime.errors import Unavailable

    async def refuse(*_: object) -> None:
        raise Unavailable("STORE_UNAVAILABLE", "not now")

    monkeypatch.setattr(log, "change", refuse)
    await leases.check()
    assert leases.get("s") is not None
    monkeypatch.undo()
    await leases.check()
    assert await state_of(log) == (job_pb2.JOB_STATE_SUCCEEDED, "LEASE_EXPIRED")
    assert await store.read(lambda connection: jobs.count_in_state(connection, job_pb2.JOB_STATE_RUNNING)) == 0


async def test_a_call_that_read_the_job_before_its_end_leaves_no_lease_behind(log, leases, now):
    row = await log.row("s")
    now.seconds += 100
    await leases.check()
    leases.use(row).release()
    assert leases.get("s") is not None
    now.seconds += 100
    await leases.check()
    assert leases.get("s") is None
    assert leases.named([row.name]) == []
    assert not leases._held
    assert leases._supervisor == [("s", 1)]
