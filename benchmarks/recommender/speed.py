# SPDX-License-Identifier: Apache-2.0
"""Latency and CPU of a recommendation, with the estimator and without one.

    python benchmarks/recommender/speed.py [--output benchmarks/results/recommender/speed.json]

A real recommender and a real estimator, each a process on loopback; both are bound to one core, the client to another.
Requests are distinct: any model and accelerator of the catalog, any answers. Each makes one batch call to the
estimator, with every method's recipe and its fallbacks. Latency is from the call to its answer, one call at a time; CPU
is that of each server's process, per call. The machine must be otherwise idle.
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
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import psutil
from finetree_api.recommender.v1 import recommendation_pb2, recommender_pb2_grpc
from finetree_estimator.catalog import accelerators, models
from google.protobuf import json_format

REQUESTS = 1000
ROUNDS = 3
WARM_UP = 100
NO_ESTIMATOR = "127.0.0.1:1"
"""Address where no estimator listens."""


def requests(count: int, seed: int) -> Iterator[recommendation_pb2.RecommendRequest]:
    """Make distinct requests."""
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
            "task_domain": draw.randint(0, 6),
            "ownership": {"rented": {}} if draw.random() < 0.5 else None,
            "budget_per_month": {"currency_code": "USD", "units": draw.choice((20, 70, 200, 1000, 5000))},
        }
        yield json_format.ParseDict(document, recommendation_pb2.RecommendRequest())


@contextmanager
def server(*command: str) -> Iterator[tuple[str, psutil.Process]]:
    """Start a server on the first core, and yield its address and process."""
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready"
        flags = ["--address", "127.0.0.1:0", "--ready-file", str(ready), "--log-level", "warning"]
        process = subprocess.Popen([sys.executable, "-m", *command, *flags], cwd=folder)
        try:
            psutil.Process(process.pid).cpu_affinity(_cores()[:1])
            while not ready.exists():
                if process.poll() is not None:
                    raise SystemExit(f"the server ended with {process.returncode}")
                time.sleep(0.02)
            yield json.loads(ready.read_text(encoding="utf-8"))["address"], psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait()


async def one_by_one(
    call: Any, asked: list[recommendation_pb2.RecommendRequest], processes: dict[str, psutil.Process]
) -> dict[str, float]:
    """Ask one after the other, and return percentiles of the latency and CPU of each process per call."""
    before = {name: sum(process.cpu_times()[:2]) for name, process in processes.items()}
    taken = []
    for request in asked:
        began = time.perf_counter()
        await call(request)
        taken.append((time.perf_counter() - began) * 1e3)
    taken.sort()
    found = {
        name: round(taken[int(share * (len(taken) - 1))], 2) for name, share in (("p50_ms", 0.5), ("p99_ms", 0.99))
    }
    for name, process in processes.items():
        spent = sum(process.cpu_times()[:2]) - before[name]
        found[f"{name}_cpu_ms"] = round(spent / len(asked) * 1e3, 2)
    return found


async def measure(address: str, processes: dict[str, psutil.Process]) -> dict[str, Any]:
    """Measure rounds of distinct requests, and return the median of each figure and the rounds."""
    async with grpc.aio.insecure_channel(address) as channel:
        call = recommender_pb2_grpc.RecommenderServiceStub(channel).Recommend
        for request in requests(WARM_UP, 1):
            await call(request)
        rounds = [await one_by_one(call, list(requests(REQUESTS, 10 + number)), processes) for number in range(ROUNDS)]
    return {"new": {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}, "rounds": rounds}


def machine() -> dict[str, Any]:
    """Machine of the measurement."""
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


def _cores() -> list[int]:
    return sorted(os.sched_getaffinity(0))


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    results: dict[str, Any] = {"machine": machine(), "requests": REQUESTS}
    with ExitStack() as stack:
        estimator, estimating = stack.enter_context(server("finetree_estimator"))
        command = ("finetree_recommender", "--estimator-address")
        address, recommending = stack.enter_context(server(*command, estimator))
        alone_address, alone = stack.enter_context(server(*command, NO_ESTIMATOR))
        os.sched_setaffinity(0, _cores()[1:] or _cores())
        both = {"recommender": recommending, "estimator": estimating}
        results["with_estimator"] = asyncio.run(measure(address, both))
        results["without_estimator"] = asyncio.run(measure(alone_address, {"recommender": alone}))
    text = json.dumps(results, indent=1)
    print(text)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
