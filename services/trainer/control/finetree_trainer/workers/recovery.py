# SPDX-License-Identifier: Apache-2.0
"""Closes the attempt of a worker that is dead: its last events are logged, then its job goes on or ends."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from finetree_api.trainer.v1 import job_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_data.exchange import journal
from finetree_data.fail_points import fail_point
from finetree_runtime.server.logging import get_logger
from google.rpc import error_details_pb2, status_pb2
from sqlalchemy import Connection

from finetree_trainer.joblog import ingest, retries, states
from finetree_trainer.joblog.log import EventLog, FencedError
from finetree_trainer.joblog.transaction import Transaction
from finetree_trainer.outages import until_done
from finetree_trainer.store import attempts

INTERRUPTIONS = 16
"""How often a job goes on after its worker was stopped with a checkpoint by no fault of its own."""
SERVING_RETRIES = 1
"""How often a served base model is loaded again after a failure: one that ends its worker twice would do so again."""
_RESUMES, _RELOADS = "goes on from the newest checkpoint", "loads the model and its targets again"
REPLAY_EVENTS = 500
"""Events of a dead worker's journal that are logged in one transaction."""


@dataclass(frozen=True, slots=True)
class DeadAttempt:
    """An attempt that nothing works on any more: its folder, and how its process ended, for the job's history.

    Its process is proven dead, or has ended the attempt itself, whose outcome is in the log, and rests. `overran`:
    the kernel ended it in the middle of rendering or tokenizing, which would not have come to an end.
    """

    job: str
    attempt: int
    folder: Path
    ending: str
    overran: bool = False


async def close_attempt(log: EventLog, dead: DeadAttempt, *, tries: int) -> None:
    """Log the events that the attempt left in its journal, and decide what becomes of its job.

    A failure of the machine is tried again `tries` times, unless its job has a policy of its own. An attempt that is
    closed already stays as it is. While the store is away, this waits for it: otherwise the job would have no worker
    and no end.
    """

    def close(transaction: Transaction, connection: Connection) -> None:
        _close(transaction, connection, dead, tries=tries)

    fail_point("burial.before_replay")
    await until_done(lambda: _replay(log, dead), doing="replay_journal", job=dead.job)
    fail_point("burial.after_replay")
    await until_done(lambda: log.change(dead.job, close), doing="close_attempt", job=dead.job)
    fail_point("burial.after_close")


async def _replay(log: EventLog, dead: DeadAttempt) -> None:
    """Log the events that never reached the service, up to the first that must not be logged."""
    row = await log.store.read(lambda connection: attempts.load(connection, dead.job, dead.attempt))
    try:
        left = await asyncio.to_thread(journal.events_after, dead.folder, row.acknowledged if row else 0)
    except OSError as error:
        get_logger().error("journal_unreadable", job=dead.job, attempt=dead.attempt, exc_info=error)
        return
    for start in range(0, len(left), REPLAY_EVENTS):
        part = left[start : start + REPLAY_EVENTS]

        def add(transaction: Transaction, connection: Connection, part: list[worker_pb2.WorkerEvent] = part) -> int:
            return ingest.ingest_batch(transaction, connection, part, attempt=dead.attempt)

        with suppress(FencedError, ingest.EventGapError):
            await log.change(dead.job, add, attempt=dead.attempt)


def _close(transaction: Transaction, connection: Connection, dead: DeadAttempt, *, tries: int) -> None:
    """Note the attempt's end, and have its job wait for another attempt, fail, or end as it was asked to."""
    row = attempts.load(connection, dead.job, dead.attempt)
    if row is None or row.ended:
        return
    if dead.overran and not row.cause and _is_at_work(transaction, dead):
        # As if it had come to say so itself.
        ingest.add_outcome(transaction, connection, _overrun(dead), attempt=dead.attempt)
        row = attempts.load(connection, dead.job, dead.attempt) or row
    cause = attempts.ENDED if transaction.finished else row.cause or attempts.SYSTEM
    attempts.end(connection, dead.job, dead.attempt, cause=cause, now=transaction.now)
    transaction.changed = True
    job = transaction.row
    if transaction.finished or job.attempt != dead.attempt or job.state not in states.WITH_WORKER:
        return
    if _is_cancelled(transaction):
        transaction.cancel()
        return
    if job.state == job_pb2.JOB_STATE_PAUSING:
        saved = cause in (attempts.PAUSED, attempts.INTERRUPTED)
        _make_pause(transaction, "" if saved else f" Its worker ended before: {dead.ending}.")
        return
    policy = retries.policy_of(connection, dead.job)
    if policy is not None and cause != attempts.INTERRUPTED:
        _by_policy(transaction, connection, dead, policy=policy, cause=cause)
        return
    serving = job.task == job_pb2.TASK_KIND_SERVE
    budget = INTERRUPTIONS if cause == attempts.INTERRUPTED else min(tries, SERVING_RETRIES) if serving else tries
    if attempts.count_by_cause(connection, dead.job, cause) <= budget:
        code, text = "WORKER_LOST", _lost(transaction, dead)
        if cause == attempts.INTERRUPTED:
            code = "WORKER_INTERRUPTED"
        elif told := _rank_lost(transaction):
            code, text = retries.RANK_LOST, f"{told}. The next one {_RESUMES}."
        transaction.recover(code, text)
    else:
        _fail(transaction, dead)


