# SPDX-License-Identifier: Apache-2.0
"""Adds a worker's numbered events to a job's log: each exactly once, however often they are sent."""

from collections.abc import Iterable

from finetree_api.trainer.v1 import artifact_pb2, dataset_pb2, event_pb2, job_pb2, serving_pb2
from finetree_api.types.v1 import serving_pb2 as serving_types_pb2
from finetree_api.types.v1 import training_data_pb2
from finetree_api.worker.v1 import worker_pb2
from google.rpc import error_details_pb2, status_pb2
from sqlalchemy import Connection

from finetree_trainer.joblog import retries
from finetree_trainer.joblog.log import FencedError
from finetree_trainer.joblog.transaction import Transaction
from finetree_trainer.store import artifacts, attempts, datasets, jobs, observation_reports

MAX_EVENT_BYTES = 1024 * 1024
"""Largest event that is logged; a larger one is replaced by an Alert, since no watcher could receive it."""

_SERVICE_ONLY = frozenset({None, "state_changed", "queue_changed", "terminal"})
_RUNNING_PHASES = frozenset(
    {
        job_pb2.JOB_PHASE_TRAIN,
        job_pb2.JOB_PHASE_EVALUATE_AFTER,
        job_pb2.JOB_PHASE_EVALUATE,
        job_pb2.JOB_PHASE_SAVE,
        job_pb2.JOB_PHASE_MERGE,
        job_pb2.JOB_PHASE_EXPORT,
        job_pb2.JOB_PHASE_VERIFY,
    }
)
_RUNNING = {
    job_pb2.TASK_KIND_EVALUATE: ("EVALUATING", "Evaluating."),
    job_pb2.TASK_KIND_EXPORT: ("EXPORTING", "Exporting."),
}
"""Reason of the state RUNNING by the kind of task, of others than training."""


class EventGapError(Exception):
    """A worker's number is missing: an event was lost on the way, so the stream must start again."""


def ingest_batch(
    transaction: Transaction, connection: Connection, batch: Iterable[worker_pb2.WorkerEvent], *, attempt: int
) -> int:
    """Add the events that are new, and return the number of the attempt's newest event in the log.

    The number is stored in the same transaction as the events. Raises FencedError for an attempt that has ended,
    EventGapError when a number is missing.
    """
    row = attempts.load(connection, transaction.row.uid, attempt)
    if row is None or row.ended:
        raise FencedError(transaction.row.attempt)
    acknowledged = row.acknowledged
    for event in batch:
        if event.worker_seq <= acknowledged:
            continue
        if event.worker_seq != acknowledged + 1:
            raise EventGapError(f"worker event {event.worker_seq} follows {acknowledged}")
        if transaction.finished:
            raise FencedError(transaction.row.attempt)
        acknowledged = event.worker_seq
        if event.WhichOneof("body") == "outcome":
            add_outcome(transaction, connection, event.outcome, attempt=attempt)
        elif event.WhichOneof("body") == "event":
            _add_event(transaction, connection, event.event)
    if acknowledged != row.acknowledged:
        attempts.acknowledge(connection, row, acknowledged, now=transaction.now)
        transaction.changed = True
    return acknowledged


def _add_event(transaction: Transaction, connection: Connection, event: event_pb2.JobEvent) -> None:
    payload = event.WhichOneof("payload")
    if payload in _SERVICE_ONLY:
        return
    if event.ByteSize() > MAX_EVENT_BYTES:
        text = f"An event of {event.ByteSize()} bytes ({payload}) was too large for the log and was left out."
        event = event_pb2.JobEvent(alert=event_pb2.Alert(code="EVENT_TOO_LARGE", message=text), message=text)
    if payload == "phase_progress":
        _enter_phase(transaction, event.phase_progress.phase)
    elif payload == "step_metrics":
        _enter_phase(transaction, job_pb2.JOB_PHASE_TRAIN)
    elif payload == "serving_changed":
        _become_ready(transaction, event.serving_changed)
    elif payload == "artifact_ready":
        _register_artifact(transaction, connection, event.artifact_ready.artifact)
    elif payload == "dataset_report":
        _keep_profile(transaction, connection, event.dataset_report)
    transaction.add(event)


