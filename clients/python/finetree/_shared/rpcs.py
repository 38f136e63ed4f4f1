# SPDX-License-Identifier: Apache-2.0
"""The rpcs of the three services: path, message types and default deadline of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from finetree_api.estimator.v1 import calibration_pb2, catalog_pb2, check_plan_pb2, estimate_pb2, estimator_pb2
from finetree_api.recommender.v1 import method_card_pb2, picture_pb2, recommendation_pb2, recommender_pb2, rule_pack_pb2
from finetree_api.recommender.v1 import serving_pb2 as recommender_serving_pb2
from finetree_api.trainer.v1 import (
    artifact_pb2,
    base_model_pb2,
    capacity_pb2,
    checkpoint_pb2,
    comparison_pb2,
    dataset_pb2,
    event_log_pb2,
    job_log_pb2,
    lifecycle_pb2,
    limits_pb2,
    metrics_pb2,
    retention_pb2,
    serving_pb2,
    sweep_pb2,
    trainer_pb2,
    waiting_pb2,
)
from google.protobuf.message import Message

from finetree.config.settings import Service
from finetree.errors import InvalidArgument, Violation

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)

QUICK = 10.0
"""Seconds of a call that one service answers by itself."""
ASKS_ANOTHER = 30.0
"""Seconds of a call whose service waits for another one, as a recommendation and a new job wait for the estimator."""
SEGMENT = 60.0
"""Seconds of a call that moves or deletes files, or reads the whole logs of jobs."""


@dataclass(frozen=True, slots=True)
class Rpc(Generic[Q, R]):
    """An rpc. `timeout` is its default deadline in seconds; None for streams, which end by silence.

    A `long` one stays open while nothing happens, so that a fork must not wait for it.
    """

    service: Service
    path: str
    request: type[Q]
    response: type[R]
    timeout: float | None
    long: bool = False


def _of(
    service: Service,
    name: str,
    request: type[Q],
    response: type[R],
    timeout: float | None = QUICK,
    *,
    long: bool = False,
) -> Rpc[Q, R]:
    path = f"/finetree_api.{service}.v1.{service.capitalize()}Service/{name}"
    return Rpc(service, path, request, response, timeout, long)


RECOMMEND = _of(
    "recommender", "Recommend", recommendation_pb2.RecommendRequest, recommendation_pb2.RecommendResponse, ASKS_ANOTHER
)
RENDER_DECISION_TREE = _of(
    "recommender",
    "RenderDecisionTree",
    picture_pb2.RenderDecisionTreeRequest,
    picture_pb2.RenderDecisionTreeResponse,
    ASKS_ANOTHER,
)
RENDER_FRONTIER = _of(
    "recommender", "RenderFrontier", picture_pb2.RenderFrontierRequest, picture_pb2.RenderFrontierResponse, ASKS_ANOTHER
)
LIST_METHODS = _of(
    "recommender", "ListMethods", method_card_pb2.ListMethodsRequest, method_card_pb2.ListMethodsResponse
)
GET_METHOD = _of("recommender", "GetMethod", method_card_pb2.GetMethodRequest, method_card_pb2.GetMethodResponse)
LIST_RULE_PACKS = _of(
    "recommender", "ListRulePacks", rule_pack_pb2.ListRulePacksRequest, rule_pack_pb2.ListRulePacksResponse
)
GET_RULE_PACK = _of("recommender", "GetRulePack", rule_pack_pb2.GetRulePackRequest, rule_pack_pb2.GetRulePackResponse)
CHECK_SERVING = _of(
    "recommender",
    "CheckServing",
    recommender_serving_pb2.CheckServingRequest,
    recommender_serving_pb2.CheckServingResponse,
    ASKS_ANOTHER,
)
RECOMMENDER_INFO = _of(
    "recommender", "GetServerInfo", recommender_pb2.GetServerInfoRequest, recommender_pb2.GetServerInfoResponse
)

ESTIMATE_RUN = _of("estimator", "EstimateRun", estimate_pb2.EstimateRunRequest, estimator_pb2.EstimateRunResponse)
BATCH_ESTIMATE_RUNS = _of(
    "estimator",
    "BatchEstimateRuns",
    estimator_pb2.BatchEstimateRunsRequest,
    estimator_pb2.BatchEstimateRunsResponse,
    ASKS_ANOTHER,
)
LIST_MODELS = _of("estimator", "ListModels", catalog_pb2.ListModelsRequest, catalog_pb2.ListModelsResponse)
LIST_ACCELERATORS = _of(
    "estimator", "ListAccelerators", catalog_pb2.ListAcceleratorsRequest, catalog_pb2.ListAcceleratorsResponse
)
LIST_PRICES = _of("estimator", "ListPrices", catalog_pb2.ListPricesRequest, catalog_pb2.ListPricesResponse)
CHECK_PLAN = _of("estimator", "CheckPlan", check_plan_pb2.CheckPlanRequest, check_plan_pb2.CheckPlanResponse)
REPORT_OBSERVATION = _of(
    "estimator",
    "ReportObservation",
    calibration_pb2.ReportObservationRequest,
    calibration_pb2.ReportObservationResponse,
)
GET_CALIBRATION = _of(
    "estimator", "GetCalibration", calibration_pb2.GetCalibrationRequest, calibration_pb2.GetCalibrationResponse
)
RESET_CALIBRATION = _of(
    "estimator", "ResetCalibration", calibration_pb2.ResetCalibrationRequest, calibration_pb2.ResetCalibrationResponse
)
ESTIMATOR_INFO = _of(
    "estimator", "GetServerInfo", estimator_pb2.GetServerInfoRequest, estimator_pb2.GetServerInfoResponse
)

CREATE_DATASET = _of("trainer", "CreateDataset", dataset_pb2.CreateDatasetRequest, dataset_pb2.CreateDatasetResponse)
WRITE_DATASET = _of(
    "trainer", "WriteDataset", dataset_pb2.WriteDatasetRequest, dataset_pb2.WriteDatasetResponse, SEGMENT
)
GET_DATASET = _of("trainer", "GetDataset", dataset_pb2.GetDatasetRequest, dataset_pb2.GetDatasetResponse)
LIST_DATASETS = _of("trainer", "ListDatasets", dataset_pb2.ListDatasetsRequest, dataset_pb2.ListDatasetsResponse)
DELETE_DATASET = _of("trainer", "DeleteDataset", dataset_pb2.DeleteDatasetRequest, dataset_pb2.DeleteDatasetResponse)
PREVIEW_DATASET = _of(
    "trainer", "PreviewDataset", dataset_pb2.PreviewDatasetRequest, dataset_pb2.PreviewDatasetResponse
)
LIST_BASE_MODELS = _of(
    "trainer", "ListBaseModels", base_model_pb2.ListBaseModelsRequest, base_model_pb2.ListBaseModelsResponse
)
GET_BASE_MODEL = _of("trainer", "GetBaseModel", base_model_pb2.GetBaseModelRequest, base_model_pb2.GetBaseModelResponse)
DELETE_BASE_MODEL = _of(
    "trainer", "DeleteBaseModel", base_model_pb2.DeleteBaseModelRequest, base_model_pb2.DeleteBaseModelResponse, SEGMENT
)
VALIDATE_JOB = _of(
    "trainer", "ValidateJob", trainer_pb2.ValidateJobRequest, trainer_pb2.ValidateJobResponse, ASKS_ANOTHER
)
CREATE_JOB = _of("trainer", "CreateJob", trainer_pb2.CreateJobRequest, trainer_pb2.CreateJobResponse, ASKS_ANOTHER)
GET_JOB = _of("trainer", "GetJob", trainer_pb2.GetJobRequest, trainer_pb2.GetJobResponse)
LIST_JOBS = _of("trainer", "ListJobs", trainer_pb2.ListJobsRequest, trainer_pb2.ListJobsResponse)
UPDATE_JOB = _of("trainer", "UpdateJob", trainer_pb2.UpdateJobRequest, trainer_pb2.UpdateJobResponse)
CANCEL_JOB = _of("trainer", "CancelJob", trainer_pb2.CancelJobRequest, trainer_pb2.CancelJobResponse)
PAUSE_JOB = _of("trainer", "PauseJob", lifecycle_pb2.PauseJobRequest, lifecycle_pb2.PauseJobResponse)
RESUME_JOB = _of("trainer", "ResumeJob", lifecycle_pb2.ResumeJobRequest, lifecycle_pb2.ResumeJobResponse)
MOVE_JOB = _of("trainer", "MoveJob", lifecycle_pb2.MoveJobRequest, lifecycle_pb2.MoveJobResponse)
DELETE_JOB = _of("trainer", "DeleteJob", retention_pb2.DeleteJobRequest, retention_pb2.DeleteJobResponse, SEGMENT)
GET_STORAGE = _of("trainer", "GetStorage", retention_pb2.GetStorageRequest, retention_pb2.GetStorageResponse, SEGMENT)
GET_LIMITS = _of("trainer", "GetLimits", limits_pb2.GetLimitsRequest, limits_pb2.GetLimitsResponse)
VALIDATE_SWEEP = _of(
    "trainer", "ValidateSweep", sweep_pb2.ValidateSweepRequest, sweep_pb2.ValidateSweepResponse, SEGMENT
)
CREATE_SWEEP = _of("trainer", "CreateSweep", sweep_pb2.CreateSweepRequest, sweep_pb2.CreateSweepResponse, SEGMENT)
GET_SWEEP = _of("trainer", "GetSweep", sweep_pb2.GetSweepRequest, sweep_pb2.GetSweepResponse)
LIST_SWEEPS = _of("trainer", "ListSweeps", sweep_pb2.ListSweepsRequest, sweep_pb2.ListSweepsResponse)
CANCEL_SWEEP = _of("trainer", "CancelSweep", sweep_pb2.CancelSweepRequest, sweep_pb2.CancelSweepResponse)
WATCH_JOB = _of("trainer", "WatchJob", event_log_pb2.WatchJobRequest, event_log_pb2.WatchJobResponse, None)
WATCH_JOBS = _of("trainer", "WatchJobs", waiting_pb2.WatchJobsRequest, waiting_pb2.WatchJobsResponse, None)
WAIT_JOB = _of("trainer", "WaitJob", waiting_pb2.WaitJobRequest, waiting_pb2.WaitJobResponse, ASKS_ANOTHER, long=True)
LIST_EVENTS = _of("trainer", "ListEvents", event_log_pb2.ListEventsRequest, event_log_pb2.ListEventsResponse)
QUERY_METRICS = _of(
    "trainer", "QueryMetrics", metrics_pb2.QueryMetricsRequest, metrics_pb2.QueryMetricsResponse, ASKS_ANOTHER
)
COMPARE_JOBS = _of(
    "trainer", "CompareJobs", comparison_pb2.CompareJobsRequest, comparison_pb2.CompareJobsResponse, SEGMENT
)
READ_JOB_LOG = _of("trainer", "ReadJobLog", job_log_pb2.ReadJobLogRequest, job_log_pb2.ReadJobLogResponse, None)
LIST_JOB_LOGS = _of("trainer", "ListJobLogs", job_log_pb2.ListJobLogsRequest, job_log_pb2.ListJobLogsResponse)
LIST_CHECKPOINTS = _of(
    "trainer", "ListCheckpoints", checkpoint_pb2.ListCheckpointsRequest, checkpoint_pb2.ListCheckpointsResponse
)
GET_CHECKPOINT = _of(
    "trainer", "GetCheckpoint", checkpoint_pb2.GetCheckpointRequest, checkpoint_pb2.GetCheckpointResponse, SEGMENT
)
UPDATE_CHECKPOINT = _of(
    "trainer", "UpdateCheckpoint", checkpoint_pb2.UpdateCheckpointRequest, checkpoint_pb2.UpdateCheckpointResponse
)
DELETE_CHECKPOINT = _of(
    "trainer",
    "DeleteCheckpoint",
    checkpoint_pb2.DeleteCheckpointRequest,
    checkpoint_pb2.DeleteCheckpointResponse,
    SEGMENT,
)
LIST_ARTIFACTS = _of("trainer", "ListArtifacts", artifact_pb2.ListArtifactsRequest, artifact_pb2.ListArtifactsResponse)
DOWNLOAD_ARTIFACT = _of(
    "trainer", "DownloadArtifact", artifact_pb2.DownloadArtifactRequest, artifact_pb2.DownloadArtifactResponse, None
)
GET_ARTIFACT_LINK = _of(
    "trainer", "GetArtifactLink", artifact_pb2.GetArtifactLinkRequest, artifact_pb2.GetArtifactLinkResponse
)
GENERATE = _of("trainer", "Generate", serving_pb2.GenerateRequest, serving_pb2.GenerateResponse, None)
LOAD_TARGET = _of("trainer", "LoadTarget", serving_pb2.LoadTargetRequest, serving_pb2.LoadTargetResponse, SEGMENT)
UNLOAD_TARGET = _of("trainer", "UnloadTarget", serving_pb2.UnloadTargetRequest, serving_pb2.UnloadTargetResponse)
LIST_TARGETS = _of("trainer", "ListTargets", serving_pb2.ListTargetsRequest, serving_pb2.ListTargetsResponse)
GET_CAPACITY = _of("trainer", "GetCapacity", capacity_pb2.GetCapacityRequest, capacity_pb2.GetCapacityResponse)
TRAINER_INFO = _of("trainer", "GetServerInfo", trainer_pb2.GetServerInfoRequest, trainer_pb2.GetServerInfoResponse)

BY_PATH = {value.path: value for value in tuple(globals().values()) if isinstance(value, Rpc)}
"""Every rpc by its path."""


def answered_once(path: str, request: object) -> Rpc[Any, Any]:
    """Find an rpc with a single answer by its path: a unary one for a message, else one that takes a stream.

    Raises:
        InvalidArgument: INVALID_OPTION: there is none, or it takes another message.
    """
    rpc = BY_PATH.get(path)
    kind = "unary rpc" if isinstance(request, Message) else "rpc that takes a stream of messages"
    if rpc is None or rpc.timeout is None or (rpc is WRITE_DATASET) == isinstance(request, Message):
        example = GET_JOB if isinstance(request, Message) else WRITE_DATASET
        raise _invalid("method", f"{path!r} is no {kind}, such as {example.path!r}")
    if isinstance(request, Message) and not isinstance(request, rpc.request):
        raise _invalid("request", f"{path} takes a {rpc.request.DESCRIPTOR.name}, not a {type(request).__name__}")
    return rpc


def _invalid(name: str, text: str) -> InvalidArgument:
    return InvalidArgument(f"{name}: {text}", reason="INVALID_OPTION", violations=(Violation(name, text),))
