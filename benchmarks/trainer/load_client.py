# SPDX-License-Identifier: Apache-2.0
"""Clients of `load.py`, in a process of their own. What they saw is one JSON object on standard output.

    python benchmarks/trainer/load_client.py calls ADDRESS METHOD --request HEX --clients 64 --seconds 5
    python benchmarks/trainer/load_client.py calls ADDRESS METHOD --request HEX --rate 2000 --seconds 5
    python benchmarks/trainer/load_client.py watch ADDRESS JOB --watchers 200 --stalled 1 --seconds 10
    python benchmarks/trainer/load_client.py cycle ADDRESS JOB --cycles 10000
    python benchmarks/trainer/load_client.py replay ADDRESS JOB

`calls` without a rate asks again as soon as it is answered (closed loop: what the server can do), with `--polite` after
the time that a refusal asks for and up to half as much more, as the SDK does; with a rate it sends on the clock,
whatever comes back (open loop), and counts each call from the moment at which it was due.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import uvloop
from finetree_api.trainer.v1 import event_log_pb2, event_pb2, trainer_pb2_grpc

CHANNELS = 4
OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0))
# A client that stops reading still takes megabytes before the server feels it, unless its windows are small.
NARROW = (*OPTIONS, ("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65536))


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` of the values lie."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def spread(values: list[float]) -> dict[str, float | None]:
    """Median, 99th percentile and maximum in milliseconds of values in seconds; None where there are none."""
    shares = {"p50_ms": 0.5, "p99_ms": 0.99, "max_ms": 1.0}
    return {name: round(1000 * percentile(values, share), 2) if values else None for name, share in shares.items()}


def cpu_seconds() -> float:
    """CPU time of this process so far."""
    times = os.times()
    return times.user + times.system


@dataclass
class Outcomes:
    """How calls ended."""

    codes: Counter[str] = field(default_factory=Counter)
    answered: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    without_reason: int = 0

    def add(self, code: str, seconds: float, *, reasoned: bool = True) -> None:
        """Count a call."""
        self.codes[code] += 1
        if code == "OK":
            self.answered.append(seconds)
        elif code == "RESOURCE_EXHAUSTED":
            self.refused.append(seconds)
            self.without_reason += not reasoned

    def shown(self, seconds: float) -> dict[str, Any]:
        """The result."""
        return {
            "seconds": round(seconds, 2),
            "sent": self.codes.total(),
            "answered_per_second": round(len(self.answered) / seconds, 1),
            "codes": dict(self.codes),
            "answers": spread(self.answered),
            "refusals": spread(self.refused),
            "refusals_without_reason": self.without_reason,
            "client_cpu_seconds": round(cpu_seconds(), 2),
        }


async def calls(options: argparse.Namespace) -> dict[str, Any]:
    """Call one method."""
    channels = [grpc.aio.insecure_channel(options.address, options=OPTIONS) for _ in range(CHANNELS)]
    stubs = [channel.unary_unary(options.method) for channel in channels]
    request, outcomes = bytes.fromhex(options.request), Outcomes()

    async def one(number: int, due: float) -> float:
        """Make a call; return the seconds that a refusal asks to wait."""
        try:
            await stubs[number % CHANNELS](request, timeout=options.timeout)
        except grpc.aio.AioRpcError as error:
            trailers = {str(key): value for key, value in error.trailing_metadata() or ()}
            reasoned = "grpc-status-details-bin" in trailers
            outcomes.add(error.code().name, time.monotonic() - due, reasoned=reasoned)
            return int(trailers.get("grpc-retry-pushback-ms", 0)) / 1000
        outcomes.add("OK", time.monotonic() - due)
        return 0.0

    await asyncio.gather(*(one(number, time.monotonic()) for number in range(CHANNELS)))
    outcomes = Outcomes()
    started = time.monotonic()
    end = started + options.seconds
    if options.rate:
        await _on_the_clock(one, options.rate, started, end)
        seconds = options.seconds
    else:

        async def client(number: int) -> None:
            while time.monotonic() < end:
                wait = await one(number, time.monotonic())
                if wait and options.polite:
                    await asyncio.sleep(min(random.uniform(1.0, 1.5) * wait, max(0.0, end - time.monotonic())))

        await asyncio.gather(*map(client, range(options.clients)))
        seconds = time.monotonic() - started
    for channel in channels:
        await channel.close()
    return outcomes.shown(seconds)


async def _on_the_clock(one: Any, rate: float, started: float, end: float) -> None:
    running: set[asyncio.Task[float]] = set()
    number, due = 0, started
    while due < end:
        now = time.monotonic()
        while due <= now and due < end:
            task = asyncio.create_task(one(number, due))
            running.add(task)
            task.add_done_callback(running.discard)
            number += 1
            due = started + number / rate
        await asyncio.sleep(0.001)
    if running:
        await asyncio.wait(running)


async def watch(options: argparse.Namespace) -> dict[str, Any]:
    """Watch a job from now on; the lag of an event is the time from its making, in its message, to its arrival."""
    lags: list[float] = []
    messages = received = 0
    opened: list[asyncio.Event] = []

    async def watcher(stub: Any, ready: asyncio.Event) -> None:
        nonlocal messages, received
        call = stub.WatchJob(event_log_pb2.WatchJobRequest(name=options.job, now=event_log_pb2.StartNow()))
        async for batch in call:
            now = time.time()
            ready.set()
            messages += 1
            for event in batch.events:
                if event.kind == event_pb2.EVENT_KIND_STEP_METRICS:
                    received += 1
                    # The emitter puts its clock into a field that this benchmark's steps do not need otherwise.
                    lags.append(now - event.step_metrics.tokens_per_second)

    channels = [grpc.aio.insecure_channel(options.address, options=OPTIONS) for _ in range(CHANNELS)]
    narrow = grpc.aio.insecure_channel(options.address, options=NARROW)
    stubs = [trainer_pb2_grpc.TrainerServiceStub(channel) for channel in channels]
    stalled_stub = trainer_pb2_grpc.TrainerServiceStub(narrow)
    stalled = [stalled_stub.WatchJob(event_log_pb2.WatchJobRequest(name=options.job)) for _ in range(options.stalled)]
    for call in stalled:
        await call.read()
    tasks = []
    for number in range(options.watchers):
        opened.append(asyncio.Event())
        tasks.append(asyncio.create_task(watcher(stubs[number % CHANNELS], opened[-1])))
    await asyncio.wait_for(asyncio.gather(*(ready.wait() for ready in opened)), 60)
    print("watching", file=sys.stderr, flush=True)
    lags.clear()
    messages = received = 0
    cpu = cpu_seconds()
    await asyncio.sleep(options.seconds)
    found = {
        "watchers": options.watchers,
        "stalled": options.stalled,
        "events": received,
        "messages": messages,
        "lag": spread(lags),
        "client_cpu_seconds": round(cpu_seconds() - cpu, 2),
    }
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for channel in (*channels, narrow):
        await channel.close()
    return found


async def cycle(options: argparse.Namespace) -> dict[str, Any]:
    """Open a watch, read a batch, cancel; again and again, 16 at a time."""
    async with grpc.aio.insecure_channel(options.address, options=OPTIONS) as channel:
        stub, left = trainer_pb2_grpc.TrainerServiceStub(channel), options.cycles

        async def client() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                call = stub.WatchJob(event_log_pb2.WatchJobRequest(name=options.job))
                await call.read()
                call.cancel()

        await asyncio.gather(*(client() for _ in range(16)))
    return {"cycles": options.cycles}


async def replay(options: argparse.Namespace) -> dict[str, Any]:
    """Watch an ended job from its first event to its last."""
    async with grpc.aio.insecure_channel(options.address, options=OPTIONS) as channel:
        stub, events, last = trainer_pb2_grpc.TrainerServiceStub(channel), 0, 0
        started = time.monotonic()
        async for batch in stub.WatchJob(event_log_pb2.WatchJobRequest(name=options.job)):
            events += len(batch.events)
            last = batch.events[-1].seq if batch.events else last
        return {"events": events, "last_seq": last, "seconds": round(time.monotonic() - started, 3)}


def main() -> int:
    """Do what the first word says and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["calls", "watch", "cycle", "replay"])
    parser.add_argument("address")
    parser.add_argument("subject", help="method of `calls`, job of the others")
    parser.add_argument("--request", default="", help="bytes of the request, hexadecimal")
    parser.add_argument("--rate", type=float, default=0.0, help="calls a second; 0: as fast as they are answered")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--polite", action="store_true", help="wait as refusals ask to")
    parser.add_argument("--timeout", type=float, default=2.0, help="deadline of a call, seconds")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--watchers", type=int, default=200)
    parser.add_argument("--stalled", type=int, default=0)
    parser.add_argument("--cycles", type=int, default=1000)
    options = parser.parse_args()
    options.method = options.job = options.subject
    work = {"calls": calls, "watch": watch, "cycle": cycle, "replay": replay}[options.what]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(work(options))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
