# SPDX-License-Identifier: Apache-2.0
"""What many watchers of one job cost: a batch is read and serialized once, however many get it."""

import asyncio

import pytest
from finetree.joblog.metrics import StepSampler
from finetree_api.trainer.v1 import event_log_pb2, event_pb2, job_pb2
from finetree_runtime.server.limits.table import Caller
from finetree_runtime.server.replies import SerializedReply
from finetree_trainer.joblog.live import batches as batches_
from finetree_trainer.joblog.live.batches import KEPT, Batches, Filter
from finetree_trainer.joblog.log import EventLog
from finetree_trainer.joblog.watch import Watches

WATCHERS = 200
LINE = 1 << event_pb2.EVENT_KIND_LOG_LINE


@pytest.fixture
async def log(store, new_row, create_job):
    create_job(new_row("j1", state=job_pb2.JOB_STATE_QUEUED))
    made = EventLog(store)
    reads = []
    read = store.read

    async def counted(run: object) -> object:
        reads.append(run)
        return await read(run)

    store.read = counted
    store.reads = reads
    return made


async def add(log, *texts: str):
    def decide(transaction, _connection) -> None:
        for text in texts:
            transaction.add(event_pb2.JobEvent(log_line=event_pb2.LogLine(text=text)))

    await log.change("j1", decide)


async def finish(log):
    await log.change("j1", lambda transaction, _: transaction.finish(job_pb2.JOB_STATE_CANCELLED, "CANCELLED", "x"))


async def collect(watches, after=0, chosen=Filter()):  # noqa: B008 - frozen
    """The batches with events; those without, which only move the cursor, are each watcher's own."""
    found = [batch async for batch in watches.watch("j1", after, chosen, caller=Caller("me", "default"))]
    return [batch for batch in found if isinstance(batch, SerializedReply)]


def parsed(batch):
    return event_log_pb2.WatchJobResponse.FromString(batch.content)


async def test_two_hundred_watchers_get_each_batch_from_one_serialization(log, monkeypatch):
    # However slow the machine is: what a batch costs is counted here, not how long it is kept.
    monkeypatch.setattr(batches_, "KEPT_SECONDS", 60.0)
    watches = Watches(log, limit=WATCHERS)
    tasks = [asyncio.create_task(collect(watches)) for _ in range(WATCHERS)]
    await asyncio.sleep(0)
    for number in range(20):
        await add(log, f"line {number}")
    await finish(log)
    found = await asyncio.wait_for(asyncio.gather(*tasks), 60)
    for batches in found:
        assert [event.seq for batch in batches for event in parsed(batch).events] == list(range(1, 23))
    different = {id(batch) for batches in found for batch in batches}
    assert len(different) == watches.made.serialized == max(map(len, found))
    # The first look at the database is shared, and the rest came from memory.
    assert len(log.store.reads) <= 3


async def test_watchers_with_another_filter_get_batches_of_their_own(log):
    watches = Watches(log, limit=10)
    lines, all_ = (asyncio.create_task(collect(watches, 0, Filter(mask=mask))) for mask in (LINE, Filter().mask))
    await asyncio.sleep(0)
    await add(log, "a", "b")
    await finish(log)
    assert sum(len(parsed(batch).events) for batch in await asyncio.wait_for(lines, 60)) == 2
    assert sum(len(parsed(batch).events) for batch in await asyncio.wait_for(all_, 60)) == 4


async def test_a_client_that_goes_takes_no_batch_from_the_others(log):
    await add(log, "a")
    batches, chosen = Batches(log), Filter()
    first, second = (asyncio.create_task(batches.next("j1", 0, chosen, StepSampler(0))) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    found = await asyncio.wait_for(second, 60)
    assert (found.reached, batches.serialized) == (1, 1)
    assert first.cancelled()


async def test_a_watcher_that_comes_after_the_end_is_told_it_at_once(log, monkeypatch):
    monkeypatch.setattr(batches_, "KEPT_SECONDS", 60.0)
    await add(log, "a")
    watches = Watches(log, limit=10)
    early = watches.watch("j1", 0, Filter(), caller=Caller("me", "default"))
    await anext(early)  # keeps a batch that is the newest one as yet
    await early.aclose()
    await finish(log)
    found = await asyncio.wait_for(collect(watches), Filter().heartbeat / 2)
    assert [event.seq for batch in found for event in parsed(batch).events] == [1, 2, 3]


async def test_what_is_kept_for_others_is_bounded(log):
    await add(log, *map(str, range(3 * KEPT)))
    batches = Batches(log)
    for after in range(3 * KEPT):
        await batches.next("j1", after, Filter(), StepSampler(0))
    assert len(batches._kept) <= KEPT


async def test_sampled_watchers_count_their_own_steps(log):
    def decide(transaction, _connection) -> None:
        for step in range(1, 6):
            transaction.add(event_pb2.JobEvent(step_metrics=event_pb2.StepMetrics(step=step, loss=2.0)))

    await log.change("j1", decide)
    await finish(log)
    watches = Watches(log, limit=10)
    for _ in range(2):
        (batch,) = await collect(watches, 0, Filter(steps_per_second=1))
        assert [event.step_metrics.step for event in parsed(batch).events if event.HasField("step_metrics")] == [1]
        assert parsed(batch).skipped[0].count == 4


async def test_a_watch_that_ends_leaves_nothing_behind(log):
    watches = Watches(log, limit=10)
    for _ in range(50):
        task = asyncio.create_task(collect(watches))
        await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert not log._tails
    assert not watches._open
