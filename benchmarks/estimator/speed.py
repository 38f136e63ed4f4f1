# SPDX-License-Identifier: Apache-2.0
"""What an estimate costs the server, and how quickly it comes, beside a bare echo server in the same run.

    python benchmarks/estimator/speed.py [--output benchmarks/results/estimator/speed.json]

A real estimator process on loopback, asked by this process. Costs are CPU time of the server's process, per call, over
1,000 distinct requests (and again over the same ones, which it then has kept). The echo server is grpc.aio with uvloop
and nothing else: it answers every call with one and the same reply, of the size of an estimate. Both are asked one call
after the other, which wakes threads for each, and with many at once, as a busy server is. The open loop sends
500 requests a second whether or not answers have come, by a client of a few microseconds (open_loop.py), known ones
and distinct ones; latency counts from when a request was due. Run it on a machine that does nothing else: the client
needs a core of its own.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import psutil
from finetree_api.estimator.v1 import estimate_pb2, estimator_pb2, estimator_pb2_grpc
from finetree_estimator.catalog import accelerators, models
from google.protobuf import json_format
from open_loop import latencies

REQUESTS = 1000
CROWDED = 3000
CROWDS = (16, 64)
"""Calls at once."""
WARM_UP = 200
BATCH = 100
RATE = 500
SECONDS = 10
METHODS = ("lora", "qlora", "full", "prefix", "adapter")
_SCRIPT = Path(__file__).resolve()
_PATH = "/finetree_api.estimator.v1.EstimatorService/EstimateRun"


def requests(count: int, seed: int, view: str = "ESTIMATE_VIEW_BASIC") -> list[estimate_pb2.EstimateRunRequest]:
    """Distinct requests over methods, models and accelerators of the catalogue."""
    draw = random.Random(seed)
    names = [entry.name for entry in models.models() if not entry.shape.experts]
    cards = [entry.name for entry in accelerators.supported() if entry.native_bf16]
    return [_request(draw, names, cards, number, view) for number in range(count)]


def _request(
    draw: random.Random, names: list[str], cards: list[str], number: int, view: str
) -> estimate_pb2.EstimateRunRequest:
    method = draw.choice(METHODS)
    training = {
        "micro_batch_size": draw.choice((1, 2, 4)),
        "effective_batch_size": 16,
        "sequence_length": draw.choice((256, 512, 1024)),
    }
    document = {
        "spec": {
            "model": {"name": draw.choice(names)},
            method: {},
            "training": training,
            "hardware": {"accelerator": draw.choice(cards)},
        },
        "dataset_profile": {"examples": 1000 + number, "total_tokens": 200 * (1000 + number), "target_fraction": 0.4},
        "view": view,
    }
    return json_format.ParseDict(document, estimate_pb2.EstimateRunRequest())


def sweep(number: int) -> list[estimate_pb2.EstimateRunRequest]:
    """The methods on twenty accelerators for one model and dataset, as a comparison asks; `number` tells data apart."""
    cards = [entry.name for entry in accelerators.supported()][: BATCH // len(METHODS)]
    training = {"micro_batch_size": 1, "effective_batch_size": 16, "sequence_length": 512}
    profile = {"examples": 5000 + number, "total_tokens": 200 * (5000 + number), "target_fraction": 0.4}
    specs = [
        {"model": {"name": "llama-3.1-8b"}, method: {}, "training": training, "hardware": {"accelerator": card}}
        for method in METHODS
        for card in cards
    ]
    documents = ({"spec": spec, "dataset_profile": profile, "view": "ESTIMATE_VIEW_BASIC"} for spec in specs)
    return [json_format.ParseDict(document, estimate_pb2.EstimateRunRequest()) for document in documents]


@contextmanager
def server(*command: str) -> Iterator[tuple[str, psutil.Process]]:
    """A server process and its address; ended at the end."""
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready"
        flags = ["--address", "127.0.0.1:0", "--ready-file", str(ready), "--log-level", "warning"]
        process = subprocess.Popen([sys.executable, *command, *flags], cwd=folder)
        try:
            while not ready.exists():
                if process.poll() is not None:
                    raise SystemExit(f"the server ended with {process.returncode}")
                time.sleep(0.02)
            yield json.loads(ready.read_text(encoding="utf-8"))["address"], psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait()


async def one_by_one(call: Callable[[Any], Any], asked: list[Any], process: psutil.Process) -> dict[str, float]:
    """Ask one after the other: server CPU and wall time per call, in microseconds."""
    cpu, wall = _cpu(process), time.perf_counter()
    for request in asked:
        await call(request)
    return {
        "server_cpu_us": round((_cpu(process) - cpu) / len(asked) * 1e6, 1),
        "wall_us": round((time.perf_counter() - wall) / len(asked) * 1e6, 1),
    }


async def crowded(
    call: Callable[[Any], Any], rounds: list[list[Any]], process: psutil.Process, at_once: int
) -> dict[str, Any]:
    """Ask with so many calls at once: calls per second and server CPU per call, medians of the rounds and each."""
    found = [await _crowd(call, asked, process, at_once) for asked in rounds]
    rates, costs = zip(*found, strict=True)
    median = {"calls_per_second": statistics.median(rates), "server_cpu_us": statistics.median(costs)}
    return median | {"rounds": {"calls_per_second": rates, "server_cpu_us": costs}}


async def _crowd(
    call: Callable[[Any], Any], asked: list[Any], process: psutil.Process, at_once: int
) -> tuple[int, float]:
    waiting = iter(asked)

    async def work() -> None:
        for request in waiting:
            await call(request)

    cpu, began = _cpu(process), time.perf_counter()
    await asyncio.gather(*(work() for _ in range(at_once)))
    wall = time.perf_counter() - began
    return round(len(asked) / wall), round((_cpu(process) - cpu) / len(asked) * 1e6, 1)


def open_loop(address: str, asked: list[Any]) -> dict[str, float]:
    """RATE requests a second for SECONDS, whatever comes back: milliseconds from when each was due."""
    bodies = [request.SerializeToString() for request in asked]
    taken = latencies(address, _PATH, bodies, rate=RATE, seconds=SECONDS)
    shares = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99}
    return {name: round(taken[int(share * (len(taken) - 1))], 3) for name, share in shares.items()}


async def measure(address: str, process: psutil.Process, *, whole: bool) -> dict[str, Any]:
    """Everything about one server; of the echo server only what the estimator is held against."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = estimator_pb2_grpc.EstimatorServiceStub(channel)
        for request in requests(WARM_UP, 1):
            await stub.EstimateRun(request)
        fresh = requests(REQUESTS, 2)
        found: dict[str, Any] = {"uncached": await one_by_one(stub.EstimateRun, fresh, process)}
        found["cached"] = await one_by_one(stub.EstimateRun, fresh, process)
        for at_once in CROWDS:
            rounds = [requests(CROWDED, 100 * at_once + seed) for seed in range(3)]
            found[f"at_once_{at_once}"] = {
                "uncached": await crowded(stub.EstimateRun, rounds, process, at_once),
                "cached": await crowded(stub.EstimateRun, rounds[-1:] * 3, process, at_once),
            }
        if whole:
            found["batch_of_100"] = await _batches(stub, process, [requests(BATCH, 100 + each) for each in range(10)])
            found["sweep_of_100"] = await _batches(stub, process, [sweep(each) for each in range(10)])
            full = requests(100, 9, "ESTIMATE_VIEW_FULL")
            found["full_view"] = await one_by_one(stub.EstimateRun, full, process)
        again = requests(REQUESTS, 7)
        for request in again:
            await stub.EstimateRun(request)
    found["open_loop_cached"] = open_loop(address, again)
    found["open_loop"] = open_loop(address, requests(RATE * SECONDS, 6))
    return found


