# SPDX-License-Identifier: Apache-2.0
"""What an event costs the training thread, in CPU time of that thread.

    python benchmarks/event_cost.py [--events 3000] [--output benchmarks/results/event_cost.json]

A real trainer on loopback runs a real worker process whose "training" is a loop that emits StepMetrics, one every two
milliseconds, and asks `time.thread_time_ns` before and after each. Once with one watcher that reads, once with 200 that
have stopped reading. Target: 50 µs on average in either case.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TARGET_MICROSECONDS = 50.0
WATCHERS = (1, 200)
PAUSE_SECONDS = 0.002
SCRIPT = Path(__file__).resolve()
# Without these a client that stops reading still takes megabytes before the server feels it.
CHANNEL = {"grpc.http2.bdp_probe": 0, "grpc.http2.lookahead_bytes": 65536, "grpc.use_local_subchannel_pool": 1}


class MeasuredCore:
    """Emits events and takes the time; the rest of the worker is the shipped one."""

    def __init__(self, folder: Path, events: int) -> None:
        self._folder, self._events = folder, events

    def warm_up(self) -> None:
        """Nothing to import."""

    def profile(self) -> Any:
        """Not asked for."""
        raise NotImplementedError

    def prepare(self, _task: Any, _reporter: Any, _control: Any) -> None:
        """Not asked for."""

    def train(self, _task: Any, reporter: Any, _control: Any) -> Any:
        """Emit, and write what each event cost. Waits until the watchers are there."""
        from finetree_api.trainer.v1 import event_pb2

        while not (self._folder / "go").exists():
            time.sleep(0.01)
        costs = []
        for number in range(1, self._events + 1):
            before = time.thread_time_ns()
            reporter.emit(step(number, self._events))
            costs.append(time.thread_time_ns() - before)
            time.sleep(PAUSE_SECONDS)
        clock = statistics.median(empty_costs(1000))
        (self._folder / "costs.json").write_text(json.dumps({"costs_ns": costs, "clock_ns": clock}))
        return event_pb2.RunSummary()


def step(number: int, total: int) -> Any:
    """An event as the training loop makes it; making it is part of the cost."""
    from finetree_api.trainer.v1 import event_pb2

    return event_pb2.StepMetrics(
        step=number, total_steps=total, epoch=number / total, loss=2.0, learning_rate=1e-3, grad_norm=0.7,
        processed_tokens=number * 512, target_tokens=number * 128, tokens_per_second=900.0,
        step_seconds=PAUSE_SECONDS, memory_bytes=10**9,
    )  # fmt: skip


def empty_costs(count: int) -> list[int]:
    """What asking the clock twice costs."""
    found = []
    for _ in range(count):
        before = time.thread_time_ns()
        found.append(time.thread_time_ns() - before)
    return found


def worker(folder: Path, events: int, arguments: list[str]) -> int:
    """The worker process, started by the trainer."""
    from finetree_worker.process.log_capture import set_environment

    set_environment()
    from finetree_worker.process.process import Process, parse

    return Process(parse(arguments), MeasuredCore(folder, events)).run()


async def measure(events: int, watchers: int) -> dict[str, Any]:
    """One run with so many watchers; 200 of them are stalled, a single one reads."""
    with tempfile.TemporaryDirectory(prefix="ft") as name:
        folder = Path(name)
        process, address = await start_trainer(folder, events)
        try:
            await run_job(folder, address, watchers)
        finally:
            process.terminate()
            await process.wait()
        found = json.loads((folder / "costs.json").read_text())
    micro = sorted(cost / 1000 for cost in found["costs_ns"])
    return {
        "watchers": watchers,
        "watchers_read": watchers == 1,
        "events": len(micro),
        "mean_us": round(statistics.fmean(micro), 2),
        "median_us": round(statistics.median(micro), 2),
        "p99_us": round(micro[int(0.99 * len(micro))], 2),
        "max_us": round(micro[-1], 2),
        "clock_us": round(found["clock_ns"] / 1000, 2),
    }


async def start_trainer(folder: Path, events: int) -> tuple[asyncio.subprocess.Process, str]:
    """A trainer in a process of its own; the process and its address."""
    (folder / "models" / "tiny").mkdir(parents=True)
    (folder / "models" / "tiny" / "config.json").write_text("{}")
    (folder / "rows").mkdir()
    row = {"prompt": "a", "completion": "b"}
    (folder / "rows" / "rows.jsonl").write_text((json.dumps(row) + "\n") * 8)
    command = (sys.executable, str(SCRIPT), f"--worker={folder}", f"--events={events}")
    options = {
        "address": "127.0.0.1:0",
        "data-dir": folder / "data",
        "model-roots": folder / "models",
        "data-roots": folder / "rows",
        "worker-command": ",".join(command),
        "estimator-address": "127.0.0.1:1",
        "log-level": "error",
        "ready-file": folder / "ready.json",
    }
    flags = [f"--{key}={value}" for key, value in options.items()]
    with (folder / "trainer.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "finetree_trainer", "--no-prewarm", *flags, stderr=log
        )
    ready = folder / "ready.json"
    async with asyncio.timeout(30):
        while not ready.exists():  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.05)
    return process, json.loads(ready.read_text())["address"]


async def run_job(folder: Path, address: str, watchers: int) -> None:
    """Create the job, open the watches, let the worker go, wait for the end."""
    import grpc.aio
    from finetree_api.trainer.v1 import event_log_pb2, event_pb2, job_pb2, trainer_pb2, trainer_pb2_grpc
    from finetree_api.types.v1 import method_pb2, run_spec_pb2

    spec = run_spec_pb2.RunSpec(lora=method_pb2.Lora())
    spec.model.path, spec.dataset.path = "tiny", "rows.jsonl"
    async with grpc.aio.insecure_channel(address, options=tuple(CHANNEL.items())) as channel:
        stub = trainer_pb2_grpc.TrainerServiceStub(channel)
        request = trainer_pb2.CreateJobRequest(
            job=job_pb2.JobTemplate(train=job_pb2.TrainTask(spec=spec)), request_id=os.urandom(8).hex()
        )
        request.parent = "projects/default"
        job = (await stub.CreateJob(request)).job
        watch = event_log_pb2.WatchJobRequest(name=job.name)
        stalled = [stub.WatchJob(watch) for _ in range(watchers if watchers > 1 else 0)]
        for call in stalled:
            await call.read()
        (folder / "go").touch()
        # With stalled watchers the end is asked for now and then, so that no watcher reads.
        if not stalled:
            async for batch in stub.WatchJob(watch):
                if any(event.kind == event_pb2.EVENT_KIND_TERMINAL for event in batch.events):
                    return
        ask = trainer_pb2.GetJobRequest(name=job.name)
        while not (await stub.GetJob(ask)).job.HasField("end_time"):  # noqa: ASYNC110 - in another process
            await asyncio.sleep(0.5)
        for call in stalled:
            call.cancel()


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def main() -> int:
    """Measure, print, write; 1 when the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--events", type=int, default=3000)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options, rest = parser.parse_known_args()
    if options.worker:
        return worker(options.worker, options.events, rest)
    described = machine()
    runs = [asyncio.run(measure(options.events, watchers)) for watchers in WATCHERS]
    met = all(run["mean_us"] <= TARGET_MICROSECONDS for run in runs)
    result = {
        "benchmark": "event_cost",
        "target_us": TARGET_MICROSECONDS,
        "met": met,
        "machine": described,
        "runs": runs,
    }
    text = json.dumps(result, indent=2)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
