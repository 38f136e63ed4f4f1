# SPDX-License-Identifier: Apache-2.0
"""Requests about what the trainer keeps, built from what a caller writes."""

from __future__ import annotations

from finetree_api.trainer.v1 import artifact_pb2, checkpoint_pb2, retention_pb2

from finetree._shared.channels import new_request_id
from finetree._shared.requests import invalid
from finetree._shared.trainer_requests import project_name
from finetree.durations import to_duration


def delete_job(name: str, *, force: bool, validate_only: bool, request_id: str) -> retention_pb2.DeleteJobRequest:
    """Build the request of DeleteJob."""
    return retention_pb2.DeleteJobRequest(
        name=name,
        force=force or None,
        validate_only=validate_only or None,
        request_id=request_id or new_request_id(),
    )


def checkpoint_name(job: str, step: int) -> str:
    """Return the resource name of a checkpoint."""
    return f"{job}/checkpoints/{step}"


def get_checkpoint(job: str, step: int, *, include_state: bool) -> checkpoint_pb2.GetCheckpointRequest:
    """Build the request of GetCheckpoint."""
    name = checkpoint_name(job, step)
    return checkpoint_pb2.GetCheckpointRequest(name=name, include_state=include_state or None)


def update_checkpoint(
    job: str, step: int, *, pinned: bool | None, time_to_live: float | None, request_id: str
) -> checkpoint_pb2.UpdateCheckpointRequest:
    """Build the request of UpdateCheckpoint."""
    if pinned is None and time_to_live is None:
        raise invalid("pinned", "name what is to change: pinned or time_to_live")
    return checkpoint_pb2.UpdateCheckpointRequest(
        name=checkpoint_name(job, step),
        pinned=pinned,
        time_to_live=None if time_to_live is None else to_duration(time_to_live),
        request_id=request_id or new_request_id(),
    )


def delete_checkpoint(job: str, step: int, request_id: str) -> checkpoint_pb2.DeleteCheckpointRequest:
    """Build the request of DeleteCheckpoint."""
    name = checkpoint_name(job, step)
    return checkpoint_pb2.DeleteCheckpointRequest(name=name, request_id=request_id or new_request_id())


def as_artifact(checkpoint: checkpoint_pb2.Checkpoint) -> artifact_pb2.Artifact:
    """Describe a checkpoint as what is downloaded of it."""
    return artifact_pb2.Artifact(name=checkpoint.name, files=checkpoint.files)


def get_storage(project: str, *, all_projects: bool, limit: int) -> retention_pb2.GetStorageRequest:
    """Build the request of GetStorage."""
    return retention_pb2.GetStorageRequest(
        parent=project_name(project), all_projects=all_projects or None, max_removals=limit
    )
