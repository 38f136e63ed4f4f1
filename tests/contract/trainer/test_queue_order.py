# SPDX-License-Identifier: Apache-2.0
"""Priorities and MoveJob: who starts next, what the queue says, and that it holds over a restart."""

import grpc
import pytest
from finetree_api.trainer.v1 import event_pb2, job_pb2
from trainer_harness import ROWS, assert_whole, jsonl, refusal, server, trainer, write_script

LONG = {"steps": 2000, "delay": 0.01}
LOW, NORMAL, HIGH = job_pb2.JOB_PRIORITY_LOW, job_pb2.JOB_PRIORITY_NORMAL, job_pb2.JOB_PRIORITY_HIGH


async def occupied(talk):
    """A dataset, and the job that holds the only device."""
    dataset = (await talk.upload(jsonl(ROWS))).name
    runs = (await talk.train(dataset=dataset)).name
    await talk.until(runs, lambda event: event.kind == event_pb2.EVENT_KIND_STEP_METRICS)
    return dataset, runs


async def order(talk, names):
    """The names by their place in the queue."""
    jobs = [await talk.job(name) for name in names]
    assert sorted(job.queue_position for job in jobs) == list(range(1, len(names) + 1))
    return [job.name for job in sorted(jobs, key=lambda job: job.queue_position)]


async def reason(call):
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return refusal(error.value)[1]


async def test_jobs_start_by_priority_then_in_the_order_of_creation_also_after_a_restart(tmp_path):
    async with server(tmp_path, LONG) as (running, before):
        dataset, runs = await occupied(before)
        made = [await before.train(dataset=dataset, priority=given) for given in (LOW, 0, HIGH, NORMAL, HIGH)]
        assert [job.priority for job in made] == [LOW, NORMAL, HIGH, NORMAL, HIGH]
        low, one, high, two, higher = [job.name for job in made]
        assert await order(before, [job.name for job in made]) == [high, higher, one, two, low]
        moved = await before.move(low)
        assert (moved.queue_position, moved.priority) == (1, HIGH)
        assert (await before.move(two, before=one)).queue_position == 4
        expected = [low, high, higher, two, one]
        assert await order(before, expected) == expected
        await before.until(low, lambda event: event.queue_changed.position == 1)
        await running.kill()
        talk = await running.start()
        assert await order(talk, expected) == expected
        write_script(tmp_path, {"steps": 1})
        await talk.cancel(runs)
        starts = []
        for name in expected:
            events = await talk.events(name, 20)
            assert_whole(events)
            starts.append(next(e.event_time.ToMicroseconds() for e in events if e.attempt == 1))
        assert starts == sorted(starts)


async def test_moves_into_one_gap_keep_their_order(tmp_path):
    async with trainer(tmp_path, LONG) as talk:
        dataset, runs = await occupied(talk)
        names = [(await talk.train(dataset=dataset)).name for _ in range(4)]
        first, last, *others = names
        for _ in range(20):
            for name in others:
                await talk.move(name, before=last)
        assert await order(talk, names) == [first, *others, last]
        assert (await talk.move(last)).queue_position == 1
        again = await talk.move(last)
        assert (again.queue_position, again.priority) == (1, NORMAL)
        assert (await talk.move(first, request_id="once")).queue_position == 1
        await talk.move(last)
        assert (await talk.move(first, request_id="once")).queue_position == 2, "a repeated request moves nothing"
        assert await reason(talk.move(first, before=last, request_id="once")) == "REQUEST_ID_REUSED"
        for name in [*names, runs]:
            await talk.cancel(name)


async def test_what_does_not_wait_or_waits_elsewhere_has_no_place_beside_it(tmp_path):
    async with trainer(tmp_path, LONG) as talk:
        dataset, runs = await occupied(talk)
        waits = (await talk.train(dataset=dataset)).name
        assert await reason(talk.move(runs)) == "JOB_NOT_WAITING"
        assert await reason(talk.move(waits, before=runs)) == "JOB_NOT_WAITING"
        assert await reason(talk.move(waits, before=waits)) == "INVALID_REQUEST"
        prepares = [(await talk.prepare(dataset=dataset, model="", request_id=f"p{n}")).name for n in range(2)]
        await talk.until(prepares[0], lambda event: event.state == job_pb2.JOB_STATE_PREPARING)
        assert await reason(talk.move(waits, before=prepares[1])) == "DIFFERENT_QUEUES"
        for name in [waits, runs, *prepares]:
            await talk.cancel(name)
