# SPDX-License-Identifier: Apache-2.0
"""Measures what replicas cost and give: events a second, and how late a watcher at another replica sees them.

    python benchmarks/trainer/replicas.py                       # PostgreSQL of the tests' wheel, with fsync
    FINETREE_TRAINER_DATABASE_URL=… python benchmarks/trainer/replicas.py     # a server of yours

A schema of its own is made there and dropped. This process is the leader, with the jobs' changes made in it as its
workers' are; the followers are processes, and so are the watchers, one at each replica. Prints one JSON object, by the
number of replicas. `events_per_second`: with as many changes at once as there are jobs, and nobody who watches.
`lag`: from an event's storing until a watcher has it, at a steady rate, at the leader and at a follower; all clocks are
this machine's.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc.aio
from databases import own_server, schemas
from finetree_api.trainer.v1 import event_log_pb2, event_pb2, job_pb2, trainer_pb2, trainer_pb2_grpc
from finetree_api.types.v1 import method_pb2, run_spec_pb2
from finetree_runtime.config.settings import SecretUrl
from finetree_runtime.server import logging
from finetree_trainer.joblog.log import EventLog
from finetree_trainer.joblog.transaction import Transaction
from finetree_worker.process.core import cpu_name
from sqlalchemy import Connection

EVENTS = 3
"""Events of a change: at 50 events a second a worker's batch of 50 ms has as many."""
OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))