async def _batches(
    stub: Any, process: psutil.Process, asked: list[list[estimate_pb2.EstimateRunRequest]]
) -> dict[str, Any]:
    batches = list(map(_batch, asked))
    uncached = await one_by_one(stub.BatchEstimateRuns, batches, process)
    return {"uncached": uncached, "cached": await one_by_one(stub.BatchEstimateRuns, batches, process)}


def _batch(asked: list[estimate_pb2.EstimateRunRequest]) -> estimator_pb2.BatchEstimateRunsRequest:
    rows = [estimator_pb2.BatchEstimateRow(key=str(number), request=request) for number, request in enumerate(asked)]
    return estimator_pb2.BatchEstimateRunsRequest(rows=rows)


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def echo(address_file: Path) -> None:
    """The bare server: one handler that answers every call with the same reply."""
    from finetree_estimator.catalog import price_book
    from finetree_estimator.servicer import EstimatorServicer
    from finetree_estimator.spec.resolve import Knowledge

    known = EstimatorServicer(Knowledge(price_book.packaged())).estimate(requests(1, 0)[0])
    reply = estimator_pb2.EstimateRunResponse(estimate=known)

    class Echo(estimator_pb2_grpc.EstimatorServiceServicer):
        async def EstimateRun(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
            return reply

    bare = grpc.aio.server()
    estimator_pb2_grpc.add_EstimatorServiceServicer_to_server(Echo(), bare)  # type: ignore[abstract]
    port = bare.add_insecure_port("127.0.0.1:0")
    await bare.start()
    partial = address_file.with_suffix(".part")
    partial.write_text(json.dumps({"address": f"127.0.0.1:{port}"}), encoding="utf-8")
    partial.rename(address_file)
    await bare.wait_for_termination()


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--echo", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--ready-file", type=Path, help=argparse.SUPPRESS)
    options, _ = parser.parse_known_args()
    if options.echo:
        import uvloop

        uvloop.run(echo(options.ready_file))
        return
    results: dict[str, Any] = {"machine": machine()}
    with server(str(_SCRIPT), "--echo") as (address, process):
        results["echo"] = asyncio.run(measure(address, process, whole=False))
    with server("-m", "finetree_estimator") as (address, process):
        results["estimator"] = asyncio.run(measure(address, process, whole=True))
    results["throughput_share_of_echo"] = {f"at_once_{each}": share_of_echo(results, each) for each in CROWDS}
    text = json.dumps(results, indent=1)
    print(text)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text + "\n", encoding="utf-8")


def share_of_echo(results: dict[str, Any], at_once: int) -> dict[str, float]:
    """The estimator's calls per second by the echo server's, which answers new and known ones alike."""
    ours, echoed = (results[name][f"at_once_{at_once}"] for name in ("estimator", "echo"))
    return {
        known: round(ours[known]["calls_per_second"] / echoed[known]["calls_per_second"], 3)
        for known in ("uncached", "cached")
    }


def machine() -> dict[str, Any]:
    """What it was measured on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "grpc": grpc.__version__,
        "load_at_start": round(os.getloadavg()[0], 2),
    }


if __name__ == "__main__":
    main()
