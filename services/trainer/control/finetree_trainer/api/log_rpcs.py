# SPDX-License-Identifier: Apache-2.0
"""Rpcs of TrainerService about what jobs report: events, metrics and logs, and waiting for them."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from finetree_api.trainer.v1 import event_log_pb2, job_log_pb2, metrics_pb2, trainer_pb2_grpc, waiting_pb2
from finetree_runtime.paging import PageTokens, page_size
from finetree_runtime.server import context

from finetree_trainer.api.names import Names
from finetree_trainer.api.requests import caller_in, page_scope, parent_project
from finetree_trainer.clock import seconds_of
from finetree_trainer.joblog.list import EventLister, requested_kinds
from finetree_trainer.joblog.live.batches import Filter
from finetree_trainer.joblog.metrics import MetricsReader
from finetree_trainer.joblog.project.watch import USUAL_KINDS, ProjectFilter, ProjectWatches
from finetree_trainer.joblog.wait import Waits
from finetree_trainer.joblog.watch import Watches
from finetree_trainer.jobs.attempt_logs import AttemptLogs
from finetree_trainer.jobs.jobs import Jobs


@dataclass(frozen=True, kw_only=True, eq=False)
class LogRpcs(trainer_pb2_grpc.TrainerServiceServicer):
    """Answers the rpcs about events, metrics and logs; its fields do the work."""

    names: Names
    watches: Watches
    lister: EventLister
    metrics: MetricsReader
    logs: AttemptLogs
    jobs: Jobs
    waits: Waits
    project_watches: ProjectWatches
    tokens: PageTokens

    async def WatchJob(self, request: event_log_pb2.WatchJobRequest, context_: Any) -> AsyncIterator[Any]:
        """Stream a job's events."""
        name = await self.names.job(request.name)
        uid = name.id
        context.bind(job=uid)
        chosen = Filter(
            mask=requested_kinds(request.kinds),
            min_level=request.min_level,
            min_interval=seconds_of(request.min_interval),
            steps_per_second=request.max_step_events_per_second,
            heartbeat=seconds_of(request.heartbeat) or Filter().heartbeat,
        )
        after = await self.watches.start(request, uid)
        async for batch in self.watches.watch(uid, after, chosen, caller=caller_in(name.project)):
            yield batch

    async def ListEvents(
        self, request: event_log_pb2.ListEventsRequest, context_: Any
    ) -> event_log_pb2.ListEventsResponse:
        """List events, in either order."""
        uid = (await self.names.job(request.name)).id
        scope = page_scope("ListEvents", uid, request, "page_token", "page_size", "name")
        position = self.tokens.read(scope, request.page_token)
        size = page_size(request.page_size, default=100)
        found, reached = await self.lister.page(uid, request, position=int(position or 0), limit=size)
        token = self.tokens.issue(scope, str(reached)) if reached else ""
        return event_log_pb2.ListEventsResponse(events=found, next_page_token=token)

    async def QueryMetrics(
        self, request: metrics_pb2.QueryMetricsRequest, context_: Any
    ) -> metrics_pb2.QueryMetricsResponse:
        """Return curves of a job's metrics."""
        return await self.metrics.query((await self.names.job(request.name)).id, request)

    async def ReadJobLog(
        self, request: job_log_pb2.ReadJobLogRequest, context_: Any
    ) -> AsyncIterator[job_log_pb2.ReadJobLogResponse]:
        """Stream the log of a job's worker."""
        name = await self.names.job(request.name)
        context.bind(job=name.id)
        async for piece in self.logs.read(name.id, request, caller=caller_in(name.project)):
            yield piece

    async def ListJobLogs(
        self, request: job_log_pb2.ListJobLogsRequest, context_: Any
    ) -> job_log_pb2.ListJobLogsResponse:
        """List the logs of a job's attempts."""
        uid = (await self.names.job(request.parent, "parent")).id
        return job_log_pb2.ListJobLogsResponse(logs=await self.logs.list(uid))

    async def WaitJob(self, request: waiting_pb2.WaitJobRequest, context_: Any) -> waiting_pb2.WaitJobResponse:
        """Return a job once it is in one of the asked states."""
        name = await self.names.job(request.name)
        context.bind(job=name.id)
        context.only_waits()
        caller, seconds = caller_in(name.project), float(request.wait_seconds)
        reached = await self.waits.reached(name.id, list(request.states), seconds=seconds, caller=caller)
        return waiting_pb2.WaitJobResponse(job=await self.jobs.get(name.id), reached=reached)

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
        async for batch in self.project_watches.watch(project, after, chosen, caller=caller_in(project)):
            yield batch