def _enter_phase(transaction: Transaction, phase: int) -> None:
    """Go from PREPARING to RUNNING when the worker begins to train, to evaluate or to merge."""
    if transaction.row.state == job_pb2.JOB_STATE_PREPARING and phase in _RUNNING_PHASES:
        code, text = _RUNNING.get(job_pb2.TaskKind.ValueType(transaction.row.task), ("TRAINING", "Training."))
        transaction.move(job_pb2.JOB_STATE_RUNNING, code, text)


def _become_ready(transaction: Transaction, changed: serving_pb2.ServingChanged) -> None:
    """Go from PREPARING to RUNNING when a served base model answers."""
    ready = changed.change == serving_pb2.SERVING_CHANGE_READY
    if ready and transaction.row.state == job_pb2.JOB_STATE_PREPARING:
        transaction.move(job_pb2.JOB_STATE_RUNNING, "SERVING", "Answers prompts.")


def _register_artifact(transaction: Transaction, connection: Connection, artifact: artifact_pb2.Artifact) -> None:
    short = artifact.name.rpartition("/")[2]
    artifact.name = f"{transaction.row.name}/artifacts/{short}"
    artifact.attempt = transaction.row.attempt
    artifact.create_time.FromMicroseconds(transaction.now)
    del artifact.serving[:]
    artifact.serving.extend(_serving(transaction, connection, artifact))
    record = artifact.SerializeToString()
    artifacts.put(
        connection, transaction.row.uid, short, attempt=transaction.row.attempt, record=record, now=transaction.now
    )


def _serving(
    transaction: Transaction, connection: Connection, artifact: artifact_pb2.Artifact
) -> list[serving_types_pb2.ServingCheck]:
    """Return which servers serve an artifact: by its description, and the run that made it where it was trained."""
    # Reads the rules of all servers: 40 ms that a start need not wait for.
    from finetree_runtime.serving.check import check
    from finetree_runtime.serving.facts import facts_of_artifact

    row = jobs.load(connection, transaction.row.uid) if transaction.row.task == job_pb2.TASK_KIND_TRAIN else None
    spec = job_pb2.Job.FromString(row.record).train.spec if row is not None else None
    facts = facts_of_artifact(artifact, spec)
    return check(facts) if facts is not None else []


def _keep_profile(transaction: Transaction, connection: Connection, report: event_pb2.DatasetReport) -> None:
    """Store the profile that a PREPARE task has counted as the dataset's own, unless it is less exact.

    A TRAIN task's report is left out: it counts the rows that remain after its split and truncation.
    """
    if transaction.row.task != job_pb2.TASK_KIND_PREPARE or not report.HasField("profile"):
        return
    uid = (
        transaction.row.dataset_uid if report.split == training_data_pb2.SPLIT_TRAIN else transaction.row.evaluation_uid
    )
    row = datasets.load(connection, uid) if uid else None
    if row is None or not row.ready:
        return
    record = dataset_pb2.Dataset.FromString(row.record)
    if record.profile.exact and not report.profile.exact:
        return
    record.profile.CopyFrom(report.profile)
    job = jobs.load(connection, transaction.row.uid)
    if job is not None and _read_alike(job_pb2.Job.FromString(job.record).prepare, record, report.split):
        del record.findings[:]
        record.findings.extend(report.findings)
    datasets.make_ready(connection, uid, record.SerializeToString(), now=transaction.now)


def _read_alike(
    task: job_pb2.PrepareTask, record: dataset_pb2.Dataset, split: training_data_pb2.Split.ValueType
) -> bool:
    """Return whether a task reads a dataset's rows as the dataset says: then what it found is the dataset's own."""
    source = task.dataset if split == training_data_pb2.SPLIT_TRAIN else task.evaluation_dataset
    own, read = training_data_pb2.DatasetReading(), training_data_pb2.DatasetReading()
    own.CopyFrom(record.reading)
    read.CopyFrom(source.reading)
    del own.accepted_findings[:]
    del read.accepted_findings[:]
    return own == read


