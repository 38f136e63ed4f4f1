# SPDX-License-Identifier: Apache-2.0
"""Errors of a task, each with a stable reason and a category."""

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from finetree_api.trainer.v1 import event_pb2


class Category(StrEnum):
    """Side that can correct a failure: the user, the operator, or more capacity."""

    USER = "USER"
    SYSTEM = "SYSTEM"
    CAPACITY = "CAPACITY"


class TaskError(Exception):
    """A task ended in failure.

    `reason` is a stable UPPER_SNAKE name, `field` the place in the job file or the dataset
    ("dataset[3].messages[1].content"), `remedy` what to do about it, `metadata` what a program may want of it.
    `retryable` says whether the same task may succeed when it is started again.
    """

    category = Category.SYSTEM
    retryable = False

    def __init__(
        self, reason: str, message: str, *, field: str = "", remedy: str = "", metadata: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.field = field
        self.remedy = remedy
        self.metadata = dict(metadata or {})


class PlanError(TaskError):
    """The run asks for something that this worker cannot do."""

    category = Category.USER


class DataError(TaskError):
    """The dataset cannot be trained on; `row` is the line of the file, counted from 1 (0: no single row)."""

    category = Category.USER

    def __init__(self, reason: str, message: str, *, field: str = "", remedy: str = "", row: int = 0) -> None:
        super().__init__(reason, message, field=field, remedy=remedy)
        self.row = row


class DamagedDataError(TaskError):
    """The dataset's file is no longer what was uploaded."""


class ModelError(TaskError):
    """The base model's folder is missing, incomplete or of a kind that cannot be trained here."""

    category = Category.USER


class AccessError(TaskError):
    """A file of the task is closed to the user that this worker runs as."""

    category = Category.USER


class DivergedError(TaskError):
    """The loss or the gradient was not finite for too many steps in a row."""

    category = Category.USER


class MemoryExhaustedError(TaskError):
    """The device's memory does not hold even one row's forward and backward pass."""

    category = Category.CAPACITY


class StorageError(TaskError):
    """The disk is full or cannot be written; what was there before is intact."""

    category = Category.SYSTEM
    retryable = True


class CheckpointError(TaskError):
    """A checkpoint does not belong to this run, or is damaged."""


class RankError(TaskError):
    """A process of a run on several devices was lost, stands still, or has other weights than the rest."""

    retryable = True


class Cancelled(BaseException):
    """The task is to end. Derived from BaseException, so that no `except Exception` on the way stops it."""


class Interrupted(Cancelled):
    """The attempt cannot continue, but the next one can from its checkpoint: ends it like a preemption."""


class FinishedEarly(Cancelled):
    """A limit of the job ended its training before the last step; what there was is published."""

    def __init__(self, summary: "event_pb2.RunSummary") -> None:
        super().__init__("a limit of the job was reached")
        self.summary = summary
