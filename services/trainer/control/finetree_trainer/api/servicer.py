# SPDX-License-Identifier: Apache-2.0
"""TrainerService: each rpc reads its request, calls the domain, and builds its reply. Nothing is decided here."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from finetree_api.trainer.v1 import (
    artifact_pb2,
    base_model_pb2,
    capacity_pb2,
    checkpoint_pb2,
    comparison_pb2,
    dataset_pb2,
    evaluation_pb2,
    event_log_pb2,
    job_log_pb2,
    job_pb2,
    metrics_pb2,
    serving_pb2,
    sweep_pb2,
    trainer_pb2,
    trainer_pb2_grpc,
)
from finetree_runtime.errors import invalid_field
from finetree_runtime.ids import ResourceName, parse_name, parse_parent
from finetree_runtime.paging import PageTokens, page_size
from finetree_runtime.server import context
from finetree_runtime.server.identity import server_info

from finetree_trainer.api.names import Names
from finetree_trainer.clock import seconds_of
from finetree_trainer.datasets.datasets import Datasets
from finetree_trainer.datasets.previews import DEFAULT_ROWS, MAX_ROWS, Previews
from finetree_trainer.joblog.list import EventLister, requested_kinds
from finetree_trainer.joblog.metrics import MetricsReader
from finetree_trainer.joblog.watch import Filter, Watches
from finetree_trainer.jobs import capabilities
from finetree_trainer.jobs.artifacts import Artifacts
from finetree_trainer.jobs.attempt_logs import AttemptLogs
from finetree_trainer.jobs.compare.compare import Comparer
from finetree_trainer.jobs.jobs import Jobs, cancel_key, update_key
from finetree_trainer.jobs.serving.generations import Generations
from finetree_trainer.jobs.serving.leases import Leases
from finetree_trainer.jobs.sweeps.sweeps import Sweeps
from finetree_trainer.models.base_models import BaseModels
from finetree_trainer.models.checkpoints import Checkpoints
from finetree_trainer.scheduling.host import Host
from finetree_trainer.scheduling.queue import JobQueue
from finetree_trainer.store.request_ids import RequestKey, body_hash
from finetree_trainer.workers.resting import RestingWorkers

SERVICE = "finetree_api.trainer.v1.TrainerService"
"""Full name of the service."""

FEATURES = (*capabilities.features(), "models.hub", "watch.cursor", "datasets.resume", "datasets.preview", "sweeps")
"""Features that GetServerInfo names."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainerServicer(trainer_pb2_grpc.TrainerServiceServicer):
    """Every rpc of the trainer; its fields answer them."""

    names: Names
    jobs: Jobs
    sweeps: Sweeps
    datasets: Datasets
    watches: Watches
    lister: EventLister
    metrics: MetricsReader
    comparer: Comparer
    logs: AttemptLogs
    artifacts: Artifacts
    checkpoints: Checkpoints
    previews: Previews
    base_models: BaseModels
    leases: Leases
    generations: Generations
    resting: RestingWorkers
    host: Host
    queue: JobQueue
    tokens: PageTokens
    version: str
    limits: dict[str, int]
    """Limits of this service by name, as in GetServerInfo."""

    async def CreateDataset(self, request: dataset_pb2.CreateDatasetRequest, context_: Any) -> Any:
        """Start an upload."""
        dataset = await self.datasets.create(_parent(request.parent), context.principal().name, request)
        context.bind(dataset=dataset.uid)
        return dataset_pb2.CreateDatasetResponse(dataset=dataset)

    async def WriteDataset(
        self, request_iterator: AsyncIterator[dataset_pb2.WriteDatasetRequest], context_: Any
    ) -> dataset_pb2.WriteDatasetResponse:
        """Receive the pieces of an upload."""
        pieces = aiter(request_iterator)
        first = await anext(pieces, None)
        if first is None or not first.name:
            raise invalid_field("name", "the first message must name the dataset")
        uid = (await self.names.dataset(first.name)).id
        context.bind(dataset=uid)
        return dataset_pb2.WriteDatasetResponse(dataset=await self.datasets.write(uid, _pieces(first, pieces)))

    async def GetDataset(self, request: dataset_pb2.GetDatasetRequest, context_: Any) -> dataset_pb2.GetDatasetResponse:
        """Return a dataset."""
        name = await self.names.dataset(request.name)
        return dataset_pb2.GetDatasetResponse(dataset=await self.datasets.get(name.id))

    async def ListDatasets(
        self, request: dataset_pb2.ListDatasetsRequest, context_: Any
    ) -> dataset_pb2.ListDatasetsResponse:
        """List datasets, newest first."""
        project, size = _parent(request.parent), page_size(request.page_size)
        scope = f"ListDatasets/{project}"
        before = self.tokens.read(scope, request.page_token) or ""
        found = await self.datasets.page(project, before=before, limit=size + 1)
        token = self.tokens.issue(scope, found[size - 1].uid) if len(found) > size else ""
        return dataset_pb2.ListDatasetsResponse(datasets=found[:size], next_page_token=token)

    async def DeleteDataset(
        self, request: dataset_pb2.DeleteDatasetRequest, context_: Any
    ) -> dataset_pb2.DeleteDatasetResponse:
        """Delete a dataset that no job needs."""
        name = parse_name(request.name, "datasets", project=context.principal().project)
        await self.datasets.delete(name.id, name.project, request_id=request.request_id)
        return dataset_pb2.DeleteDatasetResponse()

    async def PreviewDataset(
        self, request: dataset_pb2.PreviewDatasetRequest, context_: Any
    ) -> dataset_pb2.PreviewDatasetResponse:
        """Show rows as training sees them."""
        named = request.WhichOneof("source") == "dataset"
        names = self.names
        found = await (names.dataset(request.dataset, "dataset") if named else names.job(request.job, "job"))
        subject = found.id
        scope = _scope("PreviewDataset", subject, request, "page_token", "page_size", "dataset", "job")
        # Later pages are of the first page's job, also when a newer one has succeeded meanwhile.
        job, _, offset = (self.tokens.read(scope, request.page_token) or "").partition(":")
        if named and not job:
            await self.datasets.get(subject)
            job = await self.previews.newest(subject)
        job = job or subject
        size = page_size(request.page_size, default=DEFAULT_ROWS, maximum=MAX_ROWS)
        rows, reached = await self.previews.page(job, request, offset=int(offset or 0), limit=size)
        token = self.tokens.issue(scope, f"{job}:{reached}") if reached else ""
        name = ResourceName(found.project, "jobs", job)
        return dataset_pb2.PreviewDatasetResponse(rows=rows, next_page_token=token, job=str(name))

    async def ListBaseModels(
        self, request: base_model_pb2.ListBaseModelsRequest, context_: Any
    ) -> base_model_pb2.ListBaseModelsResponse:
        """List the base models on this machine, by name."""
        size = page_size(request.page_size)
        after = self.tokens.read("ListBaseModels", request.page_token) or ""
        found = [model for model in await self.base_models.all() if model.name > after]
        token = self.tokens.issue("ListBaseModels", found[size - 1].name) if len(found) > size else ""
        return base_model_pb2.ListBaseModelsResponse(base_models=found[:size], next_page_token=token)

    async def GetBaseModel(
        self, request: base_model_pb2.GetBaseModelRequest, context_: Any
    ) -> base_model_pb2.GetBaseModelResponse:
        """Return a base model."""
        return base_model_pb2.GetBaseModelResponse(base_model=await self.base_models.get(request.name))

    async def DeleteBaseModel(
        self, request: base_model_pb2.DeleteBaseModelRequest, context_: Any
    ) -> base_model_pb2.DeleteBaseModelResponse:
        """Delete a base model that no job needs."""
        body = body_hash(request, "request_id")
        key = RequestKey(context.principal().project, request.request_id, "DeleteBaseModel", body)
        return base_model_pb2.DeleteBaseModelResponse(base_model=await self.base_models.delete(request.name, key))

    async def ValidateJob(
        self, request: trainer_pb2.ValidateJobRequest, context_: Any
    ) -> trainer_pb2.ValidateJobResponse:
        """Plan a job without creating it."""
        planned = await self.jobs.validate(_parent(request.parent), request.job)
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
        project, owner = _parent(request.parent), context.principal().name
        job = await self.jobs.create(project, owner, request.job, request_id=request.request_id)
        context.bind(job=job.uid)
        return trainer_pb2.CreateJobResponse(job=job)

    async def GetJob(self, request: trainer_pb2.GetJobRequest, context_: Any) -> trainer_pb2.GetJobResponse:
        """Return a job."""
        name = await self.names.job(request.name)
        return trainer_pb2.GetJobResponse(job=await self.jobs.get(name.id))

    async def ListJobs(self, request: trainer_pb2.ListJobsRequest, context_: Any) -> trainer_pb2.ListJobsResponse:
        """List jobs, newest first."""
        project, size = _parent(request.parent), page_size(request.page_size)
        scope = _scope("ListJobs", project, request, "page_token", "page_size", "parent")
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

    async def ValidateSweep(
        self, request: sweep_pb2.ValidateSweepRequest, context_: Any
    ) -> sweep_pb2.ValidateSweepResponse:
        """Plan and price a sweep without creating it."""
        planned = await self.sweeps.validate(_parent(request.parent), request.sweep)
        return sweep_pb2.ValidateSweepResponse(sweep=planned.sweep, remarks=planned.remarks)

    async def CreateSweep(self, request: sweep_pb2.CreateSweepRequest, context_: Any) -> sweep_pb2.CreateSweepResponse:
        """Create a sweep."""
        sweep = await self.sweeps.create(_parent(request.parent), context.principal().name, request)
        context.bind(sweep=sweep.uid)
        return sweep_pb2.CreateSweepResponse(sweep=sweep)

    async def GetSweep(self, request: sweep_pb2.GetSweepRequest, context_: Any) -> sweep_pb2.GetSweepResponse:
        """Return a sweep, at once or with its next change."""
        uid, known = (await self.names.sweep(request.name)).id, request.known_update.ToMicroseconds()
        sweep = await self.sweeps.wait(uid, known=known, seconds=float(request.wait_seconds))
        return sweep_pb2.GetSweepResponse(sweep=sweep)

    async def ListSweeps(self, request: sweep_pb2.ListSweepsRequest, context_: Any) -> sweep_pb2.ListSweepsResponse:
        """List sweeps, newest first."""
        project, size = _parent(request.parent), page_size(request.page_size)
        scope = f"ListSweeps/{project}"
        before = self.tokens.read(scope, request.page_token) or ""
        found = await self.sweeps.page(project, before=before, limit=size + 1)
        token = self.tokens.issue(scope, found[size - 1].uid) if len(found) > size else ""
        return sweep_pb2.ListSweepsResponse(sweeps=found[:size], next_page_token=token)

    async def CancelSweep(self, request: sweep_pb2.CancelSweepRequest, context_: Any) -> sweep_pb2.CancelSweepResponse:
        """Ask a sweep to stop."""
        name = await self.names.sweep(request.name)
        key = RequestKey(name.project, request.request_id, "CancelSweep", body_hash(request, "request_id"))
        return sweep_pb2.CancelSweepResponse(sweep=await self.sweeps.cancel(name.id, key=key))

    async def WatchJob(
        self, request: event_log_pb2.WatchJobRequest, context_: Any
    ) -> AsyncIterator[event_log_pb2.WatchJobResponse]:
        """Stream a job's events."""
        uid = (await self.names.job(request.name)).id
        context.bind(job=uid)
        chosen = Filter(
            mask=requested_kinds(request.kinds),
            min_level=request.min_level,
            min_interval=seconds_of(request.min_interval),
            steps_per_second=request.max_step_events_per_second,
            heartbeat=seconds_of(request.heartbeat) or Filter().heartbeat,
        )
        after = await self.watches.start(request, uid)
        async for batch in self.watches.watch(uid, after, chosen, principal=context.principal().name):
            yield batch

    async def ListEvents(
        self, request: event_log_pb2.ListEventsRequest, context_: Any
    ) -> event_log_pb2.ListEventsResponse:
        """List events, in either order."""
        uid = (await self.names.job(request.name)).id
        scope = _scope("ListEvents", uid, request, "page_token", "page_size", "name")
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

    async def ReadJobLog(
        self, request: job_log_pb2.ReadJobLogRequest, context_: Any
    ) -> AsyncIterator[job_log_pb2.ReadJobLogResponse]:
        """Stream the log of a job's worker."""
        uid = (await self.names.job(request.name)).id
        context.bind(job=uid)
        async for piece in self.logs.read(uid, request, principal=context.principal().name):
            yield piece

    async def ListJobLogs(
        self, request: job_log_pb2.ListJobLogsRequest, context_: Any
    ) -> job_log_pb2.ListJobLogsResponse:
        """List the logs of a job's attempts."""
        uid = (await self.names.job(request.parent, "parent")).id
        return job_log_pb2.ListJobLogsResponse(logs=await self.logs.list(uid))

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
        """Stream a file of an artifact."""
        job, artifact = await self.names.artifact(request.name)
        async for piece in self.artifacts.read(
            job.id, artifact, request.path, offset=request.offset, limit=request.limit
        ):
            yield piece

    async def Generate(
        self, request: serving_pb2.GenerateRequest, context_: Any
    ) -> AsyncIterator[serving_pb2.GenerateResponse]:
        """Stream answers of a served base model and its targets."""
        uid = (await self.names.job(request.job, "job")).id
        context.bind(job=uid)
        async with aclosing(self.generations.generate(uid, request)) as answers:
            async for response in answers:
                yield response

    async def LoadTarget(self, request: serving_pb2.LoadTargetRequest, context_: Any) -> serving_pb2.LoadTargetResponse:
        """Load trained weights on a served base model."""
        name = await self.names.job(request.job, "job")
        context.bind(job=name.id)
        key = _key(request, name.project, "LoadTarget")
        target = await self.generations.load(name.id, name.project, request, key=key)
        return serving_pb2.LoadTargetResponse(target=target)

    async def UnloadTarget(
        self, request: serving_pb2.UnloadTargetRequest, context_: Any
    ) -> serving_pb2.UnloadTargetResponse:
        """Remove a target from a served base model."""
        name = await self.names.job(request.job, "job")
        context.bind(job=name.id)
        await self.generations.unload(name.id, request.target, key=_key(request, name.project, "UnloadTarget"))
        return serving_pb2.UnloadTargetResponse()

    async def ListTargets(
        self, request: serving_pb2.ListTargetsRequest, context_: Any
    ) -> serving_pb2.ListTargetsResponse:
        """List what a served base model has loaded."""
        return await self.generations.targets((await self.names.job(request.job, "job")).id)

    async def GetCapacity(
        self, request: capacity_pb2.GetCapacityRequest, context_: Any
    ) -> capacity_pb2.GetCapacityResponse:
        """Report machines, queue, limits and what the server trains."""
        await self.host.wait_for_rates(seconds_of(request.wait_for_rate))
        return capacity_pb2.GetCapacityResponse(
            nodes=[await self.host.describe(self.queue, self.leases.named, self.resting.describe)],
            queue_length=len(self.queue),
            limits=self.limits,
            capabilities=capabilities.CAPABILITIES,
        )

    async def GetServerInfo(self, request: trainer_pb2.GetServerInfoRequest, context_: Any) -> Any:
        """Report the server's version, features and limits."""
        info = server_info("finetree-trainer", self.version, features=FEATURES, limits=self.limits)
        return trainer_pb2.GetServerInfoResponse(server=info)


def _key(request: Any, project: str, method: str) -> RequestKey:
    return RequestKey(project, request.request_id, method, body_hash(request, "request_id"))


def _parent(text: str) -> str:
    return parse_parent(text, project=context.principal().project)


def _scope(method: str, subject: str, request: Any, *without: str) -> str:
    """What a page token is bound to: one list with one set of filters."""
    return f"{method}/{subject}/{body_hash(request, *without)}"


async def _pieces(
    first: dataset_pb2.WriteDatasetRequest, rest: AsyncIterator[dataset_pb2.WriteDatasetRequest]
) -> AsyncIterator[tuple[int, bytes]]:
    if first.data:
        yield first.offset, first.data
    async for piece in rest:
        yield piece.offset, piece.data
