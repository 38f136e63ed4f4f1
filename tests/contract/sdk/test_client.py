# SPDX-License-Identifier: Apache-2.0
"""What a client knows of its servers."""

from typing import Any

import finetree
import pytest
from finetree_api.estimator.v1 import estimate_pb2
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
