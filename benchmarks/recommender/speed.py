# SPDX-License-Identifier: Apache-2.0
"""What a recommendation costs, and how quickly it comes, with the estimator beside it and without one.

    python benchmarks/recommender/speed.py [--output benchmarks/results/recommender/speed.json]

A real recommender and a real estimator, each a process on loopback, asked by this one. Requests are distinct: any model
and accelerator of the catalogue, any answers. Each is answered by one batch call to the estimator, which prices every
method's recipe, plain and adapted. CPU is that of each server's process, per call; latency is from the call to its
answer, one call at a time. The recommender's own share of it is measured apart, in a process of its own with recorded
estimates (own_cpu.py). A bare grpc.aio echo of a typical reply, in the same run, says what gRPC alone takes here.
Run it on a machine that does nothing else.
"""

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc.aio
import psutil
from finetree_api.recommender.v1 import recommender_pb2 as rec
from finetree_api.recommender.v1 import recommender_pb2_grpc
from finetree_estimator.catalog import accelerators, models
from google.protobuf import json_format

_SCRIPT = Path(__file__).resolve()
sys.path.insert(0, str(_SCRIPT.parents[1] / "estimator"))

import speed as estimator_speed  # noqa: E402 - it lies beside this folder

REQUESTS = 1000
WARM_UP = 100
NOBODY = "127.0.0.1:1"
"""An address where no estimator listens."""


def requests(count: int, seed: int) -> Iterator[rec.RecommendRequest]:
    """Distinct requests."""
    draw = random.Random(seed)
    names = [entry.name for entry in models.models()]
    cards = [entry.name for entry in accelerators.supported()]
    for _ in range(count):
        examples = draw.randint(50, 200_000)
        document = {
            "model": {"name": draw.choice(names)},
            "hardware": {"accelerator": draw.choice(cards)},
            "dataset_profile": {"examples": examples, "total_tokens": examples * draw.randint(50, 800)},
            "quality": draw.randint(0, 5),
            "time": draw.randint(0, 3),
            "tasks": draw.randint(0, 3),
            "task_kind": draw.randint(0, 6),
            "ownership": {"rented": {}} if draw.random() < 0.5 else None,
            "budget_usd_month": draw.choice((20, 70, 200, 1000, 5000, None)),
        }
        yield json_format.ParseDict(document, rec.RecommendRequest())


async def one_by_one(
    call: Any, asked: list[rec.RecommendRequest], processes: dict[str, psutil.Process]
) -> dict[str, Any]:
    """Ask one after the other: CPU of each process and latency."""
    before = {name: sum(process.cpu_times()[:2]) for name, process in processes.items()}
    taken = []
    for request in asked:
        began = time.perf_counter()
        await call(request)
        taken.append((time.perf_counter() - began) * 1e3)
    taken.sort()
    shares = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99}
    found: dict[str, Any] = {name: round(taken[int(share * (len(taken) - 1))], 3) for name, share in shares.items()}
    for name, process in processes.items():
        spent = sum(process.cpu_times()[:2]) - before[name]
        found[f"{name}_cpu_us"] = round(spent / len(asked) * 1e6, 1)
    return found


async def measure(address: str, processes: dict[str, psutil.Process], rounds: int = 3) -> dict[str, Any]:
    """Rounds of distinct requests, the medians of each figure, and the last round asked again."""
    async with grpc.aio.insecure_channel(address) as channel:
        call = recommender_pb2_grpc.RecommenderServiceStub(channel).Recommend
        for request in requests(WARM_UP, 1):
            await call(request)
        found = [await one_by_one(call, list(requests(REQUESTS, 10 + number)), processes) for number in range(rounds)]
        again = await one_by_one(call, list(requests(REQUESTS, 9 + rounds)), processes)
    medians = {name: statistics.median(entry[name] for entry in found) for name in found[0]}
    return {"new": medians, "rounds": found, "asked_again": again}


def in_process(estimator: str) -> dict[str, Any]:
    """What a recommendation takes without gRPC, the client and the estimator (own_cpu.py)."""
    command = [sys.executable, str(_SCRIPT.with_name("own_cpu.py")), "--estimator", estimator]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def reply_of(address: str) -> bytes:
    """A typical reply, to be echoed."""
    with grpc.insecure_channel(address) as channel:
        stub = recommender_pb2_grpc.RecommenderServiceStub(channel)
        return bytes(stub.Recommend(next(requests(1, 0))).SerializeToString())


async def echo(ready_file: Path, reply: rec.RecommendResponse) -> None:
    """The bare server: one handler that answers every call with the same reply."""

    class Echo(recommender_pb2_grpc.RecommenderServiceServicer):
        async def Recommend(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
            return reply

    bare = grpc.aio.server()
    recommender_pb2_grpc.add_RecommenderServiceServicer_to_server(Echo(), bare)  # type: ignore[abstract]
    port = bare.add_insecure_port("127.0.0.1:0")
    await bare.start()
    partial = ready_file.with_suffix(".part")
    partial.write_text(json.dumps({"address": f"127.0.0.1:{port}"}), encoding="utf-8")
    partial.rename(ready_file)
    await bare.wait_for_termination()


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    parser.add_argument("--echo", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--ready-file", type=Path, help=argparse.SUPPRESS)
    options, _ = parser.parse_known_args()
    if options.echo:
        import uvloop

        reply = rec.RecommendResponse.FromString(options.echo.read_bytes())
        uvloop.run(echo(options.ready_file, reply))
        return
    results: dict[str, Any] = {"machine": estimator_speed.machine(), "requests": REQUESTS}
    with ExitStack() as stack:
        estimator, estimating = stack.enter_context(estimator_speed.server("-m", "finetree_estimator"))
        flags = ("-m", "finetree_recommender", "--estimator-address")
        address, process = stack.enter_context(estimator_speed.server(*flags, estimator))
        print("with the estimator", file=sys.stderr)
        both = {"recommender": process, "estimator": estimating}
        results["with_estimator"] = asyncio.run(measure(address, both))
        print("its own CPU, in a process without gRPC", file=sys.stderr)
        results["in_process"] = in_process(estimator)
        reply = Path(stack.enter_context(estimator_speed.tempfile.TemporaryDirectory())) / "reply"
        reply.write_bytes(reply_of(address))
        print("without an estimator", file=sys.stderr)
        address, process = stack.enter_context(estimator_speed.server(*flags, NOBODY))
        results["without_estimator"] = asyncio.run(measure(address, {"recommender": process}))
        print("a bare echo of the reply", file=sys.stderr)
        address, process = stack.enter_context(estimator_speed.server(str(_SCRIPT), "--echo", str(reply)))
        results["echo"] = asyncio.run(measure(address, {"recommender": process}))["new"]
        results["reply_bytes"] = reply.stat().st_size
    text = json.dumps(results, indent=1)
    print(text)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
