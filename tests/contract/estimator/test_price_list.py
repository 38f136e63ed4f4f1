# SPDX-License-Identifier: Apache-2.0
import grpc
import pytest
from finetree_api.estimator.v1 import catalog_pb2
from finetree_estimator.catalog import price_book
from finetree_runtime.money import to_float, to_money


async def test_all_prices_are_listed_page_by_page_by_accelerator_and_price(stub):
    found, token = [], ""
    while True:
        reply = await stub.ListPrices(catalog_pb2.ListPricesRequest(page_size=5, page_token=token))
        assert 0 < len(reply.prices) <= 5
        found += reply.prices
        if not (token := reply.next_page_token):
            break

    whole = await stub.ListPrices(catalog_pb2.ListPricesRequest(page_size=1000))
    assert found == list(whole.prices)
    assert len(found) > 5
    order = [(price.accelerator, price.hourly_price.currency_code, to_float(price.hourly_price)) for price in found]
    assert order == sorted(order)


@pytest.mark.service_alone("catalog")
async def test_a_price_says_all_that_the_book_knows(stub):
    request = catalog_pb2.ListPricesRequest(accelerator="H100 SXM", provider="Nebius", term=catalog_pb2.PRICE_TERM_SPOT)
    reply = await stub.ListPrices(request)

    (price,) = reply.prices
    everything = await stub.ListPrices(catalog_pb2.ListPricesRequest(page_size=1000))
    assert len(everything.prices) == len(price_book.packaged().quotes)
    assert (price.price_id, price.accelerator, price.provider) == ("nebius/h100/spot/2025", "h100", "nebius")
    assert (price.region, price.term, price.min_count) == ("eu-north1", catalog_pb2.PRICE_TERM_SPOT, 1)
    assert price.hourly_price == to_money(1.25, "USD")
    assert "nebius@0082b0435" in price.provenance.source
    assert price.provenance.date == "2025"
    assert reply.price_book.sha256 == price_book.packaged().sha256


@pytest.mark.parametrize(
    "asked",
    [
        "A100-80gb",
        pytest.param("a100", marks=pytest.mark.service_alone("names")),
        pytest.param("NVIDIA A100-SXM4-80GB", marks=pytest.mark.service_alone("names")),
    ],
)
async def test_an_accelerator_may_be_named_in_any_way(stub, asked):
    reply = await stub.ListPrices(catalog_pb2.ListPricesRequest(accelerator=asked))

    assert {price.accelerator for price in reply.prices} == {"a100-80gb"}


async def test_a_listed_price_can_be_chosen(stub, request_of):
    reply = await stub.ListPrices(catalog_pb2.ListPricesRequest(accelerator="rtx-4090"))
    dearest = reply.prices[-1]
    chosen = {"ownership": {"rented": {"price_id": dearest.price_id}}}
    cost = (await stub.EstimateRun(request_of(chosen))).estimate.cost

    assert (cost.price_id, cost.hourly_price) == (dearest.price_id, dearest.hourly_price)


async def test_what_is_not_offered_gives_an_empty_list(stub):
    assert not (await stub.ListPrices(catalog_pb2.ListPricesRequest(provider="nobody"))).prices
    assert not (await stub.ListPrices(catalog_pb2.ListPricesRequest(accelerator="gtx-1080"))).prices


async def refusal(call, explain):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return explain(caught.value)


async def test_an_unknown_accelerator_is_not_found_and_the_nearest_are_named(stub, explain):
    found = await refusal(stub.ListPrices(catalog_pb2.ListPricesRequest(accelerator="rtx-4091")), explain)

    assert (found.code, found.reason) == (grpc.StatusCode.NOT_FOUND.value[0], "ACCELERATOR_NOT_FOUND")
    assert "rtx-4090" in found.message


async def test_a_token_of_another_selection_is_refused(stub, explain):
    token = (await stub.ListPrices(catalog_pb2.ListPricesRequest(page_size=1))).next_page_token

    for request in (
        catalog_pb2.ListPricesRequest(provider="vast", page_token=token),
        catalog_pb2.ListPricesRequest(term=catalog_pb2.PRICE_TERM_SPOT, page_token=token),
        catalog_pb2.ListPricesRequest(page_token="forged"),
    ):
        assert (await refusal(stub.ListPrices(request), explain)).reason == "PAGE_TOKEN_INVALID"


@pytest.mark.parametrize(
    ("request_", "field"),
    [(catalog_pb2.ListPricesRequest(term=9), "term"), (catalog_pb2.ListPricesRequest(page_size=-1), "page_size")],
)
async def test_a_malformed_request_is_refused(stub, explain, request_, field):
    found = await refusal(stub.ListPrices(request_), explain)

    assert (found.reason, found.fields) == ("INVALID_REQUEST", [field])
