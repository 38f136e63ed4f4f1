# SPDX-License-Identifier: Apache-2.0
"""A job of the trainer as the interface's `fine_tuning.job` object."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from finetree import error_of_status, to_json
from finetree_api.trainer.v1 import job_pb2

from finetree_console.openai.errors import param_of
from finetree_console.openai.ids import file_id, job_id

REQUEST_LABEL = "openai-request"
"""Label by which a repeated request finds the job that it has made."""
MODEL = "openai.model"
"""Annotation: the model as the request named it."""
MULTIPLIER = "openai.learning_rate_multiplier"
"""Annotation: the multiplier of the request."""
METADATA = "openai.metadata."
"""Prefix of annotations, each of which is a pair of the metadata that cannot be a label."""

STATUS: Mapping[int, str] = {
    job_pb2.JOB_STATE_QUEUED: "queued",
    job_pb2.JOB_STATE_PREPARING: "validating_files",
    job_pb2.JOB_STATE_RUNNING: "running",
    job_pb2.JOB_STATE_PAUSING: "running",
    job_pb2.JOB_STATE_PAUSED: "paused",
    job_pb2.JOB_STATE_RECOVERING: "running",
    job_pb2.JOB_STATE_CANCELLING: "running",
    job_pb2.JOB_STATE_SUCCEEDED: "succeeded",
    job_pb2.JOB_STATE_FAILED: "failed",
    job_pb2.JOB_STATE_CANCELLED: "cancelled",
}
"""`status` by state; a state that is newer than this program counts as "running"."""
ENDED = (job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_CANCELLED)

_LABEL_KEY = re.compile(r"(?=.{1,63}\Z)[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?")
_MAX_LABEL_VALUE = 256


def job_object(job: job_pb2.Job, *, result_files: list[str], trained_tokens: int | None, now: float) -> dict[str, Any]:
    """Make the object of a job that trains.

    Args:
        job: the job.
        result_files: ids of its results.
        trained_tokens: tokens that it has processed; None while it has not ended.
        now: time in seconds since 1970, for the estimate of its end.
    """
    training = job.train.spec.training
    hyperparameters = {
        "n_epochs": _epochs(training.epochs) if training.WhichOneof("length") == "epochs" else "auto",
        "batch_size": training.effective_batch_size if training.HasField("effective_batch_size") else "auto",
        "learning_rate_multiplier": float(job.annotations.get(MULTIPLIER) or 1.0),
    }
    held_out = job.train.spec.evaluation.dataset.name
    return {
        "id": job_id(job.uid),
        "object": "fine_tuning.job",
        "created_at": created_at(job),
        "finished_at": job.end_time.seconds if job.HasField("end_time") else None,
        "status": status(job.state),
        "model": base_model(job),
        "fine_tuned_model": tuned_model(job) if job.state == job_pb2.JOB_STATE_SUCCEEDED else None,
        "organization_id": project_of(job),
        "training_file": file_id(job.train.spec.dataset.name),
        "validation_file": file_id(held_out) if held_out else None,
        "result_files": result_files,
        "hyperparameters": hyperparameters,
        "method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
        "seed": training.seed,
        "suffix": job.display_name or None,
        "metadata": metadata_of(job) or None,
        "trained_tokens": trained_tokens,
        "estimated_finish": _estimated_finish(job, now),
        "error": _error(job),
        "integrations": [],
        "finetree": _own(job),
    }


def status(state: int) -> str:
    """`status` of a state."""
    return STATUS.get(state, "running")


def created_at(job: job_pb2.Job) -> int:
    """Time of creation in seconds since 1970."""
    return job.create_time.seconds


def base_model(job: job_pb2.Job) -> str:
    """Name of the base model, as the request gave it."""
    source = job.train.spec.model
    return job.annotations.get(MODEL) or source.name or source.hub.id or source.path


def tuned_model(job: job_pb2.Job) -> str:
    """Id of the model that a job makes."""
    return f"ft:{base_model(job)}:{project_of(job)}:{job.display_name.replace(':', '-')}:{job.uid}"


def metadata_parts(metadata: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Divide metadata into labels and annotations: a pair that no label can be is an annotation in JSON."""
    labels = {key: value for key, value in metadata.items() if _is_label(key, value)}
    others = [(key, value) for key, value in metadata.items() if key not in labels]
    pairs = {f"{METADATA}{n}": json.dumps(pair, ensure_ascii=False) for n, pair in enumerate(others)}
    return labels, pairs


def metadata_of(job: job_pb2.Job) -> dict[str, str]:
    """Metadata of a job: its labels, and the pairs that could not be labels."""
    found = {key: value for key, value in sorted(job.labels.items()) if key != REQUEST_LABEL}
    kept = [value for key, value in sorted(job.annotations.items()) if key.startswith(METADATA)]
    return found | dict(json.loads(pair) for pair in kept)


def _is_label(key: str, value: str) -> bool:
    return key != REQUEST_LABEL and _LABEL_KEY.fullmatch(key) is not None and len(value) <= _MAX_LABEL_VALUE


def project_of(job: job_pb2.Job) -> str:
    """Id of the project that a job is in."""
    return job.name.split("/")[1]


def _epochs(value: float) -> int | float:
    return int(value) if value.is_integer() else value


def _estimated_finish(job: job_pb2.Job, now: float) -> int | None:
    if job.state in ENDED or not job.progress.HasField("eta_seconds"):
        return None
    return round(now + job.progress.eta_seconds.expected)


def _error(job: job_pb2.Job) -> dict[str, Any] | None:
    if not job.error.code:
        return None
    cause = error_of_status(job.error)
    return {"code": cause.reason or cause.code, "message": cause.message, "param": param_of(cause)}


def _own(job: job_pb2.Job) -> dict[str, Any]:
    """What the suite knows beyond the interface's words; clients keep fields that they do not know."""
    found: dict[str, Any] = {
        "name": job.name,
        "state": job_pb2.JobState.Name(job.state),
        "method": job.train.spec.WhichOneof("method"),
        "progress": to_json(job.progress),
        "spec": to_json(job.train.spec),
        "plan_digest": job.plan_digest or None,
    }
    if job.HasField("estimate"):
        found["estimate"] = to_json(job.estimate)
    if job.train.HasField("recommendation"):
        found["recommendation"] = to_json(job.train.recommendation)
    return found
