# SPDX-License-Identifier: Apache-2.0
"""Requests of the trainer, built from what a caller writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, TypedDict

from finetree_api.recommender.v1 import recommendation_pb2
from finetree_api.trainer.v1 import (
    artifact_pb2,
    base_model_pb2,
    capacity_pb2,
    comparison_pb2,
    dataset_pb2,
    evaluation_pb2,
    event_log_pb2,
    event_pb2,
    job_log_pb2,
    job_pb2,
    metrics_pb2,
    serving_pb2,
    trainer_pb2,
)
from finetree_api.types.v1 import model_pb2, run_spec_pb2, training_data_pb2, training_pb2, weights_pb2

from finetree._shared import rpcs
from finetree._shared.channels import new_request_id, trace_context
from finetree._shared.follow import event_kinds
from finetree._shared.listing import Listing
from finetree._shared.requests import SpecLike, enum_number, enum_word, invalid
from finetree._shared.status import error_of_status
from finetree.errors import FailedPrecondition, InvalidArgument, JobFailed, Violation
from finetree.exports.target import FORMATS, Format
from finetree.exports.target import KINDS as EXPORTED
from finetree.spec import coerce, kept_sources, recommendation_of

TaskLike = (
    job_pb2.TrainTask | job_pb2.PrepareTask | job_pb2.ExportTask | evaluation_pb2.EvaluateTask | serving_pb2.ServeTask
)
JobLike = job_pb2.JobTemplate | TaskLike | SpecLike | recommendation_pb2.RecommendResponse
ModelLike = model_pb2.ModelSource | str | Mapping[str, Any]
DatasetLike = training_data_pb2.DatasetSource | str | Mapping[str, Any]
PlanLike = run_spec_pb2.Plan | Mapping[str, Any]
RecommendationLike = recommendation_pb2.RecommendResponse | job_pb2.JobRecommendation
Mode = Literal["NOW", "CHECKPOINT"]
Axis = Literal["STEP", "EPOCH", "TOKENS"]
Finding = Literal["TRUNCATED", "DROPPED", "NO_TARGET"]
Collection = Literal["jobs", "datasets", "sweeps"]


class JobFields(TypedDict, total=False):
    """What every job may be given beside its task, as `create_job` describes it."""

    display_name: str
    limits: job_pb2.JobLimits | Mapping[str, Any] | None
    deadline: datetime | None
    suspended: bool
    priority: str | int
    retry_policy: job_pb2.RetryPolicy | Mapping[str, Any] | None
    labels: Mapping[str, str] | None
    annotations: Mapping[str, str] | None


def project_name(project: str) -> str:
    """Resource name of a project; of none given, empty: the service takes the caller's own."""
    return f"projects/{project}" if project else ""


def full_name(project: str, collection: Collection, name: str) -> str:
    """Resource name of a job, dataset or sweep; a short id belongs to the client's project, or stays one.

    Raises:
        InvalidArgument: the name is empty or of another collection.
    """
    if not name or ("/" in name and f"/{collection}/" not in name):
        wanted = f"projects/{{project}}/{collection}/{{id}}"
        text = f"expected {wanted!r} or a short id, got {name!r}"
        raise InvalidArgument(f"name: {text}", reason="INVALID_NAME", violations=(Violation("name", text),))
    return f"{project_name(project)}/{collection}/{name}" if project and "/" not in name else name


def train_task(
    spec: SpecLike | recommendation_pb2.RecommendResponse,
    *,
    recommendation: RecommendationLike | None = None,
    approved_plan: PlanLike | None = None,
    init_from: weights_pb2.TrainedWeights | None = None,
) -> job_pb2.TrainTask:
    """Build a TrainTask.

    Raises:
        FailedPrecondition: NO_METHOD_TRAINS: the recommendation has no recipe; the message says why.
    """
    if isinstance(spec, recommendation_pb2.RecommendResponse):
        recommendation = recommendation or spec
        spec = spec.spec
    task = job_pb2.TrainTask(
        spec=coerce(run_spec_pb2.RunSpec, spec),
        approved_plan=None
        if approved_plan is None
        else coerce(run_spec_pb2.Plan, approved_plan, prefix="approved_plan"),
    )
    if init_from is not None:
        task.spec.init_from.CopyFrom(init_from)
    empty = task.spec.WhichOneof("method") is None and not task.spec.model.WhichOneof("source")
    if empty and not task.spec.HasField("init_from"):  # else what is unset is the weights' own
        raise _no_recipe(recommendation)
    if isinstance(recommendation, recommendation_pb2.RecommendResponse):
        task.setting_sources.extend(kept_sources(recommendation.setting_sources, recommendation.spec, task.spec))
        task.recommendation.CopyFrom(recommendation_of(recommendation))
    elif recommendation is not None:
        task.recommendation.CopyFrom(recommendation)
    return task


