# SPDX-License-Identifier: Apache-2.0
"""The calls of the recommender and the estimator, over the wire."""

from typing import Any

import finetree
import pytest
from finetree_api.estimator.v1 import estimator_pb2
from finetree_api.recommender.v1 import recommender_pb2
from finetree_api.types.v1 import run_spec_pb2


def test_a_recommendation_can_be_priced_as_it_is(do, spec):
    client = do.client()
    answer = do(client.recommend({"model": spec["model"], "hardware": {"accelerator": "rtx-4090"}}))
    assert isinstance(answer, recommender_pb2.RecommendResponse)
    assert len(answer.methods) == 5
    estimate = do(client.estimate(answer.spec, view="FULL", dataset_profile={"examples": 5}))
    assert isinstance(estimate, estimator_pb2.Estimate)
    parts = sum(part.bytes.expected for part in estimate.memory.components)
    assert parts == estimate.memory.device_bytes.expected > 0


def test_messages_and_dicts_are_the_same_request(do):
    client = do.client()
    message = recommender_pb2.RecommendRequest(model={"name": "small"})
    assert do(client.recommend(message)) == do(client.recommend({"model": {"name": "small"}}))


def test_methods_by_name_and_number(do):
    client = do.client()
    cards = do(client.list_methods())
    assert len(cards) == 5
    assert do(client.get_method("qlora")).method == recommender_pb2.METHOD_QLORA
    assert do(client.get_method(recommender_pb2.METHOD_FULL)).method == recommender_pb2.METHOD_FULL
    with pytest.raises(finetree.InvalidArgument, match="known are full, lora, qlora, prefix, adapter"):
        do(client.get_method("magic"))


def test_a_row_that_fails_spoils_no_other(do, spec):
    rows = {
        "good": spec,
        "unknown": {"model": {"name": "nothing"}},
        "request": estimator_pb2.EstimateRunRequest(spec=run_spec_pb2.RunSpec(model={"name": "large"})),
    }
    results = do(do.client().estimate_batch(rows))
    assert list(results) == ["good", "unknown", "request"]
    assert isinstance(results["unknown"], finetree.NotFound)
    assert results["unknown"].reason == "MODEL_NOT_FOUND"
    assert results["request"].total_parameters == 7_000_000_000
    assert results["good"].total_parameters == 1_000_000


@pytest.mark.parametrize("page_size", [0, 1, 2, 3])
def test_pages_are_fetched_as_they_are_needed(do, suite, page_size):
    models = do.client().list_models(page_size=page_size)
    assert suite.faults.calls("ListModels") == []
    assert do.all(models, 1)[0].name == "large"
    assert len(suite.faults.calls("ListModels")) == 1
    assert [model.name for model in do.all(models)] == ["large", "small", "tiny"]
    assert [len(page) for page in do.all(models.pages())] == {0: [3], 1: [1, 1, 1], 2: [2, 1], 3: [3]}[page_size]


def test_prefixes(do):
    client = do.client()
    assert [model.name for model in do.all(client.list_models("t"))] == ["tiny"]
    assert [each.name for each in do.all(client.list_accelerators("rtx"))] == ["rtx-4090"]
    assert do.all(client.list_accelerators("zzz")) == []


@pytest.mark.parametrize("service", ["recommender", "estimator", "trainer"])
def test_server_info(do, service):
    info = do(do.client().server_info(service))
    assert (info.service, info.version) == (f"finetree-{service}", finetree.__version__)


def test_a_service_that_there_is_not(do):
    with pytest.raises(finetree.InvalidArgument, match="known are recommender, estimator, trainer"):
        do(do.client().server_info("console"))


def test_raw_stubs_are_typed_and_share_the_channel(do):
    client = do.client()
    request = estimator_pb2.EstimateRunRequest(spec=run_spec_pb2.RunSpec(model={"name": "tiny"}))

    async def call() -> Any:
        return client.raw.trainer, client.raw.recommender, await client.raw.estimator.EstimateRun(request)

    def call_now() -> Any:
        return client.raw.trainer, client.raw.recommender, client.raw.estimator.EstimateRun(request)

    trainer, recommender, response = do(call() if do.aio else call_now())
    assert response.estimate.total_parameters == 1_000_000
    assert hasattr(trainer, "WatchJob")
    assert hasattr(recommender, "Recommend")
