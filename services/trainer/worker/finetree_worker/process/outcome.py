# SPDX-License-Identifier: Apache-2.0
"""The outcome of a task, its last event: how it ended, the error, and whether to try again."""

from finetree_api.trainer.v1 import event_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_data.durable_files import DISK_FULL

from finetree_worker.attach.commands import Stop
from finetree_worker.errors import Cancelled, Category, FinishedEarly, Interrupted, StorageError, TaskError
from finetree_worker.events.error_status import CATEGORIES, status_of
from finetree_worker.ranks.launch import RankFailedError

_STOPPED = {
    Stop.PAUSE: worker_pb2.OUTCOME_KIND_PAUSED,
    Stop.FINISH: worker_pb2.OUTCOME_KIND_CANCELLED,  # before there was anything to publish
    Stop.INTERRUPT: worker_pb2.OUTCOME_KIND_INTERRUPTED,
    Stop.SHUTDOWN: worker_pb2.OUTCOME_KIND_INTERRUPTED,
    Stop.CANCEL: worker_pb2.OUTCOME_KIND_CANCELLED,
    Stop.CANCEL_SAVING: worker_pb2.OUTCOME_KIND_CANCELLED,
}


def succeeded(summary: event_pb2.RunSummary) -> worker_pb2.TaskOutcome:
    """Return the outcome of a task that is done."""
    return worker_pb2.TaskOutcome(kind=worker_pb2.OUTCOME_KIND_SUCCEEDED, summary=summary)


def line_of(outcome: worker_pb2.TaskOutcome) -> str:
    """Return how a task ended as one line for people."""
    kind = worker_pb2.OutcomeKind.Name(outcome.kind).removeprefix("OUTCOME_KIND_").lower()
    return f"{kind}: {outcome.error.message}" if outcome.error.message else kind


def stopped(stop: Stop) -> worker_pb2.TaskOutcome:
    """Return the outcome of a task that ended on request."""
    return worker_pb2.TaskOutcome(kind=_STOPPED[stop], retryable=stop in (Stop.INTERRUPT, Stop.SHUTDOWN))


def failed(error: BaseException, stop: Stop = Stop.NONE) -> worker_pb2.TaskOutcome:
    """Return the outcome of a task that raised; one that raised Cancelled on request has not failed."""
    if isinstance(error, FinishedEarly):
        return worker_pb2.TaskOutcome(kind=worker_pb2.OUTCOME_KIND_FINISHED_EARLY, summary=error.summary)
    if isinstance(error, Interrupted) and stop is Stop.NONE:
        return stopped(Stop.INTERRUPT)
    if isinstance(error, Cancelled) and stop is not Stop.NONE:
        return stopped(stop)
    if isinstance(error, RankFailedError):
        return _of_rank(error)
    known = error if isinstance(error, TaskError) else _task_error(error)
    category = Category.CAPACITY if isinstance(known, StorageError) else known.category
    return worker_pb2.TaskOutcome(
        kind=worker_pb2.OUTCOME_KIND_FAILED,
        error=status_of(known, category),
        failure_category=CATEGORIES[category],
        retryable=known.retryable,
    )


def _of_rank(error: RankFailedError) -> worker_pb2.TaskOutcome:
    """Return the outcome of a task that another rank has failed in: that rank's own, with its number."""
    found = worker_pb2.TaskOutcome()
    found.CopyFrom(error.outcome)
    if found.error.message:
        found.error.message = f"Rank {error.rank}: {found.error.message}"
    return found


def _task_error(error: BaseException) -> TaskError:
    """Return the task error for an exception of Python, the system or torch."""
    # By name, since this module must not import torch: it is a RuntimeError there.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return _OutOfMemoryError(
            "OUT_OF_MEMORY",
            "Memory ran out.",
            remedy="Lower training.micro_batch_size or training.sequence_length, or use a smaller model.",
        )
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return StorageError("DISK_FULL", "The disk is full.", remedy="Free space on the disk of the trainer's data.")
    # Its text may hold paths or data, so only its type leaves the worker; the log has the rest.
    return _UnexpectedError(
        "WORKER_FAILED",
        f"The worker failed unexpectedly ({type(error).__name__}).",
        remedy="The job's log has the details (ReadJobLog, `finetree jobs logs`).",
    )


class _OutOfMemoryError(TaskError):
    category = Category.CAPACITY


class _UnexpectedError(TaskError):
    category = Category.SYSTEM
    retryable = True
