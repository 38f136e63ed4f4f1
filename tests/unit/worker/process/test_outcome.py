# SPDX-License-Identifier: Apache-2.0
"""Whose fault an exception is, and that nothing of ours leaks through it."""

import errno

import pytest
from finetree_api.trainer.v1 import event_pb2, job_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_worker.attach.commands import Stop
from finetree_worker.errors import (
    Cancelled,
    CheckpointError,
    DataError,
    FinishedEarly,
    Interrupted,
    MemoryExhaustedError,
    PlanError,
    StorageError,
)
from finetree_worker.process import outcome
from google.rpc import code_pb2, error_details_pb2

USER, CAPACITY, SYSTEM = (
    job_pb2.FAILURE_CATEGORY_USER,
    job_pb2.FAILURE_CATEGORY_CAPACITY,
    job_pb2.FAILURE_CATEGORY_SYSTEM,
)


class OutOfMemoryError(RuntimeError):
    """Named and derived as torch's."""


def name_of(value):
    if not isinstance(value, BaseException):
        return None
    return f"{type(value).__name__} {getattr(value, 'reason', '')}{getattr(value, 'errno', '')}"


def info(made):
    found = error_details_pb2.ErrorInfo()
    assert made.error.details[0].Unpack(found)
    return found


@pytest.mark.parametrize(
    ("error", "category", "reason"),
    [
        (DataError("MALFORMED_ROW", "Row 3.", row=3), USER, "MALFORMED_ROW"),
        (PlanError("UNSUPPORTED_METHOD", "No."), USER, "UNSUPPORTED_METHOD"),
        (MemoryExhaustedError("OUT_OF_MEMORY", "No."), CAPACITY, "OUT_OF_MEMORY"),
        (StorageError("DISK_FULL", "No."), CAPACITY, "DISK_FULL"),
        (CheckpointError("CHECKPOINT_MISMATCH", "No."), SYSTEM, "CHECKPOINT_MISMATCH"),
        (OutOfMemoryError("CUDA"), CAPACITY, "OUT_OF_MEMORY"),
        (MemoryError(), CAPACITY, "OUT_OF_MEMORY"),
        (OSError(errno.ENOSPC, "full"), CAPACITY, "DISK_FULL"),
        (OSError(errno.EIO, "broken"), SYSTEM, "WORKER_FAILED"),
        (KeyError("x"), SYSTEM, "WORKER_FAILED"),
        (SystemExit(1), SYSTEM, "WORKER_FAILED"),
        (Cancelled(), SYSTEM, "WORKER_FAILED"),
    ],
    ids=name_of,
)
def test_each_exception_has_an_owner_and_a_reason(error, category, reason):
    made = outcome.failed(error)
    assert (made.kind, made.failure_category) == (worker_pb2.OUTCOME_KIND_FAILED, category)
    assert info(made).reason == reason
    assert info(made).domain == "finetree"
    assert made.error.message


@pytest.mark.parametrize(
    ("stop", "kind"),
    [
        (Stop.PAUSE, worker_pb2.OUTCOME_KIND_PAUSED),
        (Stop.INTERRUPT, worker_pb2.OUTCOME_KIND_INTERRUPTED),
        (Stop.FINISH, worker_pb2.OUTCOME_KIND_CANCELLED),
        (Stop.CANCEL, worker_pb2.OUTCOME_KIND_CANCELLED),
        (Stop.CANCEL_SAVING, worker_pb2.OUTCOME_KIND_CANCELLED),
    ],
    ids=["pause", "interrupt", "finish", "cancel", "cancel saving"],
)
def test_a_core_that_stops_because_it_was_told_to_has_not_failed(stop, kind):
    made = outcome.failed(Cancelled(), stop)
    assert made.kind == kind
    assert not made.HasField("error")
    assert made.failure_category == job_pb2.FAILURE_CATEGORY_UNSPECIFIED


def test_a_training_that_a_limit_ended_is_told_from_a_whole_one():
    made = outcome.failed(FinishedEarly(event_pb2.RunSummary(best_step=3)), Stop.FINISH)
    assert (made.kind, made.summary.best_step) == (worker_pb2.OUTCOME_KIND_FINISHED_EARLY, 3)


def test_an_attempt_that_cannot_go_on_but_left_a_checkpoint_is_followed_by_another():
    assert outcome.failed(Interrupted()).kind == worker_pb2.OUTCOME_KIND_INTERRUPTED
    assert outcome.failed(Interrupted(), Stop.CANCEL).kind == worker_pb2.OUTCOME_KIND_CANCELLED


def test_a_failure_while_stopping_is_a_failure():
    made = outcome.failed(StorageError("DISK_FULL", "No."), Stop.PAUSE)
    assert made.kind == worker_pb2.OUTCOME_KIND_FAILED
    assert made.retryable


def test_row_field_and_remedy_are_named():
    made = outcome.failed(
        DataError("MALFORMED_ROW", "Row 3: is empty.", field="dataset[3].text", remedy="Fill it.", row=3)
    )
    assert made.error.code == code_pb2.INVALID_ARGUMENT
    assert made.error.message == "Row 3: is empty. Fill it."
    assert dict(info(made).metadata) == {"field": "dataset[3].text", "row": "3", "remedy": "Fill it."}
    bad = error_details_pb2.BadRequest()
    assert made.error.details[1].Unpack(bad)
    assert bad.field_violations[0].field == "dataset[3].text"


def test_an_unexpected_error_says_its_type_and_nothing_more():
    made = outcome.failed(RuntimeError("/srv/data/secret"))
    assert "RuntimeError" in made.error.message
    assert "/srv" not in str(made)
    assert made.error.code == code_pb2.INTERNAL
    assert not made.error.details[1:]


def test_a_long_message_is_cut():
    assert len(outcome.failed(DataError("X", "y" * 5000)).error.message) == 512