def add_outcome(
    transaction: Transaction, connection: Connection, outcome: worker_pb2.TaskOutcome, *, attempt: int
) -> None:
    """Log what an attempt came to: its job ends, or what follows is noted for when its process is proven dead."""
    summary = outcome.summary if outcome.HasField("summary") else None
    match outcome.kind:
        case worker_pb2.OUTCOME_KIND_SUCCEEDED:
            transaction.finish(job_pb2.JOB_STATE_SUCCEEDED, "DONE", "The task is complete.", summary=summary)
            if transaction.row.task == job_pb2.TASK_KIND_TRAIN and summary is not None:
                observation_reports.create(connection, transaction.row.uid, attempt, now=transaction.now)
        case worker_pb2.OUTCOME_KIND_FAILED if cause := _cause_of_another(transaction, connection, outcome):
            # What follows is decided when the process is proven dead.
            attempts.note_cause(connection, transaction.row.uid, attempt, cause=cause)
            reason, _ = _reason_and_remedy(outcome.error)
            text = f"Attempt {attempt} failed: {outcome.error.message or reason}"
            transaction.add(event_pb2.JobEvent(alert=event_pb2.Alert(code=reason, message=text), message=text))
            transaction.snapshot.state_reason.CopyFrom(job_pb2.StateReason(code=reason, text=text))
        case worker_pb2.OUTCOME_KIND_FAILED:
            reason, remedy = _reason_and_remedy(outcome.error)
            transaction.finish(
                job_pb2.JOB_STATE_FAILED,
                reason,
                outcome.error.message or "The task failed.",
                remedy=remedy,
                error=outcome.error,
                category=outcome.failure_category or job_pb2.FAILURE_CATEGORY_SYSTEM,
                retryable=outcome.retryable,
                summary=summary,
            )
        case _ if transaction.row.cancel_requested or transaction.row.state == job_pb2.JOB_STATE_CANCELLING:
            published = outcome.kind == worker_pb2.OUTCOME_KIND_FINISHED_EARLY
            transaction.cancel(summary, published=published)
        case worker_pb2.OUTCOME_KIND_PAUSED:
            # PAUSED once the process is proven dead: until then it holds its device.
            attempts.note_cause(connection, transaction.row.uid, attempt, cause=attempts.PAUSED)
        case _:
            # Stopped with a checkpoint, and the service did not ask for it. What follows is decided when the process is
            # proven dead.
            attempts.note_cause(connection, transaction.row.uid, attempt, cause=attempts.INTERRUPTED)


def _cause_of_another(transaction: Transaction, connection: Connection, outcome: worker_pb2.TaskOutcome) -> str:
    """Return what the end of an attempt counts as where another one may follow its failure; "" where none does.

    That is for the job's policy to say. Without one a lost rank counts as the lost worker that it is a part of. None
    follows where somebody wants the job's end.
    """
    if transaction.row.state not in {job_pb2.JOB_STATE_PREPARING, job_pb2.JOB_STATE_RUNNING}:
        return ""
    policy, uid = retries.policy_of(connection, transaction.row.uid), transaction.row.uid
    if policy is None:
        return attempts.SYSTEM if _reason_and_remedy(outcome.error)[0] == retries.RANK_LOST else ""
    category = outcome.failure_category or job_pb2.FAILURE_CATEGORY_SYSTEM
    again = retries.allowed(policy, category, retries.failures(connection, uid) + 1)
    return attempts.FAILED if again else ""


def _reason_and_remedy(error: status_pb2.Status) -> tuple[str, str]:
    """The stable reason of a worker's error, and what the user can do about it."""
    for detail in error.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Is(info.DESCRIPTOR) and detail.Unpack(info):
            return info.reason or "WORKER_FAILED", info.metadata.get("remedy", "")
    return "WORKER_FAILED", ""
