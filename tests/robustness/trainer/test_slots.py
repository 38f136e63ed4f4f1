# SPDX-License-Identifier: Apache-2.0
"""kill -9 of a service with three jobs at work: slots and places are counted right afterwards."""

import asyncio

from finetree_api.trainer.v1 import capacity_pb2, job_pb2
from trainer_harness import ROWS, assert_whole, jsonl, server, write_script


async def cpu_of(talk):
    return (await talk.stub.GetCapacity(capacity_pb2.GetCapacityRequest())).nodes[0].devices[-1]


async def test_three_running_jobs_keep_their_slots_over_a_kill_and_no_slot_is_lost(tmp_path):
    async with server(tmp_path, {"steps": 10**6, "delay": 0.02}, cpu_slots=3) as (running, before):
        dataset = (await before.upload(jsonl(ROWS))).name
        names = [(await before.train(dataset=dataset)).name for _ in range(5)]
        for name in names[:3]:
            await before.until(name, lambda event: event.step_metrics.step == 1)
        slots = {each.slot: each.job for each in (await cpu_of(before)).slot_uses}
        assert sorted(slots.values()) == sorted(names[:3])
        await running.kill()
        talk = await running.start()
        cpu = await cpu_of(talk)
        assert (cpu.free_slots, {each.slot: each.job for each in cpu.slot_uses}) == (0, slots)
        assert [(await talk.job(name)).queue_position for name in names] == [0, 0, 0, 1, 2]
        for name in names[:3]:
            last = (await talk.job(name)).last_seq
            await talk.until(name, lambda event, last=last: event.seq > last and event.HasField("step_metrics"))
            assert (await talk.job(name)).attempt == 1
        # Every way of giving a slot back gives it to the next one, once.
        write_script(tmp_path, {"steps": 2})
        await talk.cancel(names[0])
        for name in names[3:]:
            events = await talk.events(name)
            assert_whole(events)
            assert events[-1].terminal.state == job_pb2.JOB_STATE_SUCCEEDED
        await talk.pause(names[1])
        await talk.until(names[1], lambda event: event.state_changed.current == job_pb2.JOB_STATE_PAUSED)
        await talk.cancel(names[2])
        async with asyncio.timeout(60):
            while (await cpu_of(talk)).free_slots < 3:  # noqa: ASYNC110 - the service's state
                await asyncio.sleep(0.05)
        await talk.resume(names[1])
        assert (await talk.events(names[1]))[-1].terminal.state == job_pb2.JOB_STATE_SUCCEEDED
