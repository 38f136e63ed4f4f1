# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN003, ANN202, ASYNC110, PERF401 - arguments are fields of protobuf messages; what was seen before an error counts
import asyncio
import time

import grpc
import pytest
from finetree_api.trainer.v1 import event_log_pb2, event_pb2, job_pb2
from google.protobuf.duration_pb2 import Duration
from trainer_harness import assert_whole, refusal, steps, trainer

STEP = event_pb2.EVENT_KIND_STEP_METRICS
TERMINAL = event_pb2.EVENT_KIND_TERMINAL


async def batches(talk, name, seconds=60.0, **request):
    found = []
    async with asyncio.timeout(seconds):
        async for batch in talk.stub.WatchJob(event_log_pb2.WatchJobRequest(name=name, **request)):
            found.append(batch)
    return found


async def first_batch(talk, name, **request):
    call = talk.stub.WatchJob(event_log_pb2.WatchJobRequest(name=name, **request))
    batch = await asyncio.wait_for(call.read(), 60)
    call.cancel()
    return batch


async def watch_error(talk, name, **request):
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await batches(talk, name, **request)
    return refusal(error.value)


async def test_a_finished_job_is_replayed_from_any_point(tmp_path, serve):
    async with serve(tmp_path, {"steps": 20}) as talk:
        job = await talk.train()
        whole = await talk.events(job.name)
        assert_whole(whole)
        for seq in (0, 1, 7, len(whole) - 1, len(whole)):
            assert await talk.events(job.name, after_seq=seq) == whole[seq:]
        middle = whole[9].event_time
        later = await talk.events(job.name, after_time=middle)
        assert [e.seq for e in later] == [
            e.seq for e in whole if e.event_time.ToMicroseconds() > middle.ToMicroseconds()
        ]
        assert await talk.events(job.name, now=event_log_pb2.StartNow()) == []


async def test_every_cursor_goes_on_exactly_behind_its_batch(tmp_path, serve):
    async with serve(tmp_path, {"steps": 30, "delay": 0.005}) as talk:
        job = await talk.train()
        live = await batches(talk, job.name)
        whole = [event for batch in live for event in batch.events]
        assert_whole(whole)
        seen = 0
        for batch in live:
            seen += len(batch.events)
            assert await talk.events(job.name, cursor=batch.cursor) == whole[seen:]
            assert batch.min_seq == 1
            assert batch.last_seq >= seen
        assert (await batches(talk, job.name, cursor=live[-1].cursor))[0].cursor == live[-1].cursor


async def test_a_filter_leaves_out_what_was_not_asked_for_and_the_cursor_moves_over_it(tmp_path, serve):
    async with serve(tmp_path, {"steps": 10}) as talk:
        job = await talk.train()
        whole = await talk.events(job.name)
        only = await batches(talk, job.name, kinds=[STEP])
        assert [e.kind for batch in only for e in batch.events] == [STEP] * 10
        assert await talk.events(job.name, cursor=only[-1].cursor) == []
        nothing = await batches(talk, job.name, kinds=[event_pb2.EVENT_KIND_CHECKPOINT_SAVED])
        assert not any(batch.events for batch in nothing)
        assert await talk.events(job.name, cursor=nothing[-1].cursor) == []
        errors = await talk.events(job.name, min_level=event_pb2.EVENT_LEVEL_ERROR)
        assert errors == [e for e in whole if e.level >= event_pb2.EVENT_LEVEL_ERROR]


async def test_heartbeats_carry_the_cursor_also_when_nothing_matches(tmp_path, serve):
    async with serve(tmp_path, {"steps": 1000, "delay": 0.02}) as talk:
        job = await talk.train()
        await talk.until(job.name, lambda e: e.kind == STEP)
        request = event_log_pb2.WatchJobRequest(
            name=job.name, kinds=[event_pb2.EVENT_KIND_ALERT], heartbeat=Duration(nanos=100_000_000)
        )
        call = talk.stub.WatchJob(request)
        beats = [await asyncio.wait_for(call.read(), 60)]
        while beats[-1].last_seq == beats[0].last_seq:
            beats.append(await asyncio.wait_for(call.read(), 60))
        call.cancel()
        assert not any(batch.events for batch in beats)
        await talk.cancel(job.name)
        rest = await talk.events(job.name, cursor=beats[-1].cursor)
        assert rest[0].seq > beats[0].last_seq