def _make_pause(transaction: Transaction, lost: str) -> None:
    if transaction.snapshot.state_reason.code == states.PREEMPTED:
        transaction.requeue(f"Preempted.{lost} It goes on from its newest checkpoint when it is its turn again.")
    else:
        transaction.pause(f"Paused on request.{lost} It goes on from its newest checkpoint when it is resumed.")


def _is_cancelled(transaction: Transaction) -> bool:
    return bool(transaction.row.cancel_requested) or transaction.row.state == job_pb2.JOB_STATE_CANCELLING


def _is_at_work(transaction: Transaction, dead: DeadAttempt) -> bool:
    """Return whether the attempt was to do its task still: nothing has ended it, and nobody has asked for its end."""
    row = transaction.row
    works = row.attempt == dead.attempt and row.state in states.WITH_WORKER and not transaction.finished
    return works and not _is_cancelled(transaction)


def _overrun(dead: DeadAttempt) -> worker_pb2.TaskOutcome:
    """Build the outcome of a worker that the kernel ended while it rendered or tokenized: another would end so too."""
    text = f"Rendering or tokenizing did not come to an end, and the worker of attempt {dead.attempt} with it"
    remedy = "Check the model's chat template and tokenizer, which come with the model; or split very long rows."
    error = status_pb2.Status(code=3, message=f"{text}: {dead.ending}.")
    info = error_details_pb2.ErrorInfo(reason="TOKENIZATION_LIMIT", domain="finetree", metadata={"remedy": remedy})
    error.details.add().Pack(info)
    category = job_pb2.FAILURE_CATEGORY_USER
    return worker_pb2.TaskOutcome(kind=worker_pb2.OUTCOME_KIND_FAILED, error=error, failure_category=category)


def _by_policy(
    transaction: Transaction, connection: Connection, dead: DeadAttempt, *, policy: job_pb2.RetryPolicy, cause: str
) -> None:
    """Have a job be tried again, or fail, as its own policy says; a reported failure is one that it tries again."""
    failed = retries.failures(connection, dead.job)
    if cause != attempts.FAILED and not retries.allowed(policy, job_pb2.FAILURE_CATEGORY_SYSTEM, failed):
        _fail(transaction, dead)
        return
    was = transaction.snapshot.state_reason
    code, text = ("WORKER_LOST", _lost(transaction, dead)) if cause != attempts.FAILED else (was.code, was.text)
    again = retries.next_time(policy, failed, transaction.now)
    tried = f"{text} It is tried again" if cause == attempts.FAILED else text
    when = f" after {(again - transaction.now) / 1e6:.0f} s" if again else ""
    counted = f"{tried.rstrip('.')}{when} (failure {failed} of {policy.max_attempts})."
    transaction.recover(code, counted, not_before=again)


def _lost(transaction: Transaction, dead: DeadAttempt) -> str:
    serving = transaction.row.task == job_pb2.TASK_KIND_SERVE
    next_one = _RELOADS if serving else _RESUMES
    return f"The worker of attempt {dead.attempt} ended: {dead.ending}. The next one {next_one}."


def _rank_lost(transaction: Transaction) -> str:
    """What the attempt's worker said of a rank that it had lost, without a stop; "" where it lost none."""
    was = transaction.snapshot.state_reason
    return was.text.rstrip(".") if was.code == retries.RANK_LOST else ""


def _fail(transaction: Transaction, dead: DeadAttempt) -> None:
    ending = _rank_lost(transaction) or dead.ending
    text = f"The worker ended in each of {dead.attempt} attempts, the last time so: {ending}."
    error = status_pb2.Status(code=14, message=text)
    metadata = {"attempts": str(dead.attempt)}
    error.details.add().Pack(error_details_pb2.ErrorInfo(reason="WORKER_LOST", domain="finetree", metadata=metadata))
    transaction.finish(
        job_pb2.JOB_STATE_FAILED,
        "WORKER_LOST",
        text,
        remedy="Read the job's log (`finetree jobs logs`); if memory ran out, lower the micro-batch or shorten rows.",
        error=error,
        category=job_pb2.FAILURE_CATEGORY_SYSTEM,
        retryable=True,
    )
