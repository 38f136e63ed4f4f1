# SPDX-License-Identifier: Apache-2.0
"""Rpcs of TrainerService about what a job leaves: checkpoints and artifacts, and how they are deleted."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from finetree_api.trainer.v1 import artifact_pb2, checkpoint_pb2, retention_pb2, trainer_pb2_grpc
from finetree_runtime.ids import parse_name
from finetree_runtime.paging import PageTokens, page_size
from finetree_runtime.server import context
from finetree_runtime.server.access.roles import EVERY_PROJECT, Role

from finetree_trainer.api.names import Names
from finetree_trainer.api.requests import parent_project, request_key
from finetree_trainer.jobs.artifacts import Artifacts
from finetree_trainer.jobs.retention.checkpoints import CheckpointKeeping
from finetree_trainer.jobs.retention.deletion import Deletions
from finetree_trainer.jobs.retention.usage import StorageReport
from finetree_trainer.models.checkpoints import Checkpoints


@dataclass(frozen=True, kw_only=True, eq=False)
class ResultRpcs(trainer_pb2_grpc.TrainerServiceServicer):
    """Answers the rpcs about checkpoints and artifacts; its fields do the work."""

    names: Names
    artifacts: Artifacts
    checkpoints: Checkpoints
    keeping: CheckpointKeeping
    deletions: Deletions
    storage: StorageReport
    tokens: PageTokens

    async def ListCheckpoints(
        self, request: checkpoint_pb2.ListCheckpointsRequest, context_: Any
    ) -> checkpoint_pb2.ListCheckpointsResponse:
        """List the checkpoints of a job, by step."""
        uid, size = (await self.names.job(request.parent, "parent")).id, page_size(request.page_size)
        scope = f"ListCheckpoints/{uid}/{request.show_deleted}"
        after = int(self.tokens.read(scope, request.page_token) or -1)
        found = await self.checkpoints.page(uid, after=after, limit=size + 1, deleted=request.show_deleted)
        token = self.tokens.issue(scope, str(found[size - 1].step)) if len(found) > size else ""
        return checkpoint_pb2.ListCheckpointsResponse(checkpoints=found[:size], next_page_token=token)

    async def GetCheckpoint(
        self, request: checkpoint_pb2.GetCheckpointRequest, context_: Any
    ) -> checkpoint_pb2.GetCheckpointResponse:
        """Return a checkpoint and the files to download."""
        job, step = await self.names.checkpoint(request.name)
        found = await self.keeping.get(job, step, state=request.include_state)
        return checkpoint_pb2.GetCheckpointResponse(checkpoint=found)

    async def UpdateCheckpoint(
        self, request: checkpoint_pb2.UpdateCheckpointRequest, context_: Any
    ) -> checkpoint_pb2.UpdateCheckpointResponse:
        """Change how long a checkpoint is kept."""
        job, step = await self.names.checkpoint(request.name)
        key = request_key(request, job.project, "UpdateCheckpoint")
        found = await self.keeping.update(job, step, request, key)
        return checkpoint_pb2.UpdateCheckpointResponse(checkpoint=found)

    async def DeleteCheckpoint(
        self, request: checkpoint_pb2.DeleteCheckpointRequest, context_: Any
    ) -> checkpoint_pb2.DeleteCheckpointResponse:
        """Delete a checkpoint."""
        job, step = await self.names.checkpoint(request.name)
        freed = await self.keeping.delete(job, step, request_key(request, job.project, "DeleteCheckpoint"))
        return checkpoint_pb2.DeleteCheckpointResponse(freed_bytes=freed)

    async def ListArtifacts(
        self, request: artifact_pb2.ListArtifactsRequest, context_: Any
    ) -> artifact_pb2.ListArtifactsResponse:
        """List the artifacts of a job."""
        uid, size = (await self.names.job(request.parent, "parent")).id, page_size(request.page_size)
        scope = f"ListArtifacts/{uid}"
        after = self.tokens.read(scope, request.page_token) or ""
        found = await self.artifacts.page(uid, after=after, limit=size + 1)
        token = self.tokens.issue(scope, found[size - 1][0]) if len(found) > size else ""
        shown = [artifact for _, artifact in found[:size]]
        return artifact_pb2.ListArtifactsResponse(artifacts=shown, next_page_token=token)

    async def DownloadArtifact(
        self, request: artifact_pb2.DownloadArtifactRequest, context_: Any
    ) -> AsyncIterator[artifact_pb2.DownloadArtifactResponse]:
        """Stream a file of an artifact or a checkpoint."""
        if "/checkpoints/" in request.name:
            of, step = await self.names.checkpoint(request.name)
            async for piece in self.keeping.read(of, step, request.path, offset=request.offset, limit=request.limit):
                yield piece
            return
        job, artifact = await self.names.artifact(request.name)
        async for piece in self.artifacts.read(
            job.id, artifact, request.path, offset=request.offset, limit=request.limit
        ):
            yield piece

    async def GetArtifactLink(
        self, request: artifact_pb2.GetArtifactLinkRequest, context_: Any
    ) -> artifact_pb2.GetArtifactLinkResponse:
        """Sign a link to a file of an artifact."""
        job, artifact = await self.names.artifact(request.name)
        seconds = request.time_to_live.seconds if request.HasField("time_to_live") else None
        return await self.artifacts.link(job.id, artifact, request.path, seconds=seconds)

    async def DeleteJob(
        self, request: retention_pb2.DeleteJobRequest, context_: Any
    ) -> retention_pb2.DeleteJobResponse:
        """Delete a job and everything that it made."""
        # Not looked up: a repeated request names a job that is gone.
        name = parse_name(request.name, "jobs", project=context.principal().project)
        context.bind(job=name.id)
        freed = await self.deletions.delete(name, request, request_key(request, name.project, "DeleteJob"))
        return retention_pb2.DeleteJobResponse(freed_bytes=freed)

    async def GetStorage(
        self, request: retention_pb2.GetStorageRequest, context_: Any
    ) -> retention_pb2.GetStorageResponse:
        """Report what takes how much room, and what retention removes next."""
        project = parent_project(request.parent)
        if request.all_projects:
            everywhere = context.principal().grants.allows(Role.READ, EVERY_PROJECT)
            return await self.storage.report(None if everywhere else project, limit=request.max_removals)
        return await self.storage.report(project, limit=request.max_removals)
