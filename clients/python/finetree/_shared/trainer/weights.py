# SPDX-License-Identifier: Apache-2.0
"""Trained weights as callers name them: by a message of the contract, by a handle on a job, or by a text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from finetree_api.trainer.v1 import artifact_pb2, checkpoint_pb2, job_pb2
from finetree_api.types.v1 import weights_pb2

from finetree._shared import rpcs
from finetree._shared.listing import Listing
from finetree._shared.requests import invalid
from finetree._shared.trainer_requests import full_name
from finetree.errors import NotFound
from finetree.spec import coerce


class JobHandle(Protocol):
    """What stands for a job by its resource name: a `Job` or an `AsyncJob`."""

    name: str


WeightsLike = (
    weights_pb2.TrainedWeights | artifact_pb2.Artifact | checkpoint_pb2.Checkpoint | JobHandle | str | Mapping[str, Any]
)
MOST_ANCESTORS = 256
"""Jobs that a lineage is followed to; a longer one ends there."""
_JOB = re.compile(r"(?P<job>[^/@.][^/@]*|projects/[^/]+/jobs/[^/@]+)(?P<at>@(?P<step>[^/]*))?")
"""A job, by its resource name or an id, and a step. A text with a separator, or with a dot before all, is a path."""
_PART = re.compile(r"(?P<job>.+)/(?P<kind>artifact|checkpoint)s/(?P<id>[^/]+)")


def weights_of(project: str, weights: WeightsLike, field: str) -> weights_pb2.TrainedWeights | str:
    """Trained weights as a caller names them; the resource name of a job whose artifact is meant.

    A text is the name or id of a job, whose checkpoint of a step is "JOB@STEP"; the name of an artifact or a
    checkpoint; else the path of an adapter folder under a model root of the trainer, with a separator: "./mine" lies
    in the root itself.
    """
    if isinstance(weights, artifact_pb2.Artifact):
        return weights_pb2.TrainedWeights(artifact=weights.name, sha256=weights.sha256)
    if isinstance(weights, checkpoint_pb2.Checkpoint):
        return weights_pb2.TrainedWeights(checkpoint=weights.name, sha256=weights.sha256)
    if isinstance(weights, (weights_pb2.TrainedWeights, Mapping)):
        return coerce(weights_pb2.TrainedWeights, weights, prefix=field)
    return _named(project, weights, field) if isinstance(weights, str) else weights.name


def _named(project: str, text: str, field: str) -> weights_pb2.TrainedWeights | str:
    part = _PART.fullmatch(text)
    if part is not None:
        name = f"{full_name(project, 'jobs', part['job'])}/{part['kind']}s/{part['id']}"
        if part["kind"] == "artifact":
            return weights_pb2.TrainedWeights(artifact=name)
        return weights_pb2.TrainedWeights(checkpoint=name)
    found = _JOB.fullmatch(text)
    if found is None:
        return weights_pb2.TrainedWeights(path=text)
    name = full_name(project, "jobs", found["job"])
    if found["at"] is None:
        return name
    if not found["step"].isdecimal():
        raise invalid(field, f"expected JOB@STEP with a number as the step, got {text!r}")
    return weights_pb2.TrainedWeights(checkpoint=f"{name}/checkpoints/{found['step']}")


def trained_artifact(job: str, artifacts: Iterable[artifact_pb2.Artifact]) -> weights_pb2.TrainedWeights:
    """The adapter among a job's artifacts, else its model: of several the newest, with its hash.

    Raises:
        NotFound: ARTIFACT_NOT_FOUND: it has made neither, or not yet.
    """
    made = list(artifacts)
    for kind in (artifact_pb2.ARTIFACT_KIND_ADAPTER, artifact_pb2.ARTIFACT_KIND_MODEL):
        found = [artifact for artifact in made if artifact.kind == kind]
        if found:
            newest = max(found, key=lambda each: each.create_time.ToNanoseconds())
            return weights_pb2.TrainedWeights(artifact=newest.name, sha256=newest.sha256)
    text = f"{job} has made no adapter and no model, or not yet; name one of its checkpoints as JOB@STEP"
    raise NotFound(text, reason="ARTIFACT_NOT_FOUND")


def list_checkpoints(job: str, *, show_deleted: bool) -> Listing[checkpoint_pb2.Checkpoint]:
    """Build the list call of ListCheckpoints."""
    request = checkpoint_pb2.ListCheckpointsRequest(parent=job, show_deleted=show_deleted)
    return Listing(rpcs.LIST_CHECKPOINTS, request, lambda page: page.checkpoints)


def made_by(job: job_pb2.Job) -> list[str]:
    """Names of the jobs that made the weights which a job started from or worked with."""
    return [parent.job for parent in job.lineage.parents if parent.job]


def job_of(weights: weights_pb2.TrainedWeights) -> str:
    """Name of the job that made weights; "" for a path."""
    part = _PART.fullmatch(weights.artifact or weights.checkpoint)
    return part["job"] if part is not None else ""
