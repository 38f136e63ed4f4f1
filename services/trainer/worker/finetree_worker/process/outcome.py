# SPDX-License-Identifier: Apache-2.0
"""The outcome of a task, its last event: how it ended, the error, and whether to try again."""

import errno

from finetree_api.trainer.v1 import event_pb2, job_pb2
from finetree_api.worker.v1 import worker_pb2
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from finetree_worker.attach.commands import Stop
from finetree_worker.errors import Cancelled, Category, DataError, Interrupted, StorageError, TaskError

DOMAIN = "finetree"
"""ErrorInfo.domain of every error of the suite."""
MAX_MESSAGE_CHARACTERS = 512
"""Longest message to clients; longer ones would exceed the size of gRPC trailers."""

_CODES = {
    Category.USER: code_pb2.INVALID_ARGUMENT,
    Category.CAPACITY: code_pb2.RESOURCE_EXHAUSTED,
    Category.SYSTEM: code_pb2.INTERNAL,
}
_CATEGORIES = {
    Category.USER: job_pb2.FAILURE_CATEGORY_USER,
    Category.CAPACITY: job_pb2.FAILURE_CATEGORY_CAPACITY,
    Category.SYSTEM: job_pb2.FAILURE_CATEGORY_SYSTEM,
}
_STOPPED = {
    Stop.PAUSE: worker_pb2.OUTCOME_KIND_PAUSED,
    Stop.INTERRUPT: worker_pb2.OUTCOME_KIND_INTERRUPTED,
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
    return worker_pb2.TaskOutcome(kind=_STOPPED[stop], retryable=stop is Stop.INTERRUPT)


def failed(error: BaseException, stop: Stop = Stop.NONE) -> worker_pb2.TaskOutcome:
    """Return the outcome of a task that raised; one that raised Cancelled on request has not failed."""
    if isinstance(error, Interrupted) and stop is Stop.NONE:
        return stopped(Stop.INTERRUPT)
    if isinstance(error, Cancelled) and stop is not Stop.NONE:
        return stopped(stop)
    known = error if isinstance(error, TaskError) else _task_error(error)
    category = Category.CAPACITY if isinstance(known, StorageError) else known.category
    return worker_pb2.TaskOutcome(
        kind=worker_pb2.OUTCOME_KIND_FAILED,
        error=_status(known, category),
        failure_category=_CATEGORIES[category],
        retryable=known.retryable,
    )


def _task_error(error: BaseException) -> TaskError:
    """Return the task error for an exception of Python, the system or torch."""
    # By name, since this module must not import torch: it is a RuntimeError there.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return _OutOfMemoryError(
            "OUT_OF_MEMORY",
            "Memory ran out.",
            remedy="Lower training.micro_batch_size or training.sequence_length, or use a smaller model.",
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StorageError("DISK_FULL", "The disk is full.", remedy="Free space on the disk of the trainer's data.")
    # Its text may hold paths or data, so only its type leaves the worker; the log has the rest.
    return _UnexpectedError(
        "WORKER_FAILED",
        f"The worker failed unexpectedly ({type(error).__name__}).",
        remedy="The details are in the worker's log, which the trainer's operator can read.",
    )


class _OutOfMemoryError(TaskError):
    category = Category.CAPACITY


class _UnexpectedError(TaskError):
    category = Category.SYSTEM
    retryable = True


def _status(error: TaskError, category: Category) -> status_pb2.Status:
    message = f"{error.message} {error.remedy}".strip()[:MAX_MESSAGE_CHARACTERS]
    status = status_pb2.Status(code=_CODES[category], message=message)
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    if error.remedy:
        info.metadata["remedy"] = error.remedy
    if error.field:
        info.metadata["field"] = error.field
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=error.message[:MAX_MESSAGE_CHARACTERS], reason=error.reason
        )
        status.details.append(_packed(error_details_pb2.BadRequest(field_violations=[violation])))
    if isinstance(error, DataError) and error.row:
        info.metadata["row"] = str(error.row)
    # First, where clients look for it.
    status.details.insert(0, _packed(info))
    return status


def _packed(message: error_details_pb2.BadRequest | error_details_pb2.ErrorInfo) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
