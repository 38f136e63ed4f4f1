# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ASYNC110 - the service has no event of a watcher
# ruff: noqa: ANN003 - arguments are fields of protobuf messages
"""WaitJob and WatchJobs of the service itself: what is answered when, and an order that never changes."""

import asyncio
import itertools
import shutil
import sqlite3

import grpc
import pytest
from finetree_api.trainer.v1 import event_log_pb2, event_pb2, job_pb2, retention_pb2, trainer_pb2, waiting_pb2
from finetree_trainer.joblog.project import blocks, cursor
from finetree_trainer.store import events
from google.protobuf.duration_pb2 import Duration
from trainer_harness import ROWS, job_request, jsonl, refusal, trainer

STATE, STEP = event_pb2.EVENT_KIND_STATE_CHANGED, event_pb2.EVENT_KIND_STEP_METRICS
TERMINAL = event_pb2.EVENT_KIND_TERMINAL
ENDED = {job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_CANCELLED}


async def wait(talk, name, *states: int, seconds=20):
    """The answer of a call that waits; asked again, up to a minute, where nothing has happened in its time."""
    request = waiting_pb2.WaitJobRequest(name=name, states=states, wait_seconds=seconds)
    for _ in range(3):
        found = await asyncio.wait_for(talk.stub.WaitJob(request), 60)
        if found.reached or found.job.state in ENDED or not seconds:
            break
    return found


def request(**fields):
    return waiting_pb2.WatchJobsRequest(heartbeat=Duration(nanos=100_000_000), **fields)


async def changes(talk, until, seconds=60.0, **fields):
    """Every change until `until(changes so far)` holds, or a batch says that there is nothing more where it is None."""
    found: list[waiting_pb2.JobChange] = []
    call = talk.stub.WatchJobs(request(**fields))
    async with asyncio.timeout(seconds):
        async for batch in call:
            found.extend(batch.changes)
            if (until is None and not batch.more) or (until is not None and until(found)):
                call.cancel()
                return found
    raise AssertionError("the stream of a project has no end")


async def watch_error(talk, **fields):
    with pytest.raises(grpc.aio.AioRpcError) as error:
        async for _ in talk.stub.WatchJobs(request(**fields)):
            pass
    return refusal(error.value)


def ended(count):
    return lambda found: sum(change.event.kind == TERMINAL for change in found) == count


def places(found):
    return [(change.event.job_uid, change.event.seq) for change in found]


async def test_a_call_returns_when_the_state_is_reached_or_can_no_longer_be(serve, tmp_path):
    async with serve(tmp_path, {"steps": 10**4, "delay": 0.01}) as talk:
        job = await talk.train()
        waiting = asyncio.create_task(wait(talk, job.name))
        running = await wait(talk, job.name, job_pb2.JOB_STATE_RUNNING)
        assert running.reached
        assert running.job.state == job_pb2.JOB_STATE_RUNNING
        now = await wait(talk, job.name, job_pb2.JOB_STATE_SUCCEEDED, seconds=0)
        assert (now.reached, now.job.state) == (False, job_pb2.JOB_STATE_RUNNING)
        await talk.cancel(job.name)
        found = await waiting
        assert found.reached
        assert found.job.state == job_pb2.JOB_STATE_CANCELLED
        never = await wait(talk, job.name, job_pb2.JOB_STATE_SUCCEEDED)
        assert (never.reached, never.job.state) == (False, job_pb2.JOB_STATE_CANCELLED)
        assert (await wait(talk, job.name)).reached


async def test_a_call_that_waits_in_vain_ends_with_its_time_and_counts_among_the_watchers(serve, tmp_path):
    async with serve(tmp_path, {"steps": 10**4, "delay": 0.01}, max_watchers_per_caller=1) as talk:
        job = await talk.train()
        asked = waiting_pb2.WaitJobRequest(name=job.name, states=[job_pb2.JOB_STATE_PAUSED], wait_seconds=1)
        assert not (await talk.stub.WaitJob(asked, timeout=60)).reached
        stream = talk.stub.WatchJob(event_log_pb2.WatchJobRequest(name=job.name))
        await stream.read()
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await talk.stub.WaitJob(asked, timeout=60)
        assert refusal(error.value)[1] == "TOO_MANY_WATCHERS"
        stream.cancel()
        await talk.cancel(job.name)


