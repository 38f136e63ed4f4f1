# SPDX-License-Identifier: Apache-2.0
import grpc
import pytest
from finetree_api.estimator.v1 import catalog_pb2, estimator_pb2
from finetree_runtime.money import to_float


async def test_all_models_are_listed_page_by_page_in_order(stub):
    names, token = [], ""
    while True:
        reply = await stub.ListModels(catalog_pb2.ListModelsRequest(page_size=7, page_token=token))
        assert 0 < len(reply.models) <= 7
        names += [model.name for model in reply.models]
        if not (token := reply.next_page_token):
            break

    whole = await stub.ListModels(catalog_pb2.ListModelsRequest(page_size=1000))
    assert names == [model.name for model in whole.models] == sorted(names)
    assert len(names) > 7


@pytest.mark.parametrize("prefix", ["smollm2-135", "SmolLM2-135", "HuggingFaceTB/SmolLM2-135M"])
async def test_a_prefix_finds_names_and_hub_ids_in_any_case(stub, prefix):
    reply = await stub.ListModels(catalog_pb2.ListModelsRequest(prefix=prefix))

    (model,) = reply.models
    assert (model.name, model.hub_id) == ("smollm2-135m-instruct", "HuggingFaceTB/SmolLM2-135M-Instruct")
    assert model.parameters == model.active_parameters == 134_515_008
    assert (model.shape.layers, model.shape.kv_heads, model.shape.tied_embeddings) == (30, 3, True)
    assert model.provenance.source


async def test_a_family_is_a_prefix_too(stub):
    reply = await stub.ListModels(catalog_pb2.ListModelsRequest(prefix="smollm2"))

    assert reply.models
    assert {model.family for model in reply.models} == {"smollm2"}


@pytest.mark.service_alone("catalog")
async def test_the_catalog_has_the_models_that_people_train(stub):
    listed = (await stub.ListModels(catalog_pb2.ListModelsRequest(page_size=1000))).models

    assert len(listed) >= 25
    assert sum(model.family == "qwen3" for model in listed) >= 5


async def test_a_model_that_is_listed_can_be_estimated_by_shape(stub, request_of):
    (model,) = (await stub.ListModels(catalog_pb2.ListModelsRequest(prefix="llama-3.2-1b"))).models
    named = request_of({"model": {"name": model.name}})
    shaped = request_of()
    shaped.spec.model.shape.CopyFrom(model.shape)

    one, other = [(await stub.EstimateRun(request)).estimate for request in (named, shaped)]
    assert one.memory == other.memory
    assert one.total_parameters == other.total_parameters == model.parameters


@pytest.mark.service_alone("catalog")
async def test_accelerators_come_with_memory_speed_and_price(stub):
    card = (await stub.ListAccelerators(catalog_pb2.ListAcceleratorsRequest(prefix="RTX-4090"))).accelerators[0]

    assert (card.marketed_memory_gb, card.compute_capability, card.native_bf16) == (24, "8.9", True)
    assert 23 * 2**30 < card.usable_bytes < 24 * 2**30
    assert card.dense_flops_per_second == pytest.approx(165.2e12)
    assert to_float(card.typical_hourly_price) == pytest.approx(0.535)
    assert card.typical_hourly_price.currency_code == "USD"
    assert (card.name, card.native_int8, card.watts, card.unsupported) == ("rtx-4090", True, 450, "")
    assert card.provenance.source


async def test_an_accelerator_that_is_not_supported_is_listed_with_the_reason(stub):
    reply = await stub.ListAccelerators(catalog_pb2.ListAcceleratorsRequest(prefix="mi300x"))

    assert [(card.name, card.unsupported) for card in reply.accelerators] == [("mi300x", "ROCm is not supported yet")]


async def test_an_unknown_prefix_gives_an_empty_page(stub):
    reply = await stub.ListAccelerators(catalog_pb2.ListAcceleratorsRequest(prefix="zx"))

    assert not reply.accelerators
    assert reply.next_page_token == ""


async def test_a_token_of_another_list_is_refused(stub, explain):
    token = (await stub.ListModels(catalog_pb2.ListModelsRequest(page_size=1))).next_page_token

    for call, request in (
        (stub.ListAccelerators, catalog_pb2.ListAcceleratorsRequest(page_token=token)),
        (stub.ListModels, catalog_pb2.ListModelsRequest(prefix="qwen", page_token=token)),
        (stub.ListModels, catalog_pb2.ListModelsRequest(page_token="forged")),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(request)
        assert explain(caught.value).reason == "PAGE_TOKEN_INVALID"


async def test_a_page_has_at_most_a_thousand_entries(stub, explain):
    for size in (-1, 1001):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ListModels(catalog_pb2.ListModelsRequest(page_size=size))
        assert explain(caught.value).fields == ["page_size"]


async def test_the_server_says_what_it_is(stub, request_of):
    info = await stub.GetServerInfo(estimator_pb2.GetServerInfoRequest())

    assert info.server.service == "finetree-estimator"
    assert list(info.server.api_revisions) == ["v1"]
    assert info.server.limits["max_batch_rows"] == 1000
    assert info.revision == (await stub.EstimateRun(request_of())).estimate.revision
