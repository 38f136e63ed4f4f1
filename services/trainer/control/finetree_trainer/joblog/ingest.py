# SPDX-License-Identifier: Apache-2.0
"""Takes a worker's numbered events into the log: each exactly once, however often they are sent."""

from collections.abc import Iterable

from finetree_api.trainer.v1 import dataset_pb2, event_pb2, job_pb2, worker_pb2
from google.rpc import error_details_pb2, status_pb2
from sqlalchemy import Connection

from finetree_trainer.joblog import states
from finetree_trainer.joblog.log import FencedError
from finetree_trainer.joblog.transaction import Draft
from finetree_trainer.store import attempts, datasets, reports

MAX_EVENT_BYTES = 1024 * 1024
"""Largest event; a larger one is replaced by an Alert, since no watcher could receive it."""

INTERRUPTED = "INTERRUPTED"
SYSTEM = "SYSTEM"
ENDED = "ENDED"
"""Causes of an attempt's end: by no fault of its own, by a failure of the suite or the machine, with an outcome."""

_SERVICE_ONLY = frozenset({None, "state_changed", "queue_changed", "terminal"})
_RUNNING_PHASES = frozenset({job_pb2.JOB_PHASE_TRAIN, job_pb2.JOB_PHASE_EVALUATE_AFTER, job_pb2.JOB_PHASE_SAVE})


class EventGapError(Exception):
    """A worker skipped a number: something between it and us lost an event, so the stream must start again."""


def take(draft: Draft, connection: Connection, attempt: int, batch: Iterable[worker_pb2.WorkerEvent]) -> int:
    """Add the events that are new; the number of the newest one of this attempt that is in the log.

    The number is stored in the same transaction as the events. Raises FencedError for an attempt that has ended,
    EventGapError when a number is missing.
    """
    row = attempts.load(connection, draft.row.uid, attempt)
    if row is None or row.ended:
        raise FencedError(draft.row.attempt)
    acknowledged = row.acknowledged
    for event in batch:
        if event.worker_seq <= acknowledged:
            continue
        if event.worker_seq != acknowledged + 1:
            raise EventGapError(f"worker event {event.worker_seq} follows {acknowledged}")
        if draft.finished:
            raise FencedError(draft.row.attempt)
        acknowledged = event.worker_seq
        if event.WhichOneof("body") == "outcome":
            _outcome(draft, connection, attempt, event.outcome)
        elif event.WhichOneof("body") == "event":
            _event(draft, connection, event.event)
    if acknowledged != row.acknowledged:
        attempts.acknowledge(connection, row, acknowledged, now=draft.now)
        draft.changed = True
    return acknowledged


def _event(draft: Draft, connection: Connection, event: event_pb2.JobEvent) -> None:
    payload = event.WhichOneof("payload")
    if payload in _SERVICE_ONLY:
        return
    if event.ByteSize() > MAX_EVENT_BYTES:
        text = f"An event of {event.ByteSize()} bytes ({payload}) was too large for the log and was left out."
        event = event_pb2.JobEvent(alert=event_pb2.Alert(code="EVENT_TOO_LARGE", text=text), message=text)
    if payload == "phase_progress":
        _follow(draft, event.phase_progress.phase)
    elif payload == "step_metrics":
        _follow(draft, job_pb2.JOB_PHASE_TRAIN)
    elif payload == "artifact_ready":
        _register(draft, connection, event.artifact_ready.artifact)
    elif payload == "dataset_report":
        _note_profile(draft, connection, event.dataset_report)
    draft.add(event)


def _follow(draft: Draft, phase: int) -> None:
    """Go from PREPARING to RUNNING with the worker's phase."""
    if draft.row.state == job_pb2.JOB_STATE_PREPARING and phase in _RUNNING_PHASES:
        draft.move(job_pb2.JOB_STATE_RUNNING, "TRAINING", "Training.")


def _register(draft: Draft, connection: Connection, artifact: job_pb2.Artifact) -> None:
    short = artifact.name.rpartition("/")[2]
    artifact.name = f"{draft.row.name}/artifacts/{short}"
    artifact.attempt = draft.row.attempt
    artifact.create_time.FromMicroseconds(draft.now)
    record = artifact.SerializeToString()
    datasets.put_artifact(connection, draft.row.uid, short, draft.row.attempt, record, now=draft.now)


