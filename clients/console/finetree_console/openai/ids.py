# SPDX-License-Identifier: Apache-2.0
"""Ids of the interface, from which the suite's names can be read back: nothing has to be remembered."""

from __future__ import annotations

import re
from dataclasses import dataclass

from finetree_console.openai.errors import refusal

METRICS = "metrics"
"""Name of the result file that has the losses by step."""

_NAME = r"[A-Za-z0-9_-]+"
_FILE = re.compile(rf"file-(?P<uid>{_NAME})")
_RESULT = re.compile(rf"file-(?P<job>{_NAME})\.(?P<artifact>{_NAME})(\.(?P<index>\d{{1,6}}))?")
_JOB = re.compile(rf"ftjob-(?P<uid>{_NAME})")
_EVENT = re.compile(r"ftevt-(?P<seq>\d{1,16})")
_CHECKPOINT = re.compile(rf"ftckpt-{_NAME}\.(?P<seq>\d{{1,16}})")
_TUNED = re.compile(rf"ft:.+:(?P<uid>{_NAME})")


@dataclass(frozen=True, slots=True)
class ResultFile:
    """A result of a job: the metrics, or a file of an artifact by its place among the artifact's files."""

    job: str
    """UUID of the job."""
    artifact: str
    """Id of the artifact, or METRICS."""
    index: int = 0

    @property
    def id(self) -> str:
        """Id of the file."""
        tail = "" if self.artifact == METRICS else f".{self.index}"
        return f"file-{self.job}.{self.artifact}{tail}"


def uid_of(name: str) -> str:
    """Last part of a resource name."""
    return name.rpartition("/")[2]


def file_id(dataset: str) -> str:
    """Id of a dataset by its resource name or its UUID."""
    return f"file-{uid_of(dataset)}"


def job_id(uid: str) -> str:
    """Id of a job by its UUID."""
    return f"ftjob-{uid}"


def event_id(seq: int) -> str:
    """Id of an event by its number in the log of its job."""
    return f"ftevt-{seq:012d}"


def checkpoint_id(job: str, seq: int) -> str:
    """Id of a checkpoint by its job and the number of the event that told of it."""
    return f"ftckpt-{job}.{seq:012d}"


def dataset_of(text: str, param: str) -> str:
    """UUID of the dataset of a file id.

    Raises:
        RefusedError: FILE_NOT_FOUND.
    """
    found = _FILE.fullmatch(text)
    if found is None:
        raise refusal(param, f"{text!r} is not the id of an uploaded file", "FILE_NOT_FOUND", status=404)
    return found["uid"]


def result_of(text: str) -> ResultFile | None:
    """Read the id of a result file; None for any other id."""
    found = _RESULT.fullmatch(text)
    return ResultFile(found["job"], found["artifact"], int(found["index"] or 0)) if found is not None else None


def job_of(text: str, param: str = "fine_tuning_job_id") -> str:
    """UUID of the job of a job id.

    Raises:
        RefusedError: JOB_NOT_FOUND.
    """
    found = _JOB.fullmatch(text)
    if found is None:
        raise refusal(param, f"{text!r} is not the id of a fine-tuning job", "JOB_NOT_FOUND", status=404)
    return found["uid"]


def seq_of(text: str, param: str) -> int:
    """Number of the event of an event id or a checkpoint id.

    Raises:
        RefusedError: CURSOR_INVALID.
    """
    found = _EVENT.fullmatch(text) or _CHECKPOINT.fullmatch(text)
    if found is None:
        raise refusal(param, f"{text!r} is not an id that this list has given", "CURSOR_INVALID")
    return int(found["seq"])


def tuned_job(model: str) -> str:
    """UUID of the job that made a tuned model; "" for the id of another model."""
    found = _TUNED.fullmatch(model)
    return found["uid"] if found is not None else ""