def _no_recipe(recommendation: RecommendationLike | None) -> FailedPrecondition:
    """Make the error for a spec without model and method: that of an answer which recommends nothing."""
    if not isinstance(recommendation, recommendation_pb2.RecommendResponse):
        text = (
            "spec: it has neither a model nor a method, as that of a recommendation that found no method which trains"
        )
        return FailedPrecondition(f"{text}; its verdict.headline says why", reason="NO_METHOD_TRAINS")
    remarks = [caution.message for caution in recommendation.cautions[:1]]
    remarks += [way.message for way in recommendation.ways_out[:1]]
    why = "; ".join(text.rstrip(".") for text in (recommendation.verdict.headline, *remarks) if text)
    return FailedPrecondition(f"the recommendation has no recipe to train: {why}", reason="NO_METHOD_TRAINS")


def prepare_task(
    *,
    model: ModelLike | None = None,
    dataset: DatasetLike | None = None,
    evaluation_dataset: DatasetLike | None = None,
    split_fraction: float | None = None,
    sequence_length: int | None = None,
    loss_tokens: str | int = 0,
    seed: int | None = None,
) -> job_pb2.PrepareTask:
    """Build a PrepareTask."""
    if model is None and dataset is None:
        raise invalid("model", "name a model, a dataset or both")
    return job_pb2.PrepareTask(
        model=None if model is None else model_source(model),
        dataset=None if dataset is None else dataset_source(dataset, "dataset"),
        evaluation_dataset=None
        if evaluation_dataset is None
        else dataset_source(evaluation_dataset, "evaluation_dataset"),
        split_fraction=split_fraction,
        sequence_length=sequence_length,
        loss_tokens=enum_number(training_pb2.LossTokens, loss_tokens, "loss_tokens"),
        seed=seed,
    )


def model_source(model: ModelLike) -> model_pb2.ModelSource:
    """Make a ModelSource; a text is a name of the catalog or, with a slash, a hub id with "@" and a revision."""
    if not isinstance(model, str):
        return coerce(model_pb2.ModelSource, model, prefix="model")
    if "/" not in model:
        return model_pb2.ModelSource(name=model)
    hub_id, _, revision = model.partition("@")
    return model_pb2.ModelSource(hub=model_pb2.HubModel(id=hub_id, revision=revision))


def dataset_source(dataset: DatasetLike, prefix: str) -> training_data_pb2.DatasetSource:
    """Make a DatasetSource; a text is a dataset's name or short id."""
    if isinstance(dataset, str):
        return training_data_pb2.DatasetSource(name=dataset)
    return coerce(training_data_pb2.DatasetSource, dataset, prefix=prefix)


