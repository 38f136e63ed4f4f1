# SPDX-License-Identifier: Apache-2.0
"""How quickly an estimate comes over gRPC, and what it costs the server.

    python benchmarks/estimator/speed.py [--output benchmarks/results/estimator/speed.json]

A real estimator process on loopback, asked one call at a time by this process: 1,000 distinct requests of the BASIC
view, 100 of the FULL view, and batches of 100 rows, drawn at random ("batch") or as a comparison of methods and GPUs
asks ("sweep"). Latency is from the call to its answer; CPU is that of the server's process, per call. `beside_sweep` is
the latency of a single estimate that is asked while the server works on sweeps: what a long request makes others wait.
Run it on a machine that does nothing else; the client needs a core of its own.
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
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import psutil
from finetree_api.estimator.v1 import estimate_pb2, estimator_pb2, estimator_pb2_grpc
from finetree_estimator.catalog import accelerators, models
from google.protobuf import json_format

REQUESTS = 1000
FULL_VIEWS = 100
BATCHES = 20
ROWS = 100
WARM_UP = 100
METHODS = ("lora", "qlora", "full", "prefix", "adapter")


def requests(count: int, seed: int, view: str = "ESTIMATE_VIEW_BASIC") -> list[estimate_pb2.EstimateRunRequest]:
    """Make distinct requests over methods, models and accelerators of the catalog."""
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
    """Pair every method with twenty accelerators for one model; `number` makes the dataset differ between sweeps."""
    cards = [entry.name for entry in accelerators.supported()][: ROWS // len(METHODS)]
    training = {"micro_batch_size": 1, "effective_batch_size": 16, "sequence_length": 512}
    profile = {"examples": 5000 + number, "total_tokens": 200 * (5000 + number), "target_fraction": 0.4}
    specs = [
        {"model": {"name": "llama-3.1-8b"}, method: {}, "training": training, "hardware": {"accelerator": card}}
        for method in METHODS
        for card in cards
    ]
    documents = ({"spec": spec, "dataset_profile": profile, "view": "ESTIMATE_VIEW_BASIC"} for spec in specs)
    return [json_format.ParseDict(document, estimate_pb2.EstimateRunRequest()) for document in documents]


def batch(asked: Sequence[estimate_pb2.EstimateRunRequest]) -> estimator_pb2.BatchEstimateRunsRequest:
    """Put requests into one call."""
    rows = [estimator_pb2.BatchEstimateRow(key=str(number), request=request) for number, request in enumerate(asked)]
    return estimator_pb2.BatchEstimateRunsRequest(rows=rows)


@contextmanager
def server() -> Iterator[tuple[str, psutil.Process]]:
    """Start an estimator and give its address and process; end it afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready"
        flags = ["--address", "127.0.0.1:0", "--ready-file", str(ready), "--log-level", "warning"]
        process = subprocess.Popen([sys.executable, "-m", "finetree_estimator", *flags], cwd=folder)
        try:
            while not ready.exists():
                if process.poll() is not None:
                    raise SystemExit(f"the server ended with {process.returncode}")
                time.sleep(0.02)
            yield json.loads(ready.read_text(encoding="utf-8"))["address"], psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait()


async def measure(address: str, process: psutil.Process) -> dict[str, Any]:
    """Ask everything of one server."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = estimator_pb2_grpc.EstimatorServiceStub(channel)
        await timed(stub.EstimateRun, requests(WARM_UP, 1))
        sweeps = [batch(sweep(number)) for number in range(BATCHES)]
        return {
            "estimate": await costs(stub.EstimateRun, requests(REQUESTS, 2), process),
            "full_view": await costs(stub.EstimateRun, requests(FULL_VIEWS, 3, "ESTIMATE_VIEW_FULL"), process),
            "batch_of_100": await costs(
                stub.BatchEstimateRuns, [batch(requests(ROWS, 100 + number)) for number in range(BATCHES)], process
            ),
            "sweep_of_100": await costs(stub.BatchEstimateRuns, sweeps, process),
            "beside_sweep": await beside(stub, sweeps),
        }


async def costs(
    call: Callable[[Any], Awaitable[Any]], asked: Sequence[Any], process: psutil.Process
) -> dict[str, float]:
    """Measure latency and the server's CPU per call, in milliseconds."""
    before = _cpu(process)
    taken = await timed(call, asked)
    return _latency(taken) | {"server_cpu_ms": round((_cpu(process) - before) / len(asked) * 1e3, 2)}


async def beside(stub: Any, sweeps: Sequence[Any]) -> dict[str, float]:
    """Measure the latency of single estimates for as long as another client asks for sweeps, in milliseconds."""
    work = asyncio.create_task(timed(stub.BatchEstimateRuns, sweeps))
    taken: list[float] = []
    for request in requests(REQUESTS, 4):
        if work.done():
            break
        taken += await timed(stub.EstimateRun, [request])
    await work
    return _latency(taken)


async def timed(call: Callable[[Any], Awaitable[Any]], asked: Sequence[Any]) -> list[float]:
    """Ask one call after the other: seconds of each."""
    taken = []
    for request in asked:
        began = time.perf_counter()
        await call(request)
        taken.append(time.perf_counter() - began)
    return taken


def _latency(seconds: list[float]) -> dict[str, float]:
    """Median, 99th percentile and maximum, in milliseconds."""
    hundredths = statistics.quantiles(seconds, n=100, method="inclusive")
    found = {"p50_ms": hundredths[49], "p99_ms": hundredths[98], "max_ms": max(seconds)}
    return {name: round(value * 1e3, 2) for name, value in found.items()}


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def machine() -> dict[str, Any]:
    """Describe the machine that was measured."""
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


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    results = {"machine": machine()}
    with server() as (address, process):
        results |= asyncio.run(measure(address, process))
    text = json.dumps(results, indent=1)
    print(text)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
