# SPDX-License-Identifier: Apache-2.0
"""From what a caller writes to the messages of the contract; the same for both clients."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, TypedDict

from finetree_api.estimator.v1 import calibration_pb2, catalog_pb2, check_plan_pb2, estimate_pb2, estimator_pb2
from finetree_api.recommender.v1 import method_card_pb2, picture_pb2, recommendation_pb2
from finetree_api.trainer.v1 import capacity_pb2, event_log_pb2, event_pb2, job_pb2, trainer_pb2
from finetree_api.types.v1 import evidence_pb2, method_pb2, run_spec_pb2, training_data_pb2

from finetree._shared.channels import new_request_id, trace_context
from finetree._shared.follow import Follow
from finetree._shared.status import error_of_status
from finetree.errors import FinetreeError, InvalidArgument, JobFailed, Violation
from finetree.json import to_json
from finetree.spec import coerced

SpecLike = run_spec_pb2.RunSpec | Mapping[str, Any]
ProfileLike = training_data_pb2.DatasetProfile | Mapping[str, Any]
RevisionLike = evidence_pb2.Revision | Mapping[str, Any]
RecommendLike = recommendation_pb2.RecommendRequest | Mapping[str, Any]
EstimateLike = estimate_pb2.EstimateRunRequest | SpecLike
BatchLike = estimator_pb2.BatchEstimateRunsRequest | Mapping[str, EstimateLike]
PolicyLike = check_plan_pb2.PlanPolicy | Mapping[str, Any]
ObservationLike = calibration_pb2.Observation | Mapping[str, Any]
View = Literal["BASIC", "FULL"]
Kind = Literal["TRAIN", "PREPARE", "EXPORT"]
Mode = Literal["NOW", "CHECKPOINT"]
Finding = Literal["TRUNCATED", "DROPPED", "NO_TARGET"]
Collection = Literal["jobs", "datasets"]
MethodName = Literal["full", "lora", "qlora", "prefix", "adapter"]
PictureFormat = Literal["text", "mermaid", "svg"]


class JobFields(TypedDict, total=False):
    """What a job may be given beside its spec, as `create_job` describes it."""

    display_name: str
    kind: Kind
    limits: job_pb2.JobLimits | Mapping[str, Any] | None
    deadline: datetime | None
    suspended: bool
    labels: Mapping[str, str] | None
    annotations: Mapping[str, str] | None
    plan_digest: str
    recommendation: recommendation_pb2.RecommendResponse | None


def parent(project: str) -> str:
    """Resource name of a project."""
    return f"projects/{project}"


def full_name(project: str, collection: Collection, name: str) -> str:
    """Resource name of a job or dataset; a short id belongs to the client's project.

    Raises:
        InvalidArgument: the name is empty or of another collection.
    """
    if not name or ("/" in name and f"/{collection}/" not in name):
        wanted = f"projects/{{project}}/{collection}/{{id}}"
        text = f"expected {wanted!r} or a short id, got {name!r}"
        raise InvalidArgument(f"name: {text}", reason="INVALID_NAME", violations=(Violation("name", text),))
    return name if "/" in name else f"{parent(project)}/{collection}/{name}"


def enum_number(wrapper: Any, prefix: str, value: str | int, field: str) -> Any:
    """Number of an enum value given by number, full name or short name in any letter case.

    Raises:
        InvalidArgument: there is no such value.
    """
    if isinstance(value, int):
        return value
    name = value.upper()
    name = name if name.startswith(prefix) else prefix + name
    if name in wrapper.keys():  # noqa: SIM118 - a protobuf enum is no mapping
        return wrapper.Value(name)
    known = ", ".join(key.removeprefix(prefix).lower() for key in wrapper.keys()[1:])
    text = f"no such value {value!r}; known are {known}"
    raise InvalidArgument(f"{field}: {text}", reason="INVALID_REQUEST", violations=(Violation(field, text),))


def recommend_request(request: RecommendLike) -> recommendation_pb2.RecommendRequest:
    """Request of Recommend."""
    return coerced(recommendation_pb2.RecommendRequest, request)


def decision_tree_request(
    request: RecommendLike | None, policy: str, picture_format: PictureFormat | str | int
) -> picture_pb2.RenderDecisionTreeRequest:
    """Request of RenderDecisionTree."""
    number = enum_number(picture_pb2.PictureFormat, "PICTURE_FORMAT_", picture_format, "format")
    marked = recommend_request(request) if request is not None else None
    return picture_pb2.RenderDecisionTreeRequest(policy=policy, format=number, request=marked)


def get_method_request(method: MethodName | str | int, policy: str) -> method_card_pb2.GetMethodRequest:
    """Request of GetMethod."""
    number = enum_number(method_pb2.Method, "METHOD_", method, "method")
    return method_card_pb2.GetMethodRequest(method=number, policy=policy)


def estimate_request(
    spec: EstimateLike,
    *,
    dataset_profile: ProfileLike | None = None,
    evaluation_profile: ProfileLike | None = None,
    view: View = "BASIC",
    pinned: RevisionLike | None = None,
) -> estimate_pb2.EstimateRunRequest:
    """Request of EstimateRun."""
    if isinstance(spec, estimate_pb2.EstimateRunRequest):
        return spec
    return estimate_pb2.EstimateRunRequest(
        spec=coerced(run_spec_pb2.RunSpec, spec),
        dataset_profile=_profile(dataset_profile, "dataset_profile"),
        evaluation_profile=_profile(evaluation_profile, "evaluation_profile"),
        view=enum_number(estimate_pb2.EstimateView, "ESTIMATE_VIEW_", view, "view"),
        pinned=None if pinned is None else coerced(evidence_pb2.Revision, pinned, prefix="pinned"),
    )


def batch_request(rows: BatchLike) -> estimator_pb2.BatchEstimateRunsRequest:
    """Request of BatchEstimateRuns."""
    if isinstance(rows, estimator_pb2.BatchEstimateRunsRequest):
        return rows
    return estimator_pb2.BatchEstimateRunsRequest(
        rows=[estimator_pb2.BatchEstimateRow(key=key, request=estimate_request(each)) for key, each in rows.items()]
    )


def batch_results(
    response: estimator_pb2.BatchEstimateRunsResponse,
) -> dict[str, estimate_pb2.Estimate | FinetreeError]:
    """Rows of a batch by key: an estimate, or the exception that the row alone would have raised."""
    return {
        row.key: error_of_status(row.error) if row.WhichOneof("result") == "error" else row.estimate
        for row in response.results
    }


def check_request(
    spec: EstimateLike,
    policy: PolicyLike,
    *,
    dataset_profile: ProfileLike | None = None,
    evaluation_profile: ProfileLike | None = None,
    pinned: RevisionLike | None = None,
) -> check_plan_pb2.CheckPlanRequest:
    """Request of CheckPlan."""
    run = estimate_request(spec, dataset_profile=dataset_profile, evaluation_profile=evaluation_profile, pinned=pinned)
    return check_plan_pb2.CheckPlanRequest(run=run, policy=coerced(check_plan_pb2.PlanPolicy, policy, prefix="policy"))


def prices_request(accelerator: str, provider: str, term: str | int, page_size: int) -> catalog_pb2.ListPricesRequest:
    """Request of ListPrices."""
    number = enum_number(catalog_pb2.PriceTerm, "PRICE_TERM_", term, "term")
    return catalog_pb2.ListPricesRequest(accelerator=accelerator, provider=provider, term=number, page_size=page_size)


def observation_request(observation: ObservationLike, request_id: str) -> calibration_pb2.ReportObservationRequest:
    """Request of ReportObservation; a retry of the call carries the same request id."""
    return calibration_pb2.ReportObservationRequest(
        observation=coerced(calibration_pb2.Observation, observation, prefix="observation"),
        request_id=request_id or new_request_id(),
    )


def job_request(
    spec: SpecLike | job_pb2.JobTemplate,
    *,
    display_name: str = "",
    kind: Kind = "TRAIN",
    limits: job_pb2.JobLimits | Mapping[str, Any] | None = None,
    deadline: datetime | None = None,
    suspended: bool = False,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    plan_digest: str = "",
    recommendation: recommendation_pb2.RecommendResponse | None = None,
) -> job_pb2.JobTemplate:
    """A job as CreateJob and ValidateJob take it. A whole JobRequest passes as it is."""
    if isinstance(spec, job_pb2.JobTemplate):
        return spec
    job = job_pb2.JobTemplate(
        display_name=display_name,
        kind=enum_number(job_pb2.JobKind, "JOB_KIND_", kind, "kind"),
        spec=coerced(run_spec_pb2.RunSpec, spec),
        limits=None if limits is None else coerced(job_pb2.JobLimits, limits, prefix="limits"),
        suspended=suspended,
        labels=labels or {},
        annotations=annotations or {},
        plan_digest=plan_digest,
        trace_context=trace_context(),
    )
    if deadline is not None:
        job.deadline.FromDatetime(deadline)
    if recommendation is not None:
        job.recommendation_json = json.dumps(to_json(recommendation), ensure_ascii=False, separators=(",", ":"))
        job.setting_sources.extend(recommendation.setting_sources)
    return job


def cancel_request(name: str, mode: Mode, request_id: str) -> trainer_pb2.CancelJobRequest:
    """Request of CancelJob."""
    number = enum_number(trainer_pb2.CancelMode, "CANCEL_MODE_", mode, "mode")
    return trainer_pb2.CancelJobRequest(name=name, mode=number, request_id=request_id)


def capacity_request(wait_for_rate: float) -> capacity_pb2.GetCapacityRequest:
    """Request of GetCapacity."""
    request = capacity_pb2.GetCapacityRequest()
    request.wait_for_rate.FromNanoseconds(round(wait_for_rate * 1e9))
    return request


def _profile(value: ProfileLike | None, prefix: str) -> training_data_pb2.DatasetProfile | None:
    return None if value is None else coerced(training_data_pb2.DatasetProfile, value, prefix=prefix)


def unknown_service(service: object) -> InvalidArgument:
    """The exception for a service that there is not."""
    text = f"no such service {service!r}; known are recommender, estimator, trainer"
    return InvalidArgument(f"service: {text}", reason="INVALID_REQUEST", violations=(Violation("service", text),))


def follow_of(
    name: str, *, after_seq: int, cursor: str, kinds: Sequence[str | int], min_level: str | int, heartbeat: float
) -> Follow:
    """A follower of a job's events from what a caller writes."""
    return Follow(
        name,
        after_seq=after_seq,
        cursor=cursor,
        kinds=event_kinds(kinds),
        min_level=enum_number(event_pb2.EventLevel, "EVENT_LEVEL_", min_level, "min_level"),
        heartbeat=heartbeat,
    )


def event_kinds(kinds: Sequence[str | int]) -> list[Any]:
    """Numbers of event kinds."""
    return [enum_number(event_pb2.EventKind, "EVENT_KIND_", kind, "kinds") for kind in kinds]


def last_events_request(name: str, last: int, kinds: Sequence[str | int]) -> event_log_pb2.ListEventsRequest:
    """Request of ListEvents for the newest events."""
    return event_log_pb2.ListEventsRequest(
        name=name, order=event_log_pb2.EVENT_ORDER_DESCENDING, page_size=last, kinds=event_kinds(kinds)
    )


def job_failed(job: job_pb2.Job, terminal: event_pb2.Terminal | None) -> JobFailed:
    """The exception for a job that ended without success."""
    ended = terminal or event_pb2.Terminal(state=job.state, error=job.error, failure_category=job.failure_category)
    cause = error_of_status(ended.error)
    word = job_pb2.JobState.Name(job.state).removeprefix("JOB_STATE_").lower()
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
