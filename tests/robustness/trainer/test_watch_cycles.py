# SPDX-License-Identifier: Apache-2.0
"""Clients that watch and go, over and over: the server keeps nothing of them."""

import asyncio

import psutil
from finetree_api.trainer.v1 import event_log_pb2
from trainer_harness import server

CYCLES = 2000
AT_ONCE = 16


async def cycles(stub, name, count) -> None:
    left = count

    async def client() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            call = stub.WatchJob(event_log_pb2.WatchJobRequest(name=name))
            await asyncio.wait_for(call.read(), 60)
            call.cancel()

    await asyncio.gather(*(client() for _ in range(AT_ONCE)))


async def test_two_thousand_watches_leave_no_memory_taken(tmp_path):
    async with server(tmp_path, {"steps": 3, "start_delay": 600}) as (running, talk):
        job = await talk.train()
        process = psutil.Process(running.process.pid)
        # The first ones fill pools and caches that stay.
        await cycles(talk.stub, job.name, CYCLES // 4)
        before = process.memory_info().rss
        await cycles(talk.stub, job.name, CYCLES)
        grown = process.memory_info().rss - before
        assert grown < CYCLES * 1024, grown
        assert process.num_fds() < 100
