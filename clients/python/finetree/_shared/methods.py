# SPDX-License-Identifier: Apache-2.0
"""Every rpc: its path, its messages and its deadline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from finetree_api.estimator.v1 import estimator_pb2 as estimator
from finetree_api.recommender.v1 import recommender_pb2 as recommender
from finetree_api.trainer.v1 import base_model_pb2 as base_model
from finetree_api.trainer.v1 import dataset_pb2 as dataset
from finetree_api.trainer.v1 import trainer_pb2 as trainer
from google.protobuf.message import Message

from finetree._shared.options import Service

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)

QUICK = 10.0
# A recommendation prices five methods, and creating a job resolves and prices its spec: they wait for another service.
ASKS_ANOTHER = 30.0
SEGMENT = 60.0


@dataclass(frozen=True, slots=True)
class Method(Generic[Q, R]):
    """An rpc. `timeout` is its default deadline in seconds; None: it streams, and silence is what ends it."""

    service: Service
    path: str
    request: type[Q]
    response: type[R]
    timeout: float | None


def _of(
    service: Service, name: str, request: type[Q], response: type[R], timeout: float | None = QUICK
) -> Method[Q, R]:
    path = f"/finetree_api.{service}.v1.{service.capitalize()}Service/{name}"
    return Method(service, path, request, response, timeout)


RECOMMEND = _of("recommender", "Recommend", recommender.RecommendRequest, recommender.RecommendResponse, ASKS_ANOTHER)
RENDER_DECISION_TREE = _of(
    "recommender",
    "RenderDecisionTree",
    recommender.RenderDecisionTreeRequest,
    recommender.RenderDecisionTreeResponse,
    ASKS_ANOTHER,
)
RENDER_FRONTIER = _of(
    "recommender",
    "RenderFrontier",
    recommender.RenderFrontierRequest,
    recommender.RenderFrontierResponse,
    ASKS_ANOTHER,
)
LIST_METHODS = _of("recommender", "ListMethods", recommender.ListMethodsRequest, recommender.ListMethodsResponse)
GET_METHOD = _of("recommender", "GetMethod", recommender.GetMethodRequest, recommender.GetMethodResponse)
LIST_POLICIES = _of("recommender", "ListPolicies", recommender.ListPoliciesRequest, recommender.ListPoliciesResponse)
GET_POLICY = _of("recommender", "GetPolicy", recommender.GetPolicyRequest, recommender.GetPolicyResponse)
RECOMMENDER_INFO = _of(
    "recommender", "GetServerInfo", recommender.GetServerInfoRequest, recommender.GetServerInfoResponse
)

ESTIMATE_RUN = _of("estimator", "EstimateRun", estimator.EstimateRunRequest, estimator.EstimateRunResponse)
BATCH_ESTIMATE = _of(
    "estimator", "BatchEstimateRuns", estimator.BatchEstimateRunsRequest, estimator.BatchEstimateRunsResponse, 30.0
)
LIST_MODELS = _of("estimator", "ListModels", estimator.ListModelsRequest, estimator.ListModelsResponse)
LIST_ACCELERATORS = _of(
    "estimator", "ListAccelerators", estimator.ListAcceleratorsRequest, estimator.ListAcceleratorsResponse
)
LIST_PRICES = _of("estimator", "ListPrices", estimator.ListPricesRequest, estimator.ListPricesResponse)
CHECK_PLAN = _of("estimator", "CheckPlan", estimator.CheckPlanRequest, estimator.CheckPlanResponse)
REPORT_OBSERVATION = _of(
    "estimator", "ReportObservation", estimator.ReportObservationRequest, estimator.ReportObservationResponse
)
GET_CALIBRATION = _of("estimator", "GetCalibration", estimator.GetCalibrationRequest, estimator.GetCalibrationResponse)
RESET_CALIBRATION = _of(
    "estimator", "ResetCalibration", estimator.ResetCalibrationRequest, estimator.ResetCalibrationResponse
)
ESTIMATOR_INFO = _of("estimator", "GetServerInfo", estimator.GetServerInfoRequest, estimator.GetServerInfoResponse)

CREATE_DATASET = _of("trainer", "CreateDataset", dataset.CreateDatasetRequest, dataset.CreateDatasetResponse)
WRITE_DATASET = _of("trainer", "WriteDataset", dataset.WriteDatasetRequest, dataset.WriteDatasetResponse, SEGMENT)
GET_DATASET = _of("trainer", "GetDataset", dataset.GetDatasetRequest, dataset.GetDatasetResponse)
LIST_DATASETS = _of("trainer", "ListDatasets", dataset.ListDatasetsRequest, dataset.ListDatasetsResponse)
DELETE_DATASET = _of("trainer", "DeleteDataset", dataset.DeleteDatasetRequest, dataset.DeleteDatasetResponse)
PREVIEW_DATASET = _of("trainer", "PreviewDataset", dataset.PreviewDatasetRequest, dataset.PreviewDatasetResponse)
LIST_BASE_MODELS = _of("trainer", "ListBaseModels", base_model.ListBaseModelsRequest, base_model.ListBaseModelsResponse)
GET_BASE_MODEL = _of("trainer", "GetBaseModel", base_model.GetBaseModelRequest, base_model.GetBaseModelResponse)
DELETE_BASE_MODEL = _of(
    "trainer", "DeleteBaseModel", base_model.DeleteBaseModelRequest, base_model.DeleteBaseModelResponse, SEGMENT
)
VALIDATE_JOB = _of("trainer", "ValidateJob", trainer.ValidateJobRequest, trainer.ValidateJobResponse, ASKS_ANOTHER)
CREATE_JOB = _of("trainer", "CreateJob", trainer.CreateJobRequest, trainer.CreateJobResponse, ASKS_ANOTHER)
GET_JOB = _of("trainer", "GetJob", trainer.GetJobRequest, trainer.GetJobResponse)
LIST_JOBS = _of("trainer", "ListJobs", trainer.ListJobsRequest, trainer.ListJobsResponse)
CANCEL_JOB = _of("trainer", "CancelJob", trainer.CancelJobRequest, trainer.CancelJobResponse)
WATCH_JOB = _of("trainer", "WatchJob", trainer.WatchJobRequest, trainer.WatchJobResponse, None)
LIST_EVENTS = _of("trainer", "ListEvents", trainer.ListEventsRequest, trainer.ListEventsResponse)
LIST_ARTIFACTS = _of("trainer", "ListArtifacts", trainer.ListArtifactsRequest, trainer.ListArtifactsResponse)
DOWNLOAD_ARTIFACT = _of(
    "trainer", "DownloadArtifact", trainer.DownloadArtifactRequest, trainer.DownloadArtifactResponse, None
)
GET_CAPACITY = _of("trainer", "GetCapacity", trainer.GetCapacityRequest, trainer.GetCapacityResponse)
TRAINER_INFO = _of("trainer", "GetServerInfo", trainer.GetServerInfoRequest, trainer.GetServerInfoResponse)