async def test_a_watcher_that_asks_for_fewer_steps_gets_their_summary(tmp_path, serve):
    async with serve(tmp_path, {"steps": 60, "delay": 0.005}) as talk:
        job = await talk.train()
        whole = await talk.events(job.name)
        few = await batches(talk, job.name, max_step_events_per_second=10)
        events = [event for batch in few for event in batch.events]
        kept, skipped = steps(events), [s for batch in few for s in batch.skipped]
        assert len(kept) < 60
        assert len(kept) + sum(s.count for s in skipped) == 60
        assert [e.seq for e in events if e.kind != STEP] == [e.seq for e in whole if e.kind != STEP]
        losses = {e.seq: e.step_metrics.loss for e in whole if e.kind == STEP}
        left_out = [losses[seq] for seq in losses if seq not in {e.seq for e in events}]
        assert min(s.min_loss for s in skipped) == pytest.approx(min(left_out))
        assert max(s.max_loss for s in skipped) == pytest.approx(max(left_out))


async def test_a_least_interval_gives_larger_batches_without_loss(tmp_path, serve):
    async with serve(tmp_path, {"steps": 60, "delay": 0.01}) as talk:
        job, began = await talk.train(), time.monotonic()
        slow = await batches(talk, job.name, min_interval=Duration(nanos=200_000_000))
        assert_whole([event for batch in slow for event in batch.events])
        assert len([batch for batch in slow if batch.events]) <= 2 + (time.monotonic() - began) / 0.2


async def test_a_wrong_start_is_refused_and_never_moved_in_silence(tmp_path, serve):
    async with serve(tmp_path) as talk:
        job = await talk.train()
        whole = await talk.events(job.name)
        other = await talk.train()
        theirs = (await first_batch(talk, other.name)).cursor
        code, reason, info, _ = await watch_error(talk, job.name, after_seq=len(whole) + 1)
        assert (code, reason, info.metadata["last_seq"]) == ("OUT_OF_RANGE", "FUTURE_SEQ", str(len(whole)))
        for cursor in (theirs, "nonsense", theirs[:-1]):
            assert (await watch_error(talk, job.name, cursor=cursor))[:2] == ("INVALID_ARGUMENT", "CURSOR_INVALID")
        assert (await watch_error(talk, "0192"))[:2] == ("NOT_FOUND", "JOB_NOT_FOUND")


async def test_a_cursor_from_before_a_restored_backup_is_refused(tmp_path):
    import sqlite3

    async with trainer(tmp_path) as talk:
        job = await talk.train()
        cursor = (await batches(talk, job.name))[-1].cursor
    database = sqlite3.connect(tmp_path / "data" / "trainer.db")
    database.execute("UPDATE meta SET value = 'another' WHERE key = 'log_epoch'")
    database.commit()
    database.close()
    async with trainer(tmp_path) as talk:
        assert (await watch_error(talk, job.name, cursor=cursor))[:2] == ("FAILED_PRECONDITION", "LOG_RESET")
        assert_whole(await talk.events(job.name))


async def test_a_server_that_stops_sends_the_last_cursor_and_asks_to_come_back(tmp_path):
    found = []
    async with trainer(tmp_path, {"steps": 100, "delay": 0.05}) as talk:
        job = await talk.train()
        await talk.until(job.name, lambda e: e.kind == STEP)
        call = talk.stub.WatchJob(event_log_pb2.WatchJobRequest(name=job.name))

        async def read():
            async for batch in call:
                found.append(batch)

        reader = asyncio.create_task(read())
        async with asyncio.timeout(60):
            while not found:
                await asyncio.sleep(0.01)
        # Leaving the block drains the server.
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await asyncio.wait_for(reader, 60)
    assert refusal(error.value)[:2] == ("UNAVAILABLE", "SERVER_STOPPING")
    assert dict(error.value.trailing_metadata())["grpc-retry-pushback-ms"] == "1000"
    async with trainer(tmp_path, {"steps": 100, "delay": 0.05}) as talk:
        seen = [event for batch in found for event in batch.events]
        rest = talk.stub.WatchJob(event_log_pb2.WatchJobRequest(name=job.name, cursor=found[-1].cursor))
        batch = await asyncio.wait_for(rest.read(), 60)
        rest.cancel()
        if batch.events:
            assert batch.events[0].seq == seen[-1].seq + 1
        await talk.cancel(job.name)
        events = await talk.events(job.name)
        assert_whole(events)
        assert events[-1].terminal.state == job_pb2.JOB_STATE_CANCELLED
        assert {e.attempt for e in events} == {0, 1}


