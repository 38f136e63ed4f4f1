# SPDX-License-Identifier: Apache-2.0
"""What a client knows of its servers."""

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import finetree
import pytest
from finetree_api.estimator.v1 import estimate_pb2
from finetree_api.trainer.v1 import dataset_pb2, trainer_pb2
from finetree_api.types.v1 import run_spec_pb2


@pytest.mark.parametrize("service", ["recommender", "estimator", "trainer"])
def test_server_info(do, service):
    info = do(do.client().server_info(service))
    assert (info.service, info.version) == (f"finetree-{service}", finetree.__version__)


def test_a_service_that_there_is_not(do):
    with pytest.raises(finetree.InvalidArgument, match="known are recommender, estimator, trainer"):
        do(do.client().server_info("console"))


def test_raw_stubs_are_typed_and_share_the_channel(do):
    client = do.client()
    request = estimate_pb2.EstimateRunRequest(
        spec=run_spec_pb2.RunSpec(model={"name": "tiny"}, lora={}, hardware={"accelerator": "rtx-4090"})
    )

    async def call() -> Any:
        return client.raw.trainer, client.raw.recommender, await client.raw.estimator.EstimateRun(request)

    def call_now() -> Any:
        return client.raw.trainer, client.raw.recommender, client.raw.estimator.EstimateRun(request)

    trainer, recommender, response = do(call() if do.aio else call_now())
    assert response.estimate.total_parameters == 1_000_000
    assert hasattr(trainer, "WatchJob")
    assert hasattr(recommender, "Recommend")


def test_any_unary_rpc_can_be_called_by_its_path(do):
    client = do.client()
    request = estimate_pb2.EstimateRunRequest(
        spec=run_spec_pb2.RunSpec(model={"name": "tiny"}, lora={}, hardware={"accelerator": "rtx-4090"})
    )
    answer = do(client.call("/finetree_api.estimator.v1.EstimatorService/EstimateRun", request))
    assert answer.estimate.total_parameters == 1_000_000
    with pytest.raises(finetree.NotFound) as caught:
        do(client.call("/finetree_api.trainer.v1.TrainerService/GetJob", trainer_pb2.GetJobRequest(name="none")))
    assert caught.value.reason == "JOB_NOT_FOUND"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/finetree_api.trainer.v1.TrainerService/WatchJob", "is no unary rpc"),
        ("/finetree_api.trainer.v1.TrainerService/WriteDataset", "is no unary rpc"),
        ("TrainerService/GetTea", "is no unary rpc"),
        ("/finetree_api.trainer.v1.TrainerService/ListJobs", "takes a ListJobsRequest, not a GetJobRequest"),
    ],
)
def test_a_path_or_a_request_that_does_not_fit_is_refused(do, path, text):
    with pytest.raises(finetree.InvalidArgument, match=text):
        do(do.client().call(path, trainer_pb2.GetJobRequest(name="none")))


def test_an_rpc_that_takes_a_stream_is_called_with_its_messages(do):
    client = do.client()
    data = b'{"text": "a"}\n'
    created = dataset_pb2.CreateDatasetRequest(size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    name = do(client.call("/finetree_api.trainer.v1.TrainerService/CreateDataset", created)).dataset.name
    pieces = [
        dataset_pb2.WriteDatasetRequest(name=name, data=data[:5]),
        dataset_pb2.WriteDatasetRequest(offset=5, data=data[5:]),
    ]

    async def sent() -> AsyncIterator[dataset_pb2.WriteDatasetRequest]:
        for piece in pieces:
            yield piece

    path = "/finetree_api.trainer.v1.TrainerService/WriteDataset"
    answer = do(client.call(path, sent() if do.aio else iter(pieces)))
    assert answer.dataset.state == dataset_pb2.DATASET_STATE_READY
    with pytest.raises(finetree.InvalidArgument, match="takes a stream of messages"):
        do(client.call("/finetree_api.trainer.v1.TrainerService/GetJob", sent() if do.aio else iter(pieces)))
