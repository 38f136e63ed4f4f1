# SPDX-License-Identifier: Apache-2.0
"""Measures what a database costs the trainer: changes a second, and the time of a job's creation.

    python benchmarks/trainer/databases.py                      # the embedded one, in a temporary folder
    python benchmarks/trainer/databases.py --own-server         # beside it PostgreSQL of the tests' wheel, with fsync
    FINETREE_TRAINER_DATABASE_URL=… python benchmarks/trainer/databases.py      # beside it a server of yours

A schema of its own is made there and dropped. Prints one JSON object. `changes_per_second`: batches of events that are
appended to the logs of so many jobs, each job one at a time, as its worker sends them. `cpu_us_per_change`: processor
time of this process alone. `create_job`: the rpc on loopback, one client after the other, of a trainer in this
process.
"""

import argparse
import asyncio
import importlib
import json
import os
import platform
import resource
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc.aio
from finetree_api.trainer.v1 import event_pb2, job_pb2, trainer_pb2, trainer_pb2_grpc
from finetree_api.types.v1 import method_pb2, run_spec_pb2
from finetree_runtime.config.settings import SecretUrl
from finetree_runtime.ids import uuid7
from finetree_trainer.joblog.transaction import Transaction
from finetree_trainer.layout import Layout
from finetree_trainer.store import events, jobs
from finetree_trainer.store.database import Store
from finetree_worker.process.core import cpu_name
from sqlalchemy import Connection

EVENTS = 3
"""Events of a change: at 50 events a second a worker's batch of 50 ms has as many."""
sys.path.append(str(Path(__file__).parents[2] / "tests"))  # its PostgreSQL server