async def test_too_many_watchers_are_refused_and_room_comes_back(tmp_path, serve):
    async with serve(tmp_path, {"steps": 100, "delay": 0.05}, max_watchers_per_caller=2) as talk:
        job = await talk.train()
        calls = [talk.stub.WatchJob(event_log_pb2.WatchJobRequest(name=job.name)) for _ in range(2)]
        for call in calls:
            await asyncio.wait_for(call.read(), 60)
        code, reason, *_ = await watch_error(talk, job.name)
        assert (code, reason) == ("RESOURCE_EXHAUSTED", "TOO_MANY_WATCHERS")
        calls[0].cancel()
        async with asyncio.timeout(60):
            while True:
                try:
                    await first_batch(talk, job.name)
                    break
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.02)
        calls[1].cancel()
        await talk.cancel(job.name)


async def test_expired_events_are_said_to_be_gone(tmp_path):
    from finetree_trainer.store import events
    from finetree_trainer.store.database import Store

    async with trainer(tmp_path, {"steps": 5, "delay": 0.02}) as talk:
        job = await talk.train()
        whole = await talk.events(job.name)
    store = Store(tmp_path / "data" / "trainer.db")
    last = store.read_now(lambda c: events.expired_seq(c, job.uid, whole[-1].event_time.ToMicroseconds()))
    assert 1 < last < len(whole)
    await store.write(lambda c: events.remove_before(c, job.uid, last + 1))
    store.close()
    async with trainer(tmp_path) as talk:
        code, reason, info, _ = await watch_error(talk, job.name)
        assert (code, reason, info.metadata["oldest_seq"]) == ("OUT_OF_RANGE", "EVENTS_EXPIRED", str(last + 1))
        assert await talk.events(job.name, after_seq=last) == whole[last:]
        assert (await talk.job(job.name)).oldest_seq == last + 1


@pytest.mark.parametrize("kind", [-1, 999, 2**31 - 1])
async def test_a_kind_of_event_that_does_not_exist_is_refused(tmp_path, serve, kind):
    async with serve(tmp_path) as talk:
        job = await talk.train()
        await talk.events(job.name)
        answers = [await watch_error(talk, job.name, kinds=[kind])]
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await talk.stub.ListEvents(event_log_pb2.ListEventsRequest(name=job.name, kinds=[STEP, kind]))
        answers.append(refusal(error.value))
        assert {answer[:2] for answer in answers} == {("INVALID_ARGUMENT", "INVALID_REQUEST")}


async def test_events_are_listed_in_both_orders_in_pages(tmp_path, serve):
    async with serve(tmp_path, {"steps": 25, "delay": 0.003}) as talk:
        job = await talk.train()
        whole = await talk.events(job.name)

        async def listed(**request):
            found, token = [], ""
            while True:
                page = await talk.stub.ListEvents(
                    event_log_pb2.ListEventsRequest(name=job.name, page_size=7, page_token=token, **request)
                )
                found.extend(page.events)
                token = page.next_page_token
                assert len(page.events) <= 7
                if not token:
                    return found

        down = event_log_pb2.EVENT_ORDER_DESCENDING
        assert await listed() == whole
        assert await listed(order=down) == whole[::-1]
        assert await listed(after_seq=5, before_seq=20) == whole[5:19]
        assert await listed(after_seq=5, before_seq=20, order=down) == whole[5:19][::-1]
        assert await listed(kinds=[STEP]) == [e for e in whole if e.kind == STEP]
        assert await listed(kinds=[TERMINAL], order=down) == whole[-1:]
        after = whole[10].event_time
        assert [e.seq for e in await listed(after_time=after)] == [
            e.seq for e in whole if e.event_time.ToMicroseconds() > after.ToMicroseconds()
        ]
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await listed(after_seq=1000)
        assert refusal(error.value)[1] == "FUTURE_SEQ"
