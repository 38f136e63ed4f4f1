# SPDX-License-Identifier: Apache-2.0
"""Rpcs of TrainerService about jobs: plan, create, read, change, cancel, compare."""

from dataclasses import dataclass
from typing import Any

from finetree_api.trainer.v1 import comparison_pb2, evaluation_pb2, job_pb2, serving_pb2, trainer_pb2, trainer_pb2_grpc
from finetree_runtime.errors import invalid_field
from finetree_runtime.paging import PageTokens, page_size
from finetree_runtime.server import context

from finetree_trainer.api.names import Names
from finetree_trainer.api.requests import page_scope, parent_project
from finetree_trainer.jobs.compare.compare import Comparer
from finetree_trainer.jobs.jobs import Jobs, cancel_key, update_key


@dataclass(frozen=True, kw_only=True, eq=False)
class JobRpcs(trainer_pb2_grpc.TrainerServiceServicer):
    """Answers the rpcs about jobs; its fields do the work."""

    names: Names
    jobs: Jobs
    comparer: Comparer
    tokens: PageTokens

    async def ValidateJob(
        self, request: trainer_pb2.ValidateJobRequest, context_: Any
    ) -> trainer_pb2.ValidateJobResponse:
        """Plan a job without creating it."""
        planned = await self.jobs.validate(parent_project(request.parent), request.job)
        task = planned.task
        return trainer_pb2.ValidateJobResponse(
            train=task if isinstance(task, job_pb2.TrainTask) else None,
            prepare=task if isinstance(task, job_pb2.PrepareTask) else None,
            export=task if isinstance(task, job_pb2.ExportTask) else None,
            evaluate=task if isinstance(task, evaluation_pb2.EvaluateTask) else None,
            serve=task if isinstance(task, serving_pb2.ServeTask) else None,
            checks=planned.checks,
            estimate=planned.estimate,
            plan=planned.plan,
            remarks=planned.remarks,
        )

    async def CreateJob(self, request: trainer_pb2.CreateJobRequest, context_: Any) -> trainer_pb2.CreateJobResponse:
        """Create a job."""
        project, owner = parent_project(request.parent), context.principal().name
        request.job.trace_context = request.job.trace_context or context.traceparent()
        job = await self.jobs.create(project, owner, request.job, request_id=request.request_id)
        context.bind(job=job.uid)
        return trainer_pb2.CreateJobResponse(job=job)

    async def GetJob(self, request: trainer_pb2.GetJobRequest, context_: Any) -> trainer_pb2.GetJobResponse:
        """Return a job."""
        name = await self.names.job(request.name)
        return trainer_pb2.GetJobResponse(job=await self.jobs.get(name.id))

    async def ListJobs(self, request: trainer_pb2.ListJobsRequest, context_: Any) -> trainer_pb2.ListJobsResponse:
        """List jobs, newest first."""
        project, size = parent_project(request.parent), page_size(request.page_size)
        scope = page_scope("ListJobs", project, request, "page_token", "page_size", "parent")
        before = self.tokens.read(scope, request.page_token) or ""
        found = await self.jobs.page(
            project,
            before=before,
            limit=size + 1,
            states_=list(request.states),
            tasks=list(request.tasks),
            labels=dict(request.labels),
        )
        token = self.tokens.issue(scope, found[size - 1].uid) if len(found) > size else ""
        return trainer_pb2.ListJobsResponse(jobs=found[:size], next_page_token=token)

    async def UpdateJob(self, request: trainer_pb2.UpdateJobRequest, context_: Any) -> trainer_pb2.UpdateJobResponse:
        """Change what people call a job."""
        name = await self.names.job(request.name)
        job = await self.jobs.update(name.id, request, update_key(name.project, request))
        return trainer_pb2.UpdateJobResponse(job=job)

    async def CancelJob(self, request: trainer_pb2.CancelJobRequest, context_: Any) -> trainer_pb2.CancelJobResponse:
        """Ask a job to stop."""
        save = request.mode == trainer_pb2.CANCEL_MODE_CHECKPOINT
        name = await self.names.job(request.name)
        job = await self.jobs.cancel(name.id, save=save, key=cancel_key(name.project, request))
        return trainer_pb2.CancelJobResponse(job=job)

    async def CompareJobs(
        self, request: comparison_pb2.CompareJobsRequest, context_: Any
    ) -> comparison_pb2.CompareJobsResponse:
        """Lay jobs side by side."""
        names = [await self.names.job(name, f"names[{place}]") for place, name in enumerate(request.names)]
        uids = [name.id for name in names]
        for place, uid in enumerate(uids):
            if uid in uids[:place]:
                raise invalid_field(f"names[{place}]", "is named twice")
        return await self.comparer.compare(uids, request)
