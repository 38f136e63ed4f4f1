# SPDX-License-Identifier: Apache-2.0
"""Trained weights as callers name them: by a message of the contract, or by a text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from finetree_api.trainer.v1 import artifact_pb2, checkpoint_pb2
from finetree_api.types.v1 import weights_pb2

from finetree._shared.trainer_requests import full_name
from finetree.errors import NotFound
from finetree.spec import coerce

WeightsLike = weights_pb2.TrainedWeights | artifact_pb2.Artifact | checkpoint_pb2.Checkpoint | Mapping[str, Any] | str
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_JOB = re.compile(r"projects/[^/]+/jobs/[^/]+")
_PART = re.compile(r"(?P<job>.+)/(?P<kind>artifact|checkpoint)s/(?P<id>[^/]+)")
MOST_ANCESTORS = 256
"""Jobs that a lineage is followed to; a longer one ends there."""


def job_named(source: object, project: str) -> str:
    """Name of the job that a text names, else ""."""
    if isinstance(source, str) and (_UUID.fullmatch(source) or _JOB.fullmatch(source)):
        return full_name(project, "jobs", source)
    return ""


def trained_weights(source: WeightsLike, project: str) -> weights_pb2.TrainedWeights:
    """Build the message of weights that are no job's: a text is the name of an artifact or a checkpoint, else a path.

    Raises:
        InvalidSpec: the dict is no TrainedWeights.
    """
    if isinstance(source, artifact_pb2.Artifact):
        return weights_pb2.TrainedWeights(artifact=source.name, sha256=source.sha256)
    if isinstance(source, checkpoint_pb2.Checkpoint):
        return weights_pb2.TrainedWeights(checkpoint=source.name, sha256=source.sha256)
    if not isinstance(source, str):
        return coerce(weights_pb2.TrainedWeights, source, prefix="init_from")
    part = _PART.fullmatch(source)
    if part is None:
        return weights_pb2.TrainedWeights(path=source)
    name = f"{full_name(project, 'jobs', part['job'])}/{part['kind']}s/{part['id']}"
    if part["kind"] == "artifact":
        return weights_pb2.TrainedWeights(artifact=name)
    return weights_pb2.TrainedWeights(checkpoint=name)


def result_of(job: str, artifacts: Sequence[artifact_pb2.Artifact]) -> weights_pb2.TrainedWeights:
    """Choose what a job has trained among its artifacts: of several the newest.

    Raises:
        NotFound: ARTIFACT_NOT_FOUND: it has trained nothing, or not yet.
    """
    kinds = (artifact_pb2.ARTIFACT_KIND_ADAPTER, artifact_pb2.ARTIFACT_KIND_MODEL)
    found = [each for each in artifacts if each.kind in kinds]
    if not found:
        text = f"{job} has no adapter or model; wait for it to succeed, or name one of its checkpoints"
        raise NotFound(text, reason="ARTIFACT_NOT_FOUND")
    newest = max(found, key=lambda each: each.create_time.ToNanoseconds())
    return weights_pb2.TrainedWeights(artifact=newest.name, sha256=newest.sha256)


def job_of(weights: weights_pb2.TrainedWeights) -> str:
    """Name of the job that made weights; "" for a path."""
    part = _PART.fullmatch(weights.artifact or weights.checkpoint)
    return part["job"] if part is not None else ""
