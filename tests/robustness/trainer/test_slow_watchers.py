# SPDX-License-Identifier: Apache-2.0
"""Watchers that never read: the job does not notice, and the server's memory stays as it is."""

import asyncio
import json

import grpc
import psutil
from finetree_api.trainer.v1 import event_log_pb2, event_pb2, trainer_pb2_grpc
from trainer_harness import OPTIONS, assert_whole, server, steps

STALLED = 200
STEPS = 1500
NARROW = (*OPTIONS, ("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65536))


async def test_two_hundred_stalled_watchers_cost_the_job_nothing(tmp_path):
    async with server(tmp_path, {"steps": STEPS, "start_delay": 0.5}) as (running, talk):
        address = json.loads((tmp_path / "ready.json").read_text())["address"]
        job = await talk.train()
        async with grpc.aio.insecure_channel(address, options=NARROW) as channel:
            stub = trainer_pb2_grpc.TrainerServiceStub(channel)
            stalled = [stub.WatchJob(event_log_pb2.WatchJobRequest(name=job.name)) for _ in range(STALLED)]
            for call in stalled:
                await asyncio.wait_for(call.read(), 60)
            before = psutil.Process(running.process.pid).memory_info().rss
            events = await talk.events(job.name)
            after = psutil.Process(running.process.pid).memory_info().rss
            assert_whole(events)
            assert len(steps(events)) == STEPS
            # What all of them may have on the way is two batches of 64 KiB each; the log itself is larger by far.
            assert after - before < 60 * 1024**2, after - before
            for call in stalled:
                call.cancel()
        assert events[-1].kind == event_pb2.EVENT_KIND_TERMINAL
