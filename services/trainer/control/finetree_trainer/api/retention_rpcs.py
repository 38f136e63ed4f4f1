# SPDX-License-Identifier: Apache-2.0
"""Rpcs of TrainerService about what is deleted and what is kept."""

from dataclasses import dataclass
from typing import Any

from finetree_api.trainer.v1 import retention_pb2, trainer_pb2_grpc
from finetree_runtime.ids import parse_name
from finetree_runtime.server import context

from finetree_trainer.api.requests import request_key
from finetree_trainer.jobs.retention.deletion import Deletions


@dataclass(frozen=True, kw_only=True, eq=False)
class RetentionRpcs(trainer_pb2_grpc.TrainerServiceServicer):
    """Answers the rpcs about deletion and retention; its fields do the work."""

    deletions: Deletions

    async def DeleteJob(
        self, request: retention_pb2.DeleteJobRequest, context_: Any
    ) -> retention_pb2.DeleteJobResponse:
        """Delete a job and everything that it made."""
        # Not looked up: a repeated request names a job that is gone.
        name = parse_name(request.name, "jobs", project=context.principal().project)
        context.bind(job=name.id)
        freed = await self.deletions.delete(name, request, request_key(request, name.project, "DeleteJob"))
        return retention_pb2.DeleteJobResponse(freed_bytes=freed)
