# SPDX-License-Identifier: Apache-2.0
"""The fake trainer: jobs that follow a script, a durable log with cursors, and streams that break on request."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
from finetree_api.trainer.v1 import (
    artifact_pb2,
    base_model_pb2,
    capacity_pb2,
    dataset_pb2,
    evaluation_pb2,
    job_pb2,
    lifecycle_pb2,
    trainer_pb2,
    waiting_pb2,
)
from finetree_api.types.v1 import server_pb2, training_data_pb2

from finetree._shared import rpcs
from finetree.errors import (
    FailedPrecondition,
    FinetreeError,
    NotFound,
    OutOfRange,
    ResourceExhausted,
    Unavailable,
    Violation,
)
from finetree.testing.catalog import server
from finetree.testing.clock import Clock, Ids
from finetree.testing.estimator import FakeEstimator
from finetree.testing.handlers import Handlers
from finetree.testing.requests import (
    Answers,
    artifact_name,
    body_hash,
    full_name,
    not_promised,
    page,
    project_of,
)
from finetree.testing.trainer.base_models import FakeBaseModels
from finetree.testing.trainer.datasets import FakeDatasets
from finetree.testing.trainer.events import list_events, query_metrics
from finetree.testing.trainer.job import FakeJob
from finetree.testing.trainer.plans import CAPABILITIES, Planned, Planner, devices_of, node_of
from finetree.testing.trainer.previews import FakePreviews
from finetree.testing.trainer.replay import Replay
from finetree.testing.trainer.script import Course, Script
from finetree.testing.trainer.watch import Watches

CHUNK = 256 * 1024
_LISTED_WITHOUT = ("setting_sources", "approved_plan", "recommendation")


class FakeTrainer:
    """Jobs by name, and failures of their streams on request.

    Attributes:
        script: what the next jobs do: a `Script`, or a `Replay` of a recorded log.
        watches: its streams.
        max_queued: most jobs that may wait, which here only suspended ones do.
    """

    def __init__(
        self,
        handlers: Handlers,
        clock: Clock,
        *,
        ids: Ids,
        answers: Answers,
        datasets: FakeDatasets,
        base_models: FakeBaseModels,
        estimator: FakeEstimator,
        accelerators: tuple[str, ...],
    ) -> None:
        self.script: Course = Script()
        self.watches = Watches(clock)
        self.max_queued = 10_000
        self._clock, self._ids, self._answers = clock, ids, answers
        self._datasets, self._models = datasets, base_models
        self._devices = devices_of(accelerators)
        self._planner = Planner(datasets, base_models, estimator, devices=self._devices)
        self._previews = FakePreviews(datasets)
        self._jobs: dict[str, FakeJob] = {}
        self._cut_download: int | None = None
        base_models.user_of = self._user_of_model
        clock.listen(self._pump)
        handlers.unary(rpcs.VALIDATE_JOB, self._validate)
        handlers.unary(rpcs.CREATE_JOB, self._create)
        handlers.unary(rpcs.GET_JOB, lambda r: trainer_pb2.GetJobResponse(job=self.find(r.name).message))
        handlers.unary(rpcs.LIST_JOBS, self._list)
        handlers.unary(rpcs.UPDATE_JOB, self._update)
        handlers.unary(rpcs.CANCEL_JOB, self._cancel)
        handlers.unary(rpcs.PAUSE_JOB, self._pause)
        handlers.unary(rpcs.RESUME_JOB, self._resume)
        handlers.stream(rpcs.WATCH_JOB, lambda r, context: self.watches.stream(r, self.find(r.name), context))
        handlers.waiting(rpcs.WAIT_JOB, self._wait)
        handlers.unary(rpcs.LIST_EVENTS, lambda r: list_events(r, self.find(r.name)))
        handlers.unary(rpcs.QUERY_METRICS, lambda r: query_metrics(r, self.find(r.name)))
        handlers.unary(rpcs.LIST_ARTIFACTS, self._artifacts)
        handlers.stream(rpcs.DOWNLOAD_ARTIFACT, self._download)
        handlers.unary(rpcs.GET_ARTIFACT_LINK, self._link)
        handlers.unary(rpcs.DELETE_DATASET, self._delete_dataset)
        handlers.unary(rpcs.PREVIEW_DATASET, lambda r: self._previews.answer(r, self._jobs))
        handlers.unary(rpcs.GET_CAPACITY, self._capacity)
        handlers.unary(rpcs.TRAINER_INFO, lambda _: trainer_pb2.GetServerInfoResponse(server=self._server()))

    @property
    def attached(self) -> int:
        """How many watchers have attached so far."""
        return self.watches.attached

    def advance(self, name: str, count: int | None = None) -> None:
        """Let a held job store `count` more events, all of them for None."""
        with self._clock.changed:
            job = self.find(name)
            job.advance(count)
            self._settle(job)
            self._clock.changed.notify_all()

    def disconnect_after(self, *seqs: int) -> None:
        """Break a stream once, right after each of these events."""
        with self._clock.changed:
            self.watches.disconnects.update(seqs)

    def skip_once(self, *seqs: int) -> None:
        """Leave these events out of a stream, once each, although the log has them."""
        with self._clock.changed:
            self.watches.holes.update(seqs)

    def attached_at_least(self, count: int, *, timeout: float = 10.0) -> None:
        """Wait until watchers have attached `count` times in all.

        Raises:
            FinetreeTimeout: they have not, in `timeout` seconds.
        """
        self.watches.attached_at_least(count, timeout=timeout)

    def cut_download_after(self, count: int) -> None:
        """Break the next download once `count` bytes of a file are sent."""
        self._cut_download = count

    def silence(self, *, silent: bool = True) -> None:
        """Send nothing more on any stream, not even heartbeats, and leave them open."""
        with self._clock.changed:
            self.watches.silent = silent
            self._clock.changed.notify_all()

    def reset_log(self) -> None:
        """Open a new log epoch, as a restore from backup does: old cursors are refused."""
        self.watches.epoch += 1

    def expire_events(self, name: str, *, before: int) -> None:
        """Remove the events of a job before a number, as retention does."""
        with self._clock.changed:
            self.find(name).forget_before(before)

    def stopping(self, *, now: bool) -> None:
        """End all streams (`now`), or serve them again."""
        with self._clock.changed:
            self.watches.stopping = now
            self._clock.changed.notify_all()

    def add(self, job: job_pb2.Job, course: Course) -> FakeJob:
        """Put a job there that a course drives, under its own name."""
        with self._clock.changed:
            made = FakeJob(job, course, self._clock)
            self._jobs[job.name] = made
            if isinstance(course, Replay) and course.at_once:
                self._clock.advance_to(course.begin(job) + round(course.seconds * 1e6))
            return made

    def find(self, name: str, field: str = "name") -> FakeJob:
        """Find a job.

        Raises:
            InvalidArgument: INVALID_NAME.
            NotFound: JOB_NOT_FOUND.
        """
        with self._clock.changed:
            found = self._jobs.get(full_name(name, "jobs", field))
            if found is None:
                raise NotFound(
                    f"{field}: no job {name!r}; list the jobs to see those that exist", reason="JOB_NOT_FOUND"
                )
            found.pump()
            self._settle(found)
            return found

    def _pump(self) -> None:
        for job in list(self._jobs.values()):
            job.pump()
            self._settle(job)

    def _settle(self, job: FakeJob) -> None:
        """Bring about what a job that has just succeeded leaves behind."""
        if job.settled or not job.ended or job.message.state != job_pb2.JOB_STATE_SUCCEEDED:
            return
        job.settled = True
        if job.message.HasField("prepare"):
            task = job.message.prepare
            self._models.prepared(task.model)
            reports = [event.dataset_report for event in job.log if event.HasField("dataset_report")]
            for report in reports:
                if task.HasField("model") and task.dataset.name and report.split == training_data_pb2.SPLIT_TRAIN:
                    self._datasets.find(task.dataset.name).profile.MergeFrom(report.profile)

    def _validate(self, request: trainer_pb2.ValidateJobRequest) -> trainer_pb2.ValidateJobResponse:
        project_of(request.parent)
        planned = self._planner.plan(request.job)
        task = planned.task
        return trainer_pb2.ValidateJobResponse(
            train=task if isinstance(task, job_pb2.TrainTask) else None,
            prepare=task if isinstance(task, job_pb2.PrepareTask) else None,
            evaluate=task if isinstance(task, evaluation_pb2.EvaluateTask) else None,
            checks=planned.checks,
            estimate=planned.estimate,
            plan=planned.plan,
            remarks=planned.remarks,
        )

    def _wait(self, request: waiting_pb2.WaitJobRequest, context: grpc.ServicerContext) -> waiting_pb2.WaitJobResponse:
        reached = self.watches.reached(request, self.find(request.name), context)
        with self._clock.changed:
            return waiting_pb2.WaitJobResponse(job=self.find(request.name).message, reached=reached)

    def _create(self, request: trainer_pb2.CreateJobRequest) -> trainer_pb2.CreateJobResponse:
        project = project_of(request.parent)
        key = project, request.request_id, "CreateJob", body_hash(request.job, "trace_context")
        known = self._answers.find(*key)
        if known is not None:
            return trainer_pb2.CreateJobResponse(job=self._jobs[known].message)
        planned = self._planner.plan(request.job)
        waiting = sum(job.message.state == job_pb2.JOB_STATE_QUEUED for job in self._jobs.values())
        if waiting >= self.max_queued:
            text = f"{waiting} jobs are waiting; try again when some have run."
            raise ResourceExhausted(text, reason="QUEUE_FULL", retry_after=30.0)
        message = self._message(request, project, planned)
        self._answers.keep(*key, message.name)
        made = self.add(message, self.script)
        answer = trainer_pb2.CreateJobResponse(job=made.message)
        made.pump()
        self._settle(made)
        return answer

    def _message(self, request: trainer_pb2.CreateJobRequest, project: str, planned: Planned) -> job_pb2.Job:
        given, uid, now = request.job, self._ids.new(), self._clock.timestamp()
        task = planned.task
        message = job_pb2.Job(
            name=f"{project}/jobs/{uid}",
            uid=uid,
            display_name=given.display_name,
            train=task if isinstance(task, job_pb2.TrainTask) else None,
            prepare=task if isinstance(task, job_pb2.PrepareTask) else None,
            evaluate=task if isinstance(task, evaluation_pb2.EvaluateTask) else None,
            limits=given.limits if given.HasField("limits") else None,
            deadline=given.deadline if given.HasField("deadline") else None,
            labels=given.labels,
            annotations=given.annotations,
            suspended=given.suspended,
            priority=given.priority or job_pb2.JOB_PRIORITY_NORMAL,
            retry_policy=given.retry_policy if given.HasField("retry_policy") else None,
            trace_context=given.trace_context,
            estimate=planned.estimate,
            plan_digest=planned.plan.digest if planned.plan is not None else "",
            request_id=request.request_id,
            created_by="local",
            create_time=now,
            update_time=now,
            oldest_seq=1,
        )
        if planned.hub is not None:
            message.base.hub_id = planned.model.hub_id if planned.model is not None else planned.hub.id
            if planned.model is not None and message.HasField("train"):
                message.base.revision = planned.model.revision
        kind = task.spec.hardware.accelerator if isinstance(task, job_pb2.TrainTask) else ""
        device = next(each.id for each in self._devices if each.hardware.accelerator == kind.lower())
        message.placements.add(node="fake", device_ids=[device])
        return message

    def _list(self, request: trainer_pb2.ListJobsRequest) -> trainer_pb2.ListJobsResponse:
        project = project_of(request.parent)
        self._pump()
        found = [
            job.message
            for job in reversed(self._jobs.values())
            if job.message.name.startswith(f"{project}/")
            and (not request.states or job.message.state in request.states)
            and (not request.tasks or job.kind in request.tasks)
            and all(job.message.labels.get(key) == value for key, value in request.labels.items())
        ]
        shown, token = page(found, request, key=lambda each: each.name)
        answer = trainer_pb2.ListJobsResponse(jobs=shown, next_page_token=token)
        for job in answer.jobs:
            if job.HasField("train"):
                for name in _LISTED_WITHOUT:
                    job.train.ClearField(name)  # type: ignore[arg-type]  # names from the tuple above
        return answer

    def _once(self, request: Any, act: Callable[[FakeJob], None]) -> FakeJob:
        """Do to a job what a request asks, unless the same request has done it before."""
        job = self.find(request.name)
        project, method = job.message.name.partition("/jobs/")[0], request.DESCRIPTOR.name.removesuffix("Request")
        key = project, request.request_id, method, body_hash(request, "request_id")
        if self._answers.find(*key) is None:
            act(job)
            self._answers.keep(*key, job.message.name)
        return job

    def _update(self, request: trainer_pb2.UpdateJobRequest) -> trainer_pb2.UpdateJobResponse:
        return trainer_pb2.UpdateJobResponse(job=self._once(request, lambda job: job.update(request)).message)

    def _cancel(self, request: trainer_pb2.CancelJobRequest) -> trainer_pb2.CancelJobResponse:
        return trainer_pb2.CancelJobResponse(job=self._once(request, lambda job: job.cancel()).message)

    def _pause(self, request: lifecycle_pb2.PauseJobRequest) -> lifecycle_pb2.PauseJobResponse:
        return lifecycle_pb2.PauseJobResponse(job=self._once(request, FakeJob.pause).message)

    def _resume(self, request: lifecycle_pb2.ResumeJobRequest) -> lifecycle_pb2.ResumeJobResponse:
        answer = lifecycle_pb2.ResumeJobResponse(job=self._once(request, FakeJob.resume).message)
        self._pump()
        return answer

    def _artifacts(self, request: artifact_pb2.ListArtifactsRequest) -> artifact_pb2.ListArtifactsResponse:
        found = self.find(request.parent, "parent").artifacts()
        artifacts, token = page(found, request, key=lambda each: each.name)
        return artifact_pb2.ListArtifactsResponse(artifacts=artifacts, next_page_token=token)

    def _download(
        self, request: artifact_pb2.DownloadArtifactRequest, context: grpc.ServicerContext
    ) -> Iterator[artifact_pb2.DownloadArtifactResponse]:
        job, own, file = self._file(request)
        if own not in job.files:
            raise not_promised("has no files of a recorded log's artifacts")
        data = job.files[own][request.path]
        if request.offset > len(data):
            text = f"offset {request.offset} is beyond the file's {len(data)} bytes."
            raise OutOfRange(text, reason="OFFSET_BEYOND_END", metadata={"size_bytes": str(len(data))})
        end = min(len(data), request.offset + request.limit) if request.limit else len(data)
        yield artifact_pb2.DownloadArtifactResponse(offset=request.offset, file=file)
        step = CHUNK if self._cut_download is None else CHUNK // 16
        for offset in range(request.offset, end, step):
            if self._cut_download is not None and offset >= self._cut_download:
                self._cut_download = None
                raise Unavailable("the download was cut", reason="SERVER_STOPPING")
            if not context.is_active():
                return
            yield artifact_pb2.DownloadArtifactResponse(chunk=data[offset : min(end, offset + step)], offset=offset)

    def _link(self, request: artifact_pb2.GetArtifactLinkRequest) -> artifact_pb2.GetArtifactLinkResponse:
        self._file(request)
        text = "This trainer gives no links: it has no object store; use DownloadArtifact."
        raise FailedPrecondition(text, reason="LINKS_UNSUPPORTED")

    def _file(
        self, request: artifact_pb2.DownloadArtifactRequest | artifact_pb2.GetArtifactLinkRequest
    ) -> tuple[FakeJob, str, artifact_pb2.ArtifactFile]:
        """The job, the artifact's id and the file that a request names."""
        name, own = artifact_name(request.name)
        job = self.find(name)
        artifact = next((each for each in job.artifacts() if each.name == f"{name}/artifacts/{own}"), None)
        if artifact is None:
            raise NotFound(
                f"The job has no artifact {own!r}; list its artifacts to see those that it has.",
                reason="ARTIFACT_NOT_FOUND",
            )
        file = next((each for each in artifact.files if each.path == request.path), None)
        if file is None:
            raise NotFound(f"The artifact has no file {request.path[:80]!r}.", reason="FILE_NOT_FOUND")
        return job, own, file

    def _delete_dataset(self, request: dataset_pb2.DeleteDatasetRequest) -> dataset_pb2.DeleteDatasetResponse:
        name = full_name(request.name, "datasets")
        key = name.partition("/datasets/")[0], request.request_id, "DeleteDataset", name
        if self._answers.find(*key) is None:
            dataset = self._datasets.find(name)
            for job in self._live():
                if name in _datasets_of(job):
                    text = f"{job.name} needs this dataset; wait for it or cancel it."
                    violations = (Violation(job.name, text),)
                    raise FailedPrecondition(
                        text, reason="DATASET_IN_USE", violations=violations, metadata={"job": job.name}
                    )
            self._datasets.remove(dataset.name)
            self._answers.keep(*key, name)
        return dataset_pb2.DeleteDatasetResponse()

    def _live(self) -> Iterator[job_pb2.Job]:
        self._pump()
        return (job.message for job in self._jobs.values() if not job.ended)

    def _user_of_model(self, model: base_model_pb2.BaseModel) -> str:
        for job in self._live():
            source = job.prepare.model if job.HasField("prepare") else job.train.spec.model
            source = job.evaluate.model if job.HasField("evaluate") else source
            if source.WhichOneof("source") is None:
                continue
            try:
                hub, there = self._models.located(source, "model")
            except FinetreeError:
                continue
            preparing = job.HasField("prepare") and hub.id.lower() == model.hub_id.lower()
            if preparing or ((job.base.revision or (there.revision if there else "")) == model.revision and there):
                return job.name
        return ""

    def _capacity(self, request: capacity_pb2.GetCapacityRequest) -> capacity_pb2.GetCapacityResponse:
        node = node_of(self._devices, list(self._live()))
        if request.wait_for_rate.ToNanoseconds():
            node.matrix_rates.bf16_flops_per_second = node.matrix_rates.fp32_flops_per_second = 1e12
        queued = sum(job.state == job_pb2.JOB_STATE_QUEUED for job in self._live())
        return capacity_pb2.GetCapacityResponse(
            nodes=[node], queue_length=queued, limits=self._server().limits, capabilities=CAPABILITIES
        )

    def _server(self) -> server_pb2.ServerInfo:
        info = server(
            "trainer",
            max_upload_bytes=self._datasets.max_upload_bytes,
            max_project_bytes=self._datasets.max_project_bytes,
            max_watchers=self.watches.max_watchers,
            max_queued_jobs=self.max_queued,
        )
        info.features.extend(
            ["train.full", "train.lora", "train.qlora", "train.prefix", "train.adapter", "prepare", "evaluate"]
        )
        return info


def _datasets_of(job: job_pb2.Job) -> set[str]:
    if job.HasField("prepare"):
        sources = [job.prepare.dataset, job.prepare.evaluation_dataset]
    elif job.HasField("evaluate"):
        sources = [job.evaluate.dataset, job.evaluate.few_shot.dataset]
    else:
        sources = [job.train.spec.dataset, job.train.spec.evaluation.dataset]
    return {full_name(source.name, "datasets") for source in sources if source.name}
