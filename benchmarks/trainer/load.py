# SPDX-License-Identifier: Apache-2.0
"""The suite under load: many watchers, more calls than it can answer, a return after a kill, a full queue, a long log.

    python benchmarks/trainer/load.py --output benchmarks/results/trainer/load.json
    python benchmarks/trainer/load.py --short

Real services on loopback, each in a process of its own, and clients in another (`load_client.py`), which use grpc.aio
without the SDK. The cores are shared by the service, the clients and, where watchers are measured, a worker that
computes in two threads. Each part stands beside a limit, or beside a peer measured in the same run: a bare gRPC stream
for the cost of a message, the service's own rate without overload for what it answers under it.
`--short` does less of everything, for a look whether all of it works: quote nothing from it.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import history
import psutil
from finetree_api.estimator.v1 import estimate_pb2
from finetree_api.recommender.v1 import recommendation_pb2
from finetree_api.trainer.v1 import job_pb2, trainer_pb2, trainer_pb2_grpc
from finetree_api.types.v1 import method_pb2, run_spec_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from load_client import OPTIONS, percentile, spread
from measured_on import machine

FOLDER = Path(__file__).resolve().parent
SERVICES = {"estimator": "Estimator", "recommender": "Recommender", "trainer": "Trainer"}
LIMITS = {
    "lag_p99_ms": 250.0,
    "stalled_slows_p99_by": 0.05,
    "bytes_per_watcher": 30 * 1024,
    "goodput": 0.8,
    "refusal_p99_ms": 50.0,
    "ready_seconds": 2.0,
    "create_p99_ms": 50.0,
    "list_p99_ms": 20.0,
    "replay_seconds": 2.0,
    "bytes_per_cycle": 100,
}


class Amounts:
    """How much of everything is done."""

    def __init__(self, *, short: bool) -> None:
        self.watch_seconds = 2.0 if short else 20.0
        self.watchers = 50 if short else 200
        self.call_seconds = 1.0 if short else 8.0
        self.starts = 2 if short else 10
        self.jobs = 200 if short else 1000
        self.events = 10_000 if short else 100_000
        self.calls = 40 if short else 500
        self.cycles = 500 if short else 10_000


def environment() -> dict[str, str]:
    """What a service is started with: Python may keep compiled modules, as it does where nobody forbids it."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}