def cpu_seconds() -> float:
    """Processor time of this process, its threads included."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def row_of(uid: str) -> jobs.JobRow:
    """A job that runs."""
    state = int(job_pb2.JOB_STATE_RUNNING)
    zero = dict.fromkeys(("last_seq", "cancel_requested", "end_time"), 0)
    one = dict.fromkeys(("attempt", "oldest_seq", "attempt_started", "create_time", "update_time"), 1)
    return jobs.JobRow(
        uid=uid,
        project="default",
        owner="me",
        task=int(job_pb2.TASK_KIND_TRAIN),
        state=state,
        suspended=False,
        dataset_uid="",
        evaluation_uid="",
        snapshot=b"",
        record=job_pb2.Job(uid=uid).SerializeToString(),
        **zero,
        **one,
    )


def append(row: jobs.JobRow) -> Callable[[Connection], None]:
    """A change: events of steps, under the fence, as the log makes it."""

    def work(connection: Connection) -> None:
        found = jobs.load_hot(connection, row.uid)
        assert found is not None
        expected = found.attempt, found.last_seq
        change = Transaction(found, time.time_ns() // 1000)
        for step in range(EVENTS):
            metrics = event_pb2.StepMetrics(step=step, loss=1.25, learning_rate=1e-4, grad_norm=0.5)
            change.add(event_pb2.JobEvent(step_metrics=metrics))
        change.flush()
        events.append(connection, found, change.events, attempt=expected[0], last_seq=expected[1])

    return work


def changes(store: Store, count: int, seconds: float) -> dict[str, float]:
    """Append to the logs of so many jobs, each job one change at a time."""
    rows = [row_of(str(uuid7())) for _ in range(count)]
    for row in rows:
        store.submit(lambda connection, row=row: jobs.create(connection, row, {})).result()
    done, end = 0, time.monotonic() + seconds
    finished = threading.Semaphore(0)
    times: list[float] = []

    def again(row: jobs.JobRow) -> None:
        nonlocal done
        began = time.monotonic()
        if began >= end:
            finished.release()
            return

        def stored(future: Any) -> None:
            nonlocal done
            future.result()
            times.append(time.monotonic() - began)
            done += 1
            again(row)

        store.submit(append(row)).add_done_callback(stored)

    began, used = time.monotonic(), cpu_seconds()
    for row in rows:
        again(row)
    for _ in rows:
        finished.acquire()
    took, used = time.monotonic() - began, cpu_seconds() - used
    cuts = statistics.quantiles(times, n=100)
    return {
        "changes_per_second": round(done / took, 1),
        "events_per_second": round(done * EVENTS / took, 1),
        "cpu_us_per_change": round(used / done * 1e6, 1),
        "p50_ms": round(cuts[49] * 1e3, 3),
        "p99_ms": round(cuts[98] * 1e3, 3),
    }


async def creations(folder: Path, url: SecretUrl, count: int) -> dict[str, float]:
    """Create suspended jobs by the rpc."""
    from finetree_runtime.server.service import serving
    from finetree_trainer.application import service
    from finetree_trainer.settings import Settings

    (folder / "models/tiny").mkdir(parents=True)
    (folder / "models/tiny/config.json").write_text('{"max_position_embeddings": 512}')
    (folder / "rows").mkdir()
    (folder / "rows/a.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 20)
    settings = Settings(
        address="127.0.0.1:0",
        data_dir=folder / "data",
        database_url=url,
        model_roots=(str(folder / "models"),),
        data_roots=(str(folder / "rows"),),
        estimator_address="127.0.0.1:1",
        prewarm=False,
        log_level="error",
        max_queued=count + 1,
    )
    template = job_pb2.JobTemplate(train=job_pb2.TrainTask(spec=run_spec_pb2.RunSpec(lora=method_pb2.Lora())))
    template.train.spec.model.path, template.train.spec.dataset.path, template.suspended = "tiny", "a.jsonl", True
    times = []
    async with serving(service(settings)) as address, grpc.aio.insecure_channel(address) as channel:
        stub = trainer_pb2_grpc.TrainerServiceStub(channel)  # type: ignore[no-untyped-call]  # made without types
        for number in range(count):
            request = trainer_pb2.CreateJobRequest(job=template, request_id=f"r{number}")
            began = time.perf_counter()
            await stub.CreateJob(request)
            times.append(time.perf_counter() - began)
    cuts = statistics.quantiles(times, n=100)
    return {"count": count, "p50_ms": round(cuts[49] * 1e3, 2), "p99_ms": round(cuts[98] * 1e3, 2)}


@contextmanager
def own_server() -> Iterator[str]:
    """The URL of a server that is started for this, and flushes as one in use does."""
    server_of_tests = importlib.import_module("postgresql_server")
    with closing(server_of_tests.PostgreSQLServer(durable=True)) as server:
        yield server.url(server.new_database())


@contextmanager
def schemas(url: str) -> Iterator[Callable[[], str]]:
    """Makes schemas of a database, each by its URL; all are dropped at the end."""
    import psycopg
    from finetree_trainer.store.backends.url import parse

    base = parse(url)
    made: list[str] = []
    connection = psycopg.connect(
        base.set(drivername="postgresql").render_as_string(hide_password=False), autocommit=True
    )

    def make() -> str:
        made.append(f"finetree_benchmark_{os.getpid()}_{len(made)}")
        connection.execute(f"CREATE SCHEMA {made[-1]}")
        options = base.update_query_dict({"options": f"-csearch_path={made[-1]}"})
        return options.render_as_string(hide_password=False)

    with connection:
        try:
            yield make
        finally:
            for name in made:
                connection.execute(f"DROP SCHEMA {name} CASCADE")


def measure(options: argparse.Namespace, make_url: Callable[[], str] | None) -> dict[str, Any]:
    """Both measurements on one database."""
    found: dict[str, Any] = {}
    for count in options.jobs:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            layout = Layout(Path(folder))
            if make_url is None:
                store = Store(layout.database)
            else:
                from finetree_trainer.store.backends.opening import open_store

                store = open_store(layout, SecretUrl(make_url()))
            with closing(store):
                found[f"jobs_{count}"] = changes(store, count, options.seconds)
    if options.creations:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            url = SecretUrl(make_url()) if make_url is not None else SecretUrl()
            found["create_job"] = asyncio.run(creations(Path(folder), url, options.creations))
    return found


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--own-server", action="store_true", help="start PostgreSQL from the wheel of the tests")
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 10, 100], help="jobs that are written to at once")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--creations", type=int, default=300, help="jobs that are created; 0: none")
    parser.add_argument("--folder", help="where the temporary folders are; the disk counts")
    options = parser.parse_args()
    found: dict[str, Any] = {
        "machine": f"{cpu_name()}, {platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "events_of_a_change": EVENTS,
    }
    found["embedded"] = measure(options, None)
    url = os.environ.get("FINETREE_TRAINER_DATABASE_URL", "")
    with suppress(KeyboardInterrupt):
        if options.own_server:
            with own_server() as own, schemas(own) as make:
                found["postgresql"] = measure(options, make)
        elif url:
            with schemas(url) as make:
                found["postgresql"] = measure(options, make)
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