def job_template(
    job: JobLike,
    *,
    display_name: str = "",
    limits: job_pb2.JobLimits | Mapping[str, Any] | None = None,
    deadline: datetime | None = None,
    suspended: bool = False,
    priority: str | int = 0,
    retry_policy: job_pb2.RetryPolicy | Mapping[str, Any] | None = None,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> job_pb2.JobTemplate:
    """Build a JobTemplate; a whole one stays as it is."""
    if isinstance(job, job_pb2.JobTemplate):
        return job
    if isinstance(job, Mapping) and set(job) & _TEMPLATE_FIELDS:
        return coerce(job_pb2.JobTemplate, job, prefix="job")
    template = job_pb2.JobTemplate(
        display_name=display_name,
        limits=None if limits is None else coerce(job_pb2.JobLimits, limits, prefix="limits"),
        suspended=suspended or None,
        retry_policy=None if retry_policy is None else coerce(job_pb2.RetryPolicy, retry_policy, prefix="retry_policy"),
        priority=enum_number(job_pb2.JobPriority, priority, "priority"),
        labels=labels or {},
        annotations=annotations or {},
        trace_context=trace_context(),
    )
    if isinstance(job, job_pb2.PrepareTask):
        template.prepare.CopyFrom(job)
    elif isinstance(job, job_pb2.ExportTask):
        template.export.CopyFrom(job)
    elif isinstance(job, evaluation_pb2.EvaluateTask):
        template.evaluate.CopyFrom(job)
    elif isinstance(job, serving_pb2.ServeTask):
        template.serve.CopyFrom(job)
    else:
        template.train.CopyFrom(job if isinstance(job, job_pb2.TrainTask) else train_task(job))
    if deadline is not None:
        template.deadline.FromDatetime(deadline)
    return template


_TEMPLATE_FIELDS = {field.name for field in job_pb2.JobTemplate.DESCRIPTOR.oneofs_by_name["task"].fields}


def validate_job(project: str, job: job_pb2.JobTemplate) -> trainer_pb2.ValidateJobRequest:
    """Build the request of ValidateJob."""
    return trainer_pb2.ValidateJobRequest(parent=project_name(project), job=job)


def create_job(project: str, job: job_pb2.JobTemplate, request_id: str) -> trainer_pb2.CreateJobRequest:
    """Build the request of CreateJob."""
    return trainer_pb2.CreateJobRequest(
        parent=project_name(project), job=job, request_id=request_id or new_request_id()
    )


def list_jobs(
    project: str,
    *,
    states: Sequence[str | int],
    tasks: Sequence[str | int],
    labels: Mapping[str, str] | None,
    page_size: int,
) -> Listing[job_pb2.Job]:
    """Build the list call of ListJobs."""
    request = trainer_pb2.ListJobsRequest(
        parent=project_name(project),
        states=[enum_number(job_pb2.JobState, state, "states") for state in states],
        tasks=[enum_number(job_pb2.TaskKind, task, "tasks") for task in tasks],
        labels=labels or {},
        page_size=page_size,
    )
    return Listing(rpcs.LIST_JOBS, request, lambda page: page.jobs)


def update_job(
    name: str,
    *,
    display_name: str | None,
    labels: Mapping[str, str | None] | None,
    annotations: Mapping[str, str | None] | None,
    request_id: str,
) -> trainer_pb2.UpdateJobRequest:
    """Build the request of UpdateJob, whose mask names each key that is set or, with None, removed."""
    request = trainer_pb2.UpdateJobRequest(
        name=name, display_name=display_name, request_id=request_id or new_request_id()
    )
    paths = [] if display_name is None else ["display_name"]
    for field, given in (("labels", labels), ("annotations", annotations)):
        for key, value in (given or {}).items():
            paths.append(f"{field}.{key}")
            if value is not None:
                getattr(request, field)[key] = value
    if not paths:
        raise invalid("labels", "name what is to change: display_name, labels or annotations")
    request.update_mask.paths.extend(paths)
    return request


def cancel_job(name: str, mode: Mode, request_id: str) -> trainer_pb2.CancelJobRequest:
    """Build the request of CancelJob."""
    number = enum_number(trainer_pb2.CancelMode, mode, "mode")
    return trainer_pb2.CancelJobRequest(name=name, mode=number, request_id=request_id or new_request_id())


def get_capacity(wait_for_rate: float) -> capacity_pb2.GetCapacityRequest:
    """Build the request of GetCapacity."""
    request = capacity_pb2.GetCapacityRequest()
    request.wait_for_rate.FromNanoseconds(round(wait_for_rate * 1e9))
    return request


def list_events(name: str, last: int, kinds: Sequence[str | int], before_seq: int) -> event_log_pb2.ListEventsRequest:
    """Build the request of ListEvents for the newest events."""
    return event_log_pb2.ListEventsRequest(
        name=name,
        order=event_log_pb2.EVENT_ORDER_DESCENDING,
        page_size=last,
        kinds=event_kinds(kinds),
        before_seq=before_seq,
    )


def list_exported(name: str, after_seq: int, last_seq: int) -> Listing[event_pb2.JobEvent]:
    """Build the list call of ListEvents for the events that exports are made of, oldest first."""
    request = event_log_pb2.ListEventsRequest(
        name=name,
        order=event_log_pb2.EVENT_ORDER_ASCENDING,
        after_seq=after_seq,
        before_seq=last_seq + 1,
        kinds=event_kinds(EXPORTED),
        page_size=1000,
    )
    return Listing(rpcs.LIST_EVENTS, request, lambda page: page.events)


def list_log(name: str, last_seq: int) -> Listing[event_pb2.JobEvent]:
    """Build the list call of ListEvents for every event that is kept up to a number, oldest first."""
    request = event_log_pb2.ListEventsRequest(
        name=name, order=event_log_pb2.EVENT_ORDER_ASCENDING, before_seq=last_seq + 1, page_size=1000
    )
    return Listing(rpcs.LIST_EVENTS, request, lambda page: page.events)


def export_format(name: Format) -> Format:
    """Check the name of a format.

    Raises:
        InvalidArgument: INVALID_OPTION: there is no such format.
    """
    if name not in FORMATS:
        text = f"format: {name!r} is not one of {', '.join(FORMATS)}"
        raise InvalidArgument(text, reason="INVALID_OPTION", violations=(Violation("format", text),))
    return name


def query_metrics(
    name: str, metrics: Sequence[str], *, first_step: int, last_step: int, points: int
) -> metrics_pb2.QueryMetricsRequest:
    """Build the request of QueryMetrics."""
    return metrics_pb2.QueryMetricsRequest(
        name=name, metrics=metrics, first_step=first_step, last_step=last_step, max_points=points
    )


def compare_jobs(
    project: str,
    names: Sequence[str],
    *,
    metrics: Sequence[str],
    axis: str | int,
    points: int,
    last_steps: int,
    samples: int,
) -> comparison_pb2.CompareJobsRequest:
    """Build the request of CompareJobs."""
    return comparison_pb2.CompareJobsRequest(
        names=[full_name(project, "jobs", name) for name in names],
        metrics=metrics,
        axis=enum_number(comparison_pb2.CurveAxis, axis, "axis"),
        max_points=points,
        last_steps=last_steps,
        max_samples=samples,
    )


def read_job_log(
    name: str, attempt: int, last_attempt: int, *, offset: int | None, last_lines: int | None, follow: bool
) -> job_log_pb2.ReadJobLogRequest:
    """Build the request of ReadJobLog."""
    if offset is not None and last_lines is not None:
        raise invalid("last_lines", "give either offset or last_lines")
    request = job_log_pb2.ReadJobLogRequest(name=name, attempt=attempt, follow=follow, last_attempt=last_attempt)
    if offset is not None:
        request.offset = offset
    if last_lines is not None:
        request.last_lines = last_lines
    return request


def list_artifacts(job: str) -> Listing[artifact_pb2.Artifact]:
    """Build the list call of ListArtifacts."""
    request = artifact_pb2.ListArtifactsRequest(parent=job)
    return Listing(rpcs.LIST_ARTIFACTS, request, lambda page: page.artifacts)


def list_datasets(project: str, page_size: int) -> Listing[dataset_pb2.Dataset]:
    """Build the list call of ListDatasets."""
    request = dataset_pb2.ListDatasetsRequest(parent=project_name(project), page_size=page_size)
    return Listing(rpcs.LIST_DATASETS, request, lambda page: page.datasets)


def preview_dataset(
    project: str, *, dataset: str, job: str, finding: Finding | str | int, split: str | int, page_size: int
) -> Listing[dataset_pb2.PreviewRow]:
    """Build the list call of PreviewDataset."""
    if bool(dataset) == bool(job):
        raise invalid("dataset", "give either a dataset or a job")
    request = dataset_pb2.PreviewDatasetRequest(
        filter=enum_number(dataset_pb2.PreviewFilter, finding, "finding"),
        split=enum_number(training_data_pb2.Split, split, "split"),
        page_size=page_size,
    )
    if dataset:
        request.dataset = full_name(project, "datasets", dataset)
    else:
        request.job = full_name(project, "jobs", job)
    return Listing(rpcs.PREVIEW_DATASET, request, lambda page: page.rows)


def delete_dataset(project: str, name: str, request_id: str) -> dataset_pb2.DeleteDatasetRequest:
    """Build the request of DeleteDataset."""
    return dataset_pb2.DeleteDatasetRequest(
        name=full_name(project, "datasets", name), request_id=request_id or new_request_id()
    )


def list_base_models(page_size: int) -> Listing[base_model_pb2.BaseModel]:
    """Build the list call of ListBaseModels."""
    request = base_model_pb2.ListBaseModelsRequest(page_size=page_size)
    return Listing(rpcs.LIST_BASE_MODELS, request, lambda page: page.base_models)


def delete_base_model(name: str, request_id: str) -> base_model_pb2.DeleteBaseModelRequest:
    """Build the request of DeleteBaseModel."""
    return base_model_pb2.DeleteBaseModelRequest(name=name, request_id=request_id or new_request_id())


def job_failed(job: job_pb2.Job, terminal: event_pb2.Terminal | None) -> JobFailed:
    """Make the exception for a job that ended without success."""
    ended = terminal or event_pb2.Terminal(state=job.state, error=job.error, failure_category=job.failure_category)
    cause = error_of_status(ended.error)
    word = enum_word(job_pb2.JobState, job.state)
    why = f": {cause.message}" if cause.message else ""
    return JobFailed(
        f"{job.name} {word}{why}",
        job=job.name,
        terminal=ended.SerializeToString(),
        code=cause.code if ended.HasField("error") else "CANCELLED",
        reason=cause.reason or f"JOB_{word.upper()}",
        violations=cause.violations,
        metadata=cause.metadata,
    )


def seen(snapshot: job_pb2.Job | None) -> str:
    """What a handle's repr says of the job as it was last seen: ": running, step 5 of 10, loss 1.234"."""
    if snapshot is None or not snapshot.state:
        return ""
    parts = [enum_word(job_pb2.JobState, snapshot.state)]
    if snapshot.progress.total_steps:
        parts.append(f"step {snapshot.progress.step} of {snapshot.progress.total_steps}")
    if snapshot.metrics.HasField("loss"):
        parts.append(f"loss {snapshot.metrics.loss:.3f}")
    return f": {', '.join(parts)}"