@contextlib.asynccontextmanager
async def started(folder: Path, *command: str) -> AsyncIterator[tuple[str, psutil.Process]]:
    """A program that writes its address to FOLDER/ready.json; ended with SIGKILL."""
    ready = folder / "ready.json"
    ready.unlink(missing_ok=True)
    with (folder / "log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, stdout=log, stderr=log, env=environment()
        )
    try:
        async with asyncio.timeout(60):
            while not ready.exists():
                if process.returncode is not None:
                    raise RuntimeError((folder / "log").read_text()[-2000:])
                await asyncio.sleep(0.01)
        yield json.loads(ready.read_text())["address"], psutil.Process(process.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def service(name: str, folder: Path, **settings: Any) -> list[str]:
    """The command of a service."""
    flags = {"address": "127.0.0.1:0", "log-level": "error", "ready-file": folder / "ready.json"} | settings
    return ["-m", f"finetree_{name}", *(f"--{key}={value}" for key, value in flags.items())]


def trainer_command(folder: Path, **settings: Any) -> list[str]:
    """The command of a trainer with one tiny model and one file of rows."""
    (folder / "models" / "tiny").mkdir(parents=True, exist_ok=True)
    (folder / "models" / "tiny" / "config.json").write_text("{}")
    (folder / "rows.jsonl").write_text((json.dumps({"prompt": "a", "completion": "b"}) + "\n") * 8)
    own = {"data-dir": folder / "data", "model-roots": folder / "models", "data-roots": folder}
    own |= {"estimator-address": "127.0.0.1:1"}
    return [*service("trainer", folder, **(own | settings)), "--no-prewarm"]


async def client(*arguments: str, ready: asyncio.Event | None = None) -> dict[str, Any]:
    """What `load_client.py` saw; `ready` is set when all of its watchers have a stream."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(FOLDER / "load_client.py"), *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environment(),
    )  # fmt: skip
    assert process.stderr is not None
    assert process.stdout is not None
    said = asyncio.create_task(process.stdout.read())
    errors = b""
    async for line in process.stderr:
        errors += line
        if line.strip() == b"watching" and ready is not None:
            ready.set()
    if await process.wait():
        raise RuntimeError(errors.decode()[-2000:])
    return dict(json.loads(await said))


def cpu(process: psutil.Process) -> float:
    """CPU seconds of a process so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


def job(**fields: Any) -> trainer_pb2.CreateJobRequest:
    """A job that trains the tiny model."""
    spec = run_spec_pb2.RunSpec(lora=method_pb2.Lora())
    spec.model.path, spec.dataset.path = "tiny", "rows.jsonl"
    template = job_pb2.JobTemplate(train=job_pb2.TrainTask(spec=spec), **fields)
    return trainer_pb2.CreateJobRequest(parent="projects/default", job=template, request_id=os.urandom(8).hex())


# ---------------------------------------------------------------------------------------------------------- watchers


async def watchers(amounts: Amounts, rate: float = 50.0) -> dict[str, Any]:
    """Lag, CPU of a message and bytes of a watcher, beside a worker that computes; and the same of a bare stream."""
    found: dict[str, Any] = {"events_per_second": rate}
    with tempfile.TemporaryDirectory(prefix="ft") as name:
        folder = Path(name)
        command = (sys.executable, FOLDER / "load_worker.py", "worker", folder, rate, 600)
        flags = {"worker-command": ",".join(map(str, command))}
        async with started(folder, *trainer_command(folder, **flags)) as (address, process):
            async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
                stub = trainer_pb2_grpc.TrainerServiceStub(channel)
                watched = (await stub.CreateJob(job())).job.name
            for label, stalled in (("all_read", 0), ("one_stalled", 1), ("all_read_again", 0)):
                found[label] = await _watched(amounts, address, process, watched, stalled)
            (folder / "stop").touch()
            await asyncio.sleep(1.0)
            found["cycles"] = await _cycles(amounts, address, process, watched)
            for worker in process.children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    worker.send_signal(signal.SIGKILL)
    size = found["all_read"]["events"] / max(1, found["all_read"]["messages"]) * 250
    found["bare_stream"] = await _bare(amounts, size=int(size))
    # Between two measurements without one, so that a drift of the machine is not taken for its doing.
    first, stalled_lag, last = (found[each]["lag"]["p99_ms"] for each in ("all_read", "one_stalled", "all_read_again"))
    found["stalled_slows_p99_by"] = round(stalled_lag / max(first, last) - 1, 3)
    cost, floor = (found[label]["cpu_us_per_message"] for label in ("all_read", "bare_stream"))
    found["cpu_of_a_message_over_a_bare_one"] = round(cost / floor, 2)
    return found


async def _watched(
    amounts: Amounts, address: str, process: psutil.Process, watched: str, stalled: int
) -> dict[str, Any]:
    rss, ready = process.memory_info().rss, asyncio.Event()
    flags = ("--watchers", str(amounts.watchers), "--stalled", str(stalled), "--seconds", str(amounts.watch_seconds))
    seeing = asyncio.create_task(client("watch", address, watched, *flags, ready=ready))
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait({seeing, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    before, grown = cpu(process), process.memory_info().rss - rss
    seen = await seeing
    spent = cpu(process) - before
    return seen | {
        "server_cpu_seconds": round(spent, 2),
        "cpu_us_per_message": round(1e6 * spent / max(1, seen["messages"]), 1),
        "cpu_us_per_event": round(1e6 * spent / max(1, seen["events"]), 1),
        "bytes_per_watcher": round(grown / amounts.watchers),
    }


async def _cycles(amounts: Amounts, address: str, process: psutil.Process, watched: str) -> dict[str, Any]:
    await client("cycle", address, watched, "--cycles", str(amounts.cycles // 4))  # fills pools that stay
    before = process.memory_info().rss
    await client("cycle", address, watched, "--cycles", str(amounts.cycles))
    grown = process.memory_info().rss - before
    return {"cycles": amounts.cycles, "bytes_grown": grown, "bytes_per_cycle": round(grown / amounts.cycles, 1)}


async def _bare(amounts: Amounts, *, size: int) -> dict[str, Any]:
    """The floor: a server that sends ready bytes to as many streams, without a log."""
    with tempfile.TemporaryDirectory(prefix="ft") as name:
        folder = Path(name)
        command = (str(FOLDER / "load_worker.py"), "bare", str(folder / "ready.json"), "10", str(size))
        async with started(folder, *command) as (address, process), contextlib.AsyncExitStack() as stack:
            channels = [
                await stack.enter_async_context(grpc.aio.insecure_channel(address, options=OPTIONS)) for _ in range(4)
            ]
            rss, messages = process.memory_info().rss, 0

            async def read(number: int) -> None:
                nonlocal messages
                async for _ in channels[number % 4].unary_stream("/bare.Bare/Watch")(b""):
                    messages += 1

            tasks = [asyncio.create_task(read(number)) for number in range(amounts.watchers)]
            await asyncio.sleep(1.0)
            before, first, grown = cpu(process), messages, process.memory_info().rss - rss
            await asyncio.sleep(amounts.watch_seconds)
            spent, sent = cpu(process) - before, messages - first
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    return {
        "message_bytes": size,
        "messages": sent,
        "cpu_us_per_message": round(1e6 * spent / max(1, sent), 1),
        "bytes_per_watcher": round(grown / amounts.watchers),
    }


# ---------------------------------------------------------------------------------------------------------- overload


def requests() -> dict[str, tuple[str, str]]:
    """A usual unary call of each service: its method and the request's bytes."""
    run = estimate_pb2.EstimateRunRequest(spec=run_spec_pb2.RunSpec(lora=method_pb2.Lora()))
    run.spec.model.name, run.spec.hardware.accelerator = "llama-3.1-8b", "a100-80gb"
    run.spec.dataset.profile.examples = 1000
    ask = recommendation_pb2.RecommendRequest()
    listed = trainer_pb2.ListJobsRequest(page_size=20)
    calls = {"estimator": ("EstimateRun", run), "recommender": ("Recommend", ask), "trainer": ("ListJobs", listed)}
    return {
        name: (f"/finetree_api.{name}.v1.{SERVICES[name]}Service/{method}", message.SerializeToString().hex())
        for name, (method, message) in calls.items()
    }


async def overload(amounts: Amounts) -> dict[str, Any]:
    """Each service at what it can do, and at five times that: on the clock, and by clients that wait as asked."""
    found = {}
    for name, (method, request) in requests().items():
        with tempfile.TemporaryDirectory(prefix="ft") as folder_name:
            folder = Path(folder_name)
            command = trainer_command(folder) if name == "trainer" else service(name, folder)
            if name == "trainer":
                history.fill(folder / "data", queued=50, suspended=True)
            async with started(folder, *command) as (address, process):
                common = ("calls", address, method, "--request", request, "--seconds", str(amounts.call_seconds))
                await client(*common[:-1], "1", "--clients", "4")  # the first calls compile and import
                before = cpu(process)
                peak = await client(*common, "--clients", "16")
                spent = cpu(process) - before
                rate = peak["answered_per_second"]
                flood = await client(*common, "--rate", str(5 * rate), "--timeout", "1")
                polite = await client(*common, "--clients", str(16 * 5 * 5), "--polite", "--timeout", "5")
        found[name] = {
            "method": method.rpartition("/")[2],
            "cpu_ms_per_call": round(1000 * spent / max(1, peak["codes"].get("OK", 0)), 3),
            "peak": peak,
            "open_loop_5x": flood | {"goodput": round(flood["answered_per_second"] / rate, 3)},
            "clients_5x_that_wait": polite | {"goodput": round(polite["answered_per_second"] / rate, 3)},
        }
    return found


# ------------------------------------------------------------------------------------------------- start, queue, log


async def start_queue_and_log(amounts: Amounts) -> dict[str, Any]:
    """A trainer with a long history: its return after kill -9, calls on a full queue, a replay of a long log."""
    with tempfile.TemporaryDirectory(prefix="ft") as name:
        folder = Path(name)
        uids = history.fill(folder / "data", queued=amounts.jobs - 1, events_of_one=amounts.events, suspended=True)
        command = trainer_command(folder, **{"max-queued": 10 * amounts.jobs})
        seconds = [await _ready(folder, command) for _ in range(amounts.starts + 1)][1:]
        async with started(folder, *command) as (address, _process):
            async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
                stub = trainer_pb2_grpc.TrainerServiceStub(channel)
                creates = [await _timed(stub.CreateJob(job(suspended=True))) for _ in range(amounts.calls)]
                pages, token = [], ""
                for _ in range(amounts.calls):
                    request = trainer_pb2.ListJobsRequest(page_size=50, page_token=token)
                    begun = time.monotonic()
                    token = (await stub.ListJobs(request)).next_page_token
                    pages.append(time.monotonic() - begun)
            replays = [await client("replay", address, uids[-1]) for _ in range(3)]
    return {
        "jobs": amounts.jobs,
        "events": amounts.events,
        "ready_after_kill": {"starts": len(seconds)} | {
            "p50_seconds": round(percentile(seconds, 0.5), 2),
            "max_seconds": round(max(seconds), 2),
        },
        "create_job": spread(creates),
        "list_jobs_page_of_50": spread(pages),
        "replay": min(replays, key=lambda each: each["seconds"]),
    }  # fmt: skip


async def _timed(call: Any) -> float:
    begun = time.monotonic()
    await call
    return time.monotonic() - begun


async def _ready(folder: Path, command: list[str]) -> float:
    """Seconds from exec to health SERVING; then kill -9, so that the next start finds what a crash leaves."""
    begun = time.monotonic()
    async with started(folder, *command) as (address, _process):
        async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
            ask = health_pb2.HealthCheckRequest(service="finetree_api.trainer.v1.TrainerService")
            health = health_pb2_grpc.HealthStub(channel)
            async for answer in health.Watch(ask):
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    break
        return time.monotonic() - begun


# ---------------------------------------------------------------------------------------------------------- the whole


def judged(found: dict[str, Any]) -> dict[str, bool]:
    """Whether each limit is kept."""
    watching, calls, store = found["watchers"], found["overload"].values(), found["store"]
    values = {
        "lag_p99_ms": watching["all_read"]["lag"]["p99_ms"],
        "stalled_slows_p99_by": watching["stalled_slows_p99_by"],
        "bytes_per_watcher": watching["all_read"]["bytes_per_watcher"],
        "bytes_per_cycle": watching["cycles"]["bytes_per_cycle"],
        "ready_seconds": store["ready_after_kill"]["max_seconds"],
        "create_p99_ms": store["create_job"]["p99_ms"],
        "list_p99_ms": store["list_jobs_page_of_50"]["p99_ms"],
        "replay_seconds": store["replay"]["seconds"],
    }
    kept = {name: value <= LIMITS[name] for name, value in values.items()}
    for name in ("open_loop_5x", "clients_5x_that_wait"):
        kept[f"goodput_{name}"] = all(each[name]["goodput"] >= LIMITS["goodput"] for each in calls)
    refused = [each["open_loop_5x"]["refusals"]["p99_ms"] for each in calls]
    kept["refusal_p99_ms"] = all(value is not None and value <= LIMITS["refusal_p99_ms"] for value in refused)
    kept["every_refusal_has_a_reason"] = not any(each["open_loop_5x"]["refusals_without_reason"] for each in calls)
    return kept


async def measure(amounts: Amounts) -> dict[str, Any]:
    """All parts, one after another."""
    found: dict[str, Any] = {"benchmark": "load", "machine": machine() | {"grpc": grpc.__version__}, "limits": LIMITS}
    found["watchers"] = await watchers(amounts)
    found["overload"] = await overload(amounts)
    found["store"] = await start_queue_and_log(amounts)
    found["kept"] = judged(found)
    return found


def main() -> int:
    """Measure, print, write; 1 when a limit is not kept."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--short", action="store_true", help="less of everything, under a minute; quote nothing from it"
    )
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    found = asyncio.run(measure(Amounts(short=options.short)))
    found["short"] = options.short
    text = json.dumps(found, indent=2)
    print(text)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text + "\n")
    return 0 if all(found["kept"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
