# SPDX-License-Identifier: Apache-2.0
"""Requests about what the trainer keeps, built from what a caller writes."""

from __future__ import annotations

from finetree_api.trainer.v1 import retention_pb2

from finetree._shared.channels import new_request_id


def delete_job(name: str, *, force: bool, validate_only: bool, request_id: str) -> retention_pb2.DeleteJobRequest:
    """Build the request of DeleteJob."""
    return retention_pb2.DeleteJobRequest(
        name=name,
        force=force or None,
        validate_only=validate_only or None,
        request_id=request_id or new_request_id(),
    )