async def test_waiting_counts_among_the_watchers_and_ends_with_the_server(tmp_path):
    async with trainer(tmp_path, {"steps": 10**6, "delay": 0.01}, max_watchers_per_caller=1) as talk:
        job = await talk.train()
        waiting = asyncio.create_task(wait(talk, job.name))
        while not talk.application._watches._open:
            await asyncio.sleep(0.01)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await wait(talk, job.name)
        assert refusal(error.value)[1] == "TOO_MANY_WATCHERS"
        assert (await watch_error(talk))[1] == "TOO_MANY_WATCHERS"
        talk.application._watches.drain()
        assert not (await waiting).reached
        assert (await watch_error(talk))[1] == "SERVER_STOPPING"
        await talk.cancel(job.name)


async def test_every_change_of_every_job_comes_once_in_one_order_from_any_place(tmp_path):
    async with trainer(tmp_path, {"steps": 4, "artifact": True}, cpu_slots=2) as talk:
        dataset = (await talk.upload(jsonl(ROWS))).name
        watching = asyncio.create_task(changes(talk, ended(6)))
        jobs = [await talk.train(dataset=dataset, labels={"number": str(n % 2)}) for n in range(6)]
        live = await watching
        logs = {job.uid: await talk.events(job.name) for job in jobs}
        usual = {STATE, TERMINAL, event_pb2.EVENT_KIND_ARTIFACT_READY, event_pb2.EVENT_KIND_ALERT}
        for uid, log in logs.items():
            own = [change.event for change in live if change.event.job_uid == uid]
            assert own == [event for event in log if event.kind in usual]
            assert own[0].state_changed.previous == job_pb2.JOB_STATE_UNSPECIFIED
        assert {event.kind for log in logs.values() for event in log} > usual - {event_pb2.EVENT_KIND_ALERT}
        # Every event of all of them, once, and from behind each one exactly the rest.
        kinds = [kind for kind in event_pb2.EventKind.values() if kind]
        whole = await changes(talk, None, kinds=kinds)
        assert sorted(places(whole)) == sorted((uid, event.seq) for uid, log in logs.items() for event in log)
        assert places([change for change in whole if change.event.kind in usual]) == places(live)
        for number in (0, 3, len(whole) // 2, len(whole) - 2):
            rest = await changes(talk, None, kinds=kinds, cursor=whole[number].cursor)
            assert rest == whole[number + 1 :]
        odd = await changes(talk, None, labels={"number": "1"})
        assert {change.event.job_uid for change in odd} == {job.uid for job in jobs if job.labels["number"] == "1"}
        assert not await changes(talk, None, min_level=event_pb2.EVENT_LEVEL_ERROR)
        assert not await changes(talk, None, now=event_log_pb2.StartNow())
    async with trainer(tmp_path, {"steps": 4}) as talk:
        # The same order, and the same cursors, from another process of the service.
        assert await changes(talk, None, kinds=kinds) == whole
        assert await changes(talk, None, kinds=kinds, cursor=whole[5].cursor) == whole[6:]


async def test_commits_that_crowd_are_seen_in_the_order_of_their_positions(tmp_path):
    async with trainer(tmp_path, {"steps": 10**6, "delay": 0.05}, cpu_slots=1) as talk:
        dataset = (await talk.upload(jsonl(ROWS))).name
        watching = asyncio.create_task(changes(talk, lambda found: len({c.event.job_uid for c in found}) == 40))
        created = [talk.stub.CreateJob(trainer_pb2.CreateJobRequest(job=job_request(dataset))) for _ in range(40)]
        jobs = [(await call).job for call in created]
        live = await watching
        again = await changes(talk, None)
        assert places(again)[: len(live)] == places(live)
        ranks = [cursor.decode(c.cursor, talk.application._store.log_epoch, "default").position for c in live]
        assert ranks == sorted(ranks)
        await asyncio.gather(*(talk.cancel(job.name) for job in jobs))
        stopped = await changes(talk, ended(40), cursor=live[-1].cursor)
        assert len(set(places(live + stopped))) == len(live) + len(stopped)


async def test_a_watcher_is_woken_for_the_kinds_that_it_asks_for_alone(tmp_path, monkeypatch):
    reads = itertools.count()
    read = blocks.read
    monkeypatch.setattr(blocks, "read", lambda *a, **k: (next(reads), read(*a, **k))[1])
    async with trainer(tmp_path, {"steps": 200, "delay": 0.002}) as talk:
        call = talk.stub.WatchJobs(waiting_pb2.WatchJobsRequest(now=event_log_pb2.StartNow()))
        await call.read()
        job = await talk.train()
        seen: list[waiting_pb2.JobChange] = []
        async with asyncio.timeout(60):
            while not ended(1)(seen):
                batch = await call.read()
                seen.extend(batch.changes)
        call.cancel()
        events_ = await talk.events(job.name)
        assert sum(event.kind == STEP for event in events_) == 200
        assert next(reads) <= 2 + len(seen)


async def test_a_cursor_of_another_log_or_of_what_is_gone_is_refused(tmp_path):
    async with trainer(tmp_path, {"steps": 30, "delay": 0.005}) as talk:
        job = await talk.train()
        found = await changes(talk, ended(1))
        epoch = talk.application._store.log_epoch
        assert (await watch_error(talk, cursor="p1.x"))[1] == "CURSOR_INVALID"
        assert (await watch_error(talk, cursor=found[0].cursor + "0"))[1] == "CURSOR_INVALID"
        other = cursor.encode("0" * 8, "default", cursor.Place(1, 1, "0"))
        assert (await watch_error(talk, cursor=other))[1] == "LOG_RESET"
        beyond = cursor.encode(epoch, "default", cursor.Place(10**6, 1, "0"))
        assert (await watch_error(talk, cursor=beyond))[1] == "LOG_RESET"
        replaced = cursor.encode(epoch, "default", cursor.Place(2, 1, "ffffffff"))
        assert (await watch_error(talk, cursor=replaced))[1] == "LOG_RESET"
        kinds = [kind for kind in event_pb2.EventKind.values() if kind]
        whole = await changes(talk, None, kinds=kinds)
        store, last = talk.application._store, whole[-1].event.seq
        await store.write(lambda connection: events.remove_before(connection, job.uid, last))
        code, reason, info, _ = await watch_error(talk, cursor=whole[0].cursor)
        assert (code, reason) == ("OUT_OF_RANGE", "EVENTS_EXPIRED")
        kept = await changes(talk, None, kinds=kinds, cursor=info.metadata["cursor"])
        assert kept == await changes(talk, None, kinds=kinds)
        assert kept[-1] == whole[-1]
        assert not await changes(talk, None, kinds=kinds, cursor=whole[-1].cursor)


async def test_a_position_is_never_given_twice_where_jobs_are_deleted(tmp_path):
    async with trainer(tmp_path, {"steps": 3}) as talk:
        dataset = (await talk.upload(jsonl(ROWS))).name
        epoch = talk.application._store.log_epoch
        first = await talk.train(dataset=dataset)
        behind, reached = (await changes(talk, ended(1)))[-1].cursor, []
        for _ in range(2):
            job = await talk.train(dataset=dataset)
            whole = await changes(talk, ended(1), cursor=behind)
            reached.append(cursor.decode(whole[-1].cursor, epoch, "default").position)
            await talk.stub.DeleteJob(retention_pb2.DeleteJobRequest(name=job.name))
            assert (await watch_error(talk, cursor=whole[0].cursor))[1] == "EVENTS_EXPIRED"
            assert not await changes(talk, None, cursor=whole[-1].cursor)
            behind = whole[-1].cursor
        assert reached[0] < reached[1]
        assert {change.event.job_uid for change in await changes(talk, None)} == {first.uid}
        with talk.application._store._reading.begin() as connection:
            assert connection.exec_driver_sql("SELECT COUNT(*) FROM event_blocks WHERE job_uid = ''").scalar() == 1


async def test_a_copy_of_the_database_has_the_same_order(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    async with trainer(first, {"steps": 5}) as talk:
        for _ in range(2):
            await talk.train()
        found = await changes(talk, ended(2))
        database = talk.application._layout.database
        copy = tmp_path / "copy.db"
        with sqlite3.connect(database) as connection:
            connection.execute("VACUUM INTO ?", (str(copy),))
        connection.close()
    shutil.copytree(first, second)
    there = second / database.relative_to(first)
    for name in ("", "-wal", "-shm"):
        there.with_name(there.name + name).unlink(missing_ok=True)
    shutil.copy(copy, there)
    async with trainer(second, {"steps": 5}) as talk:
        assert await changes(talk, None) == found
        assert await changes(talk, None, cursor=found[2].cursor) == found[3:]