def free_address() -> str:
    """An address of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def add_steps(transaction: Transaction, _connection: Connection) -> None:
    """Add what a worker reports in one batch."""
    for step in range(1, EVENTS + 1):
        metrics = event_pb2.StepMetrics(step=step, loss=1.25, learning_rate=1e-4, grad_norm=0.5)
        transaction.add(event_pb2.JobEvent(step_metrics=metrics))


@contextlib.asynccontextmanager
async def leader(folder: Path, url: str) -> AsyncIterator[tuple[str, EventLog]]:
    """A replica in this process, the first one: its address, and its log."""
    from finetree_runtime.server.service import serving
    from finetree_trainer.application import Application, service
    from finetree_trainer.settings import Settings

    (folder / "models/tiny").mkdir(parents=True)
    (folder / "models/tiny/config.json").write_text('{"max_position_embeddings": 512}')
    (folder / "rows").mkdir()
    (folder / "rows/a.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 20)
    address = free_address()
    settings = Settings(
        address=address,
        replica_address=address,
        data_dir=folder / "data",
        database_url=SecretUrl(url),
        model_roots=(str(folder / "models"),),
        data_roots=(str(folder / "rows"),),
        estimator_address="127.0.0.1:1",
        prewarm=False,
        log_level="error",
    )
    built = service(settings)
    async with serving(built):
        application: Application = built.on_start.__self__  # type: ignore[union-attr]  # a bound method
        yield address, application._log  # noqa: SLF001 - where the workers' events go, too


@contextlib.asynccontextmanager
async def follower(folder: Path, url: str) -> AsyncIterator[str]:
    """A replica in a process of its own; its address."""
    address, ready = free_address(), folder / "ready.json"
    ready.unlink(missing_ok=True)
    flags = {"address": address, "replica-address": address, "data-dir": folder / "data", "ready-file": ready}
    command = ["-m", "finetree_trainer", *(f"--{key}={value}" for key, value in flags.items()), "--log-level=error"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, "--no-prewarm", env=os.environ | {"FINETREE_TRAINER_DATABASE_URL": url}
    )
    try:
        async with asyncio.timeout(120):
            while not ready.exists() and process.returncode is None:  # noqa: ASYNC110 - it is another process
                await asyncio.sleep(0.05)
        yield address
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def new_jobs(address: str, count: int) -> list[str]:
    """Create suspended jobs; their names."""
    template = job_pb2.JobTemplate(train=job_pb2.TrainTask(spec=run_spec_pb2.RunSpec(lora=method_pb2.Lora())))
    template.train.spec.model.path, template.train.spec.dataset.path, template.suspended = "tiny", "a.jsonl", True
    async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
        stub = trainer_pb2_grpc.TrainerServiceStub(channel)  # type: ignore[no-untyped-call]  # made without types
        requests = (trainer_pb2.CreateJobRequest(job=template, request_id=f"r{n}") for n in range(count))
        return [(await stub.CreateJob(request)).job.name for request in requests]


async def rate(log: EventLog, names: list[str], seconds: float) -> float:
    """Events a second, each job one change at a time."""
    done, end = 0, time.monotonic() + seconds

    async def write(uid: str) -> None:
        nonlocal done
        while time.monotonic() < end:
            await log.change(uid, add_steps)
            done += EVENTS

    began = time.monotonic()
    await asyncio.gather(*(write(name.rpartition("/")[2]) for name in names))
    return round(done / (time.monotonic() - began), 1)


async def steady(log: EventLog, names: list[str], *, seconds: float, changes: float) -> None:
    """Change each job so often a second."""

    async def write(uid: str, phase: float) -> None:
        due, end = time.monotonic() + phase, time.monotonic() + seconds
        while due < end:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await log.change(uid, add_steps)
            due += 1 / changes

    await asyncio.gather(
        *(write(name.rpartition("/")[2], number / len(names) / changes) for number, name in enumerate(names))
    )


async def watch(address: str, names: list[str], seconds: float) -> None:
    """Watch jobs at one replica, from now on; print how late their events are, in milliseconds."""
    late: list[float] = []
    async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
        stub = trainer_pb2_grpc.TrainerServiceStub(channel)  # type: ignore[no-untyped-call]  # made without types

        async def one(name: str) -> None:
            request = event_log_pb2.WatchJobRequest(name=name)
            request.now.SetInParent()
            async for batch in stub.WatchJob(request):
                now = time.time()
                late.extend(1e3 * (now - event.event_time.ToMicroseconds() / 1e6) for event in batch.events)

        watching = [asyncio.create_task(one(name)) for name in names]
        await asyncio.sleep(seconds)
        for each in watching:
            each.cancel()
    cuts = statistics.quantiles(late, n=100)
    sys.stdout.write(json.dumps({"events": len(late), "p50_ms": round(cuts[49], 1), "p99_ms": round(cuts[98], 1)}))


async def watched(address: str, names: list[str], seconds: float) -> dict[str, Any]:
    """What a process that watches found."""
    arguments = (__file__, "--watch", address, "--seconds", str(seconds), "--names", *names)
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    return dict(json.loads(output))


async def measure(options: argparse.Namespace, url: str, replicas: int) -> dict[str, Any]:
    """Both measurements with so many replicas."""
    async with contextlib.AsyncExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory(dir=options.folder)))
        address, log = await running.enter_async_context(leader(folder, url))
        others = [await running.enter_async_context(follower(folder, url)) for _ in range(replicas - 1)]
        names = await new_jobs(address, options.jobs)
        found: dict[str, Any] = {"events_per_second": await rate(log, names, options.seconds)}
        # The processes that watch begin within a few seconds; what is older than their streams is not seen.
        asked = [watched(each, names, options.seconds + options.start) for each in (address, *others)]
        writing = steady(log, names, seconds=2 * options.start + options.seconds, changes=options.changes)
        at_leader, *at_others, _ = await asyncio.gather(*asked, writing)
        found["lag"] = {"leader": at_leader} | {f"follower_{n}": at for n, at in enumerate(at_others, 1)}
        return found


async def measure_all(options: argparse.Namespace, make_url: Callable[[], str]) -> dict[str, Any]:
    """Measure with each number of replicas, each in a schema of its own."""
    return {str(count): await measure(options, make_url(), count) for count in options.replicas}


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 3], help="how many there are")
    parser.add_argument("--jobs", type=int, default=10, help="jobs that are written to and watched")
    parser.add_argument("--changes", type=float, default=10.0, help="changes a second and job while lag is measured")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--start", type=float, default=5.0, help="seconds that processes which watch may begin in")
    parser.add_argument("--folder", help="where the temporary folders are; the disk counts")
    parser.add_argument("--watch", help=argparse.SUPPRESS)
    parser.add_argument("--names", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.watch:
        asyncio.run(watch(options.watch, options.names, options.seconds))
        return
    found: dict[str, Any] = {
        "machine": f"{cpu_name()}, {platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
    }
    found |= {"jobs": options.jobs, "events_of_a_change": EVENTS, "changes_per_second_and_job": options.changes}
    logging.configure("error")
    url = os.environ.get("FINETREE_TRAINER_DATABASE_URL", "")
    with contextlib.ExitStack() as server:
        make_url = server.enter_context(schemas(url or server.enter_context(own_server())))
        found["replicas"] = asyncio.run(measure_all(options, make_url))
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
