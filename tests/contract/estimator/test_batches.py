# SPDX-License-Identifier: Apache-2.0
"""Batches of estimates, and bytes that are no request."""

import grpc
import pytest
from finetree_api.estimator.v1 import estimator_pb2
from finetree_estimator.servicer import SERVICE


async def test_a_batch_answers_row_by_row(stub, request_of, explain):
    rows = [
        estimator_pb2.BatchEstimateRow(key="good", request=request_of()),
        estimator_pb2.BatchEstimateRow(key="unknown", request=request_of({"model": {"name": "nope"}})),
        estimator_pb2.BatchEstimateRow(key="invalid", request=request_of({"lora": {"rank": -1}})),
        estimator_pb2.BatchEstimateRow(key="empty"),
    ]
    reply = await stub.BatchEstimateRuns(estimator_pb2.BatchEstimateRunsRequest(rows=rows))

    assert [result.key for result in reply.results] == ["good", "unknown", "invalid", "empty"]
    assert reply.results[0].estimate == (await stub.EstimateRun(rows[0].request)).estimate
    errors = [explain(result.error) for result in reply.results[1:]]
    assert [error.reason for error in errors] == ["MODEL_NOT_FOUND", "INVALID_REQUEST", "INVALID_REQUEST"]
    assert errors[1].fields == ["rows[2].request.spec.lora.rank"]
    assert errors[2].fields == ["rows[3].request.spec"]


async def test_what_was_answered_before_is_answered_the_same_alone_and_in_a_batch(stub, request_of):
    request = request_of()
    row = estimator_pb2.BatchEstimateRow(key="a", request=request)
    first = (await stub.EstimateRun(request)).estimate
    (in_batch,) = (await stub.BatchEstimateRuns(estimator_pb2.BatchEstimateRunsRequest(rows=[row]))).results
    again = (await stub.EstimateRun(request)).estimate
    assert first == again == in_batch.estimate
    assert in_batch.key == "a"


@pytest.mark.parametrize("method", ["EstimateRun", "BatchEstimateRuns"])
async def test_bytes_that_are_no_request_are_refused(channel, explain, method):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary(f"/{SERVICE}/{method}")(b"\xff\xff\xff")
    assert explain(caught.value).reason == "MALFORMED_REQUEST"


async def test_a_batch_has_at_most_a_thousand_rows_with_different_keys(stub, explain):
    twice = [
        estimator_pb2.BatchEstimateRow(key="a"),
        estimator_pb2.BatchEstimateRow(key="b"),
        estimator_pb2.BatchEstimateRow(key="a"),
    ]
    many = [estimator_pb2.BatchEstimateRow(key=str(number)) for number in range(1001)]

    for rows, field in ((twice, "rows[2].key"), (many, "rows"), ([], "rows")):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.BatchEstimateRuns(estimator_pb2.BatchEstimateRunsRequest(rows=rows))
        found = explain(caught.value)
        assert (found.reason, found.fields) == ("INVALID_REQUEST", [field])


async def test_a_full_batch_is_answered(stub, request_of):
    rows = [estimator_pb2.BatchEstimateRow(key=str(number), request=request_of()) for number in range(1000)]
    reply = await stub.BatchEstimateRuns(estimator_pb2.BatchEstimateRunsRequest(rows=rows))

    assert len(reply.results) == 1000
    assert all(result.HasField("estimate") for result in reply.results)
