# SPDX-License-Identifier: Apache-2.0
"""Rpcs of TrainerService that wait: for one job to be in a state, and for whatever happens in a project."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from finetree_api.trainer.v1 import trainer_pb2_grpc, waiting_pb2
from finetree_runtime.server import context

from finetree_trainer.api.names import Names
from finetree_trainer.api.requests import parent_project
from finetree_trainer.clock import seconds_of
from finetree_trainer.joblog.list import requested_kinds
from finetree_trainer.joblog.live.batches import Filter
from finetree_trainer.joblog.project.watch import USUAL_KINDS, ProjectFilter, ProjectWatches
from finetree_trainer.joblog.wait import Waits
from finetree_trainer.jobs.jobs import Jobs


@dataclass(frozen=True, kw_only=True, eq=False)
class WaitingRpcs(trainer_pb2_grpc.TrainerServiceServicer):
    """Answers the rpcs that wait; its fields do the work."""

    names: Names
    jobs: Jobs
    waits: Waits
    project_watches: ProjectWatches

    async def WaitJob(self, request: waiting_pb2.WaitJobRequest, context_: Any) -> waiting_pb2.WaitJobResponse:
        """Return a job once it is in one of the asked states."""
        uid = (await self.names.job(request.name)).id
        context.bind(job=uid)
        context.only_waits()
        principal, seconds = context.principal().name, float(request.wait_seconds)
        reached = await self.waits.reached(uid, list(request.states), seconds=seconds, principal=principal)
        return waiting_pb2.WaitJobResponse(job=await self.jobs.get(uid), reached=reached)

    async def WatchJobs(
        self, request: waiting_pb2.WatchJobsRequest, context_: Any
    ) -> AsyncIterator[waiting_pb2.WatchJobsResponse]:
        """Stream what happens in all jobs of a project."""
        project = parent_project(request.parent)
        chosen = ProjectFilter(
            mask=requested_kinds(request.kinds or USUAL_KINDS),
            min_level=request.min_level,
            labels=dict(request.labels),
            min_interval=seconds_of(request.min_interval),
            heartbeat=seconds_of(request.heartbeat) or Filter().heartbeat,
        )
        after = await self.project_watches.start(request, project)
        async for batch in self.project_watches.watch(project, after, chosen, principal=context.principal().name):
            yield batch