def _note_profile(draft: Draft, connection: Connection, report: event_pb2.DatasetReport) -> None:
    """Keep what a PREPARE task counted with the model's tokenizer as the dataset's own profile.

    A TRAIN task's report is no such thing: it is about the rows that are left after its split and truncation.
    """
    if draft.row.kind != job_pb2.JOB_KIND_PREPARE or not report.HasField("profile"):
        return
    uid = draft.row.dataset_uid if report.split == "train" else draft.row.evaluation_uid
    row = datasets.load(connection, uid) if uid else None
    if row is None or not row.ready:
        return
    record = dataset_pb2.Dataset.FromString(row.record)
    record.profile.CopyFrom(report.profile)
    datasets.make_ready(connection, uid, record.SerializeToString(), now=draft.now)


def _outcome(draft: Draft, connection: Connection, attempt: int, outcome: worker_pb2.TaskOutcome) -> None:
    summary = outcome.summary if outcome.HasField("summary") else None
    match outcome.kind:
        case worker_pb2.OUTCOME_KIND_SUCCEEDED:
            draft.finish(job_pb2.JOB_STATE_SUCCEEDED, "DONE", "Done.", summary=summary)
            if draft.row.kind == job_pb2.JOB_KIND_TRAIN and summary is not None:
                reports.create(connection, draft.row.uid, attempt, now=draft.now)
        case worker_pb2.OUTCOME_KIND_FAILED:
            reason, remedy = _explain(outcome.error)
            draft.finish(
                job_pb2.JOB_STATE_FAILED,
                reason,
                outcome.error.message or "The task failed.",
                remedy=remedy,
                error=outcome.error,
                category=outcome.failure_category or job_pb2.FAILURE_CATEGORY_SYSTEM,
                retryable=outcome.retryable,
                summary=summary,
            )
        case _ if draft.row.cancel_requested or draft.row.state == job_pb2.JOB_STATE_CANCELLING:
            draft.finish(job_pb2.JOB_STATE_CANCELLED, "CANCELLED", "Cancelled on request.", summary=summary)
        case _:
            # Stopped with a checkpoint without having been asked by us. What follows is decided when it is dead.
            attempts.note_cause(connection, draft.row.uid, attempt, INTERRUPTED)


def _explain(error: status_pb2.Status) -> tuple[str, str]:
    """The stable reason of a worker's error, and what to do about it."""
    for detail in error.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Is(info.DESCRIPTOR) and detail.Unpack(info):
            return info.reason or "TASK_FAILED", info.metadata.get("remedy", "")
    return "TASK_FAILED", ""


def after_death(
    draft: Draft, connection: Connection, attempt: int, *, how: str, retries: int, interruptions: int
) -> bool:
    """Close an attempt whose process is proven dead, and decide what becomes of the job; whether it waits again.

    `how` tells how the process ended. A job whose outcome is in the log stays as it is.
    """
    uid = draft.row.uid
    row = attempts.load(connection, uid, attempt)
    if row is None or row.ended:
        return False
    cause = ENDED if draft.finished else row.cause or SYSTEM
    attempts.end(connection, uid, attempt, cause, now=draft.now)
    draft.changed = True
    if draft.finished or draft.row.attempt != attempt or draft.row.state not in states.WITH_WORKER:
        return False
    if draft.row.cancel_requested or draft.row.state == job_pb2.JOB_STATE_CANCELLING:
        draft.finish(job_pb2.JOB_STATE_CANCELLED, "CANCELLED", "Cancelled on request.")
        return False
    budget = interruptions if cause == INTERRUPTED else retries
    if attempts.count_by_cause(connection, uid, cause) <= budget:
        text = f"The worker of attempt {attempt} is gone: {how}. Another attempt follows from the newest checkpoint."
        code = "WORKER_INTERRUPTED" if cause == INTERRUPTED else "WORKER_LOST"
        draft.move(job_pb2.JOB_STATE_RECOVERING, code, text)
        return True
    _give_up(draft, attempt, how)
    return False


def _give_up(draft: Draft, attempt: int, how: str) -> None:
    text = f"The worker is gone for the last time that is tried ({attempt} attempts): {how}."
    error = status_pb2.Status(code=14, message=text)
    info = error_details_pb2.ErrorInfo(reason="WORKER_LOST", domain="finetree", metadata={"attempts": str(attempt)})
    error.details.add().Pack(info)
    draft.finish(
        job_pb2.JOB_STATE_FAILED,
        "WORKER_LOST",
        text,
        remedy="See the job's log lines; if memory ran out, lower the micro-batch or the sequence length.",
        error=error,
        category=job_pb2.FAILURE_CATEGORY_SYSTEM,
        retryable=True,
    )
