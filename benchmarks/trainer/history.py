# SPDX-License-Identifier: Apache-2.0
"""Fills a trainer's data folder with jobs and events, as months of use would: `load.py` and the tests start on it.

The trainer's own store writes them, so that every table, checksum and number is as the service leaves it.
"""

from pathlib import Path

from finetree_api.trainer.v1 import event_pb2, job_pb2
from finetree_api.types.v1 import method_pb2, run_spec_pb2
from finetree_runtime.ids import uuid7
from finetree_trainer.joblog.transaction import Transaction
from finetree_trainer.layout import Layout
from finetree_trainer.store import events, jobs
from finetree_trainer.store.database import Store
from sqlalchemy import Connection

BLOCK_EVENTS = 3
"""Events of a stored block: at 50 events a second a worker's batch of 50 ms has as many."""
_START = 1_700_000_000_000_000
"""When the first job was created, microseconds since 1970."""


def fill(
    folder: Path,
    *,
    queued: int,
    ended: int = 0,
    events_of_one: int = 0,
    suspended: bool = False,
    project: str = "default",
) -> list[str]:
    """Write `ended` jobs that have succeeded and `queued` ones that wait; return their uids, oldest first.

    `suspended` ones wait until somebody lifts them.

    One more job, the last of the list where `events_of_one` is not 0, has ended with so many events.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "models").mkdir(exist_ok=True)
    store = Store(Layout(folder).database)
    uids: list[str] = []
    try:
        uids += [
            _submit(store, number, project, is_ended=number < ended, suspended=suspended)
            for number in range(queued + ended)
        ]
        if events_of_one:
            uids.append(_submit_long(store, queued + ended, project, count=events_of_one))
        store.submit(lambda _connection: None).result()
    finally:
        store.close()
    return uids


def _submit(store: Store, number: int, project: str, *, is_ended: bool, suspended: bool) -> str:
    row = _row(number, project)
    row.suspended = suspended and not is_ended

    def work(connection: Connection) -> None:
        transaction = _queued(connection, row)
        if is_ended:
            transaction.begin_attempt([])
            transaction.move(job_pb2.JOB_STATE_PREPARING, "STARTING", "Starts.")
            transaction.move(job_pb2.JOB_STATE_RUNNING, "TRAINING", "Training.")
            transaction.finish(job_pb2.JOB_STATE_SUCCEEDED, "DONE", "The task is complete.")
        transaction.flush()
        events.append(connection, row, transaction.events, attempt=0, last_seq=0)

    store.submit(work)
    return row.uid


def _submit_long(store: Store, number: int, project: str, *, count: int) -> str:
    row = _row(number, project)

    def begin(connection: Connection) -> None:
        transaction = _queued(connection, row)
        transaction.flush()
        events.append(connection, row, transaction.events, attempt=0, last_seq=0)

    store.submit(begin)

    def add(connection: Connection) -> None:
        transaction, last = Transaction(row, row.update_time + 20_000 * BLOCK_EVENTS), row.last_seq
        for _ in range(min(BLOCK_EVENTS, count - 2 - last)):
            transaction.add(event_pb2.JobEvent(step_metrics=_step(row.last_seq)))
        if row.last_seq == count - 2:
            transaction.finish(job_pb2.JOB_STATE_CANCELLED, "CANCELLED", "Cancelled on request.")
        transaction.flush()
        events.append(connection, row, transaction.events, attempt=0, last_seq=last)

    for _ in range(-(-(count - 3) // BLOCK_EVENTS)):
        store.submit(add)
    return row.uid


def _row(number: int, project: str) -> jobs.JobRow:
    uid, now = str(uuid7()), _START + number * 1_000_000
    spec = run_spec_pb2.RunSpec(lora=method_pb2.Lora(rank=16))
    spec.model.path, spec.dataset.path = "tiny", "rows.jsonl"
    name = f"projects/{project}/jobs/{uid}"
    record = job_pb2.Job(name=name, uid=uid, train=job_pb2.TrainTask(spec=spec), created_by="local")
    record.create_time.FromMicroseconds(now)
    record.labels["number"] = str(number)
    return jobs.JobRow(
        uid=uid,
        project=project,
        owner="local",
        task=job_pb2.TASK_KIND_TRAIN,
        state=job_pb2.JOB_STATE_UNSPECIFIED,
        suspended=False,
        attempt=0,
        last_seq=0,
        oldest_seq=1,
        attempt_started=0,
        cancel_requested=0,
        create_time=now,
        update_time=now,
        end_time=0,
        dataset_uid="",
        evaluation_uid="",
        record=record.SerializeToString(),
        snapshot=job_pb2.Job().SerializeToString(),
    )


def _queued(connection: Connection, row: jobs.JobRow) -> Transaction:
    jobs.create(connection, row, {"number": str(row.create_time)})
    transaction = Transaction(row, row.create_time)
    transaction.move(job_pb2.JOB_STATE_QUEUED, "WAITING_FOR_DEVICE", "Waits for cpu.")
    return transaction


def _step(step: int) -> event_pb2.StepMetrics:
    """Metrics of a step as the training loop reports them."""
    return event_pb2.StepMetrics(
        step=step, total_steps=1_000_000, epoch=step / 1_000_000, loss=2.0, learning_rate=1e-3, grad_norm=0.7,
        processed_tokens=step * 512, target_tokens=step * 128, tokens_per_second=900.0, step_seconds=0.02,
        memory_bytes=10**9,
    )  # fmt: skip
