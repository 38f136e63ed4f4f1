# SPDX-License-Identifier: Apache-2.0
"""Requests of exports, built from what a caller writes."""

from __future__ import annotations

from typing import Any

from finetree_api.trainer.v1 import artifact_pb2, job_pb2
from finetree_api.types.v1 import weights_pb2

from finetree._shared.requests import enum_number
from finetree._shared.trainer_requests import (
    DatasetLike,
    JobFields,
    ModelLike,
    dataset_source,
    job_template,
    model_source,
)


class ExportFields(JobFields, total=False):
    """What an export may be given: how, as `Client.export` describes it, and what every job may."""

    format: str | int
    weight_type: str | int
    base: ModelLike | None
    prompts: DatasetLike | None
    max_prompts: int | None
    max_new_tokens: int | None


def export_template(weights: weights_pb2.TrainedWeights, fields: ExportFields) -> job_pb2.JobTemplate:
    """Build the JobTemplate of an export."""
    given: dict[str, Any] = dict(fields)
    base, prompts = given.pop("base", None), given.pop("prompts", None)
    task = job_pb2.ExportTask(
        weights=weights,
        base=None if base is None else model_source(base),
        format=enum_number(artifact_pb2.ExportFormat, given.pop("format", 0), "format"),
        weight_type=enum_number(artifact_pb2.WeightType, given.pop("weight_type", 0), "weight_type"),
        prompts=None if prompts is None else dataset_source(prompts, "prompts"),
        max_prompts=given.pop("max_prompts", None),
        max_new_tokens=given.pop("max_new_tokens", None),
    )
    return job_template(task, **given)
