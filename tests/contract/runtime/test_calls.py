# SPDX-License-Identifier: Apache-2.0
"""What the runtime does around a handler, seen by a client of a real server."""

import asyncio
import json
import time
import uuid

import grpc
import pytest
from finetree_api.estimator.v1 import catalog_pb2, estimate_pb2, estimator_pb2
from finetree_api.trainer.v1 import dataset_pb2, event_log_pb2
from finetree_runtime import errors
from finetree_runtime.server import context
from finetree_runtime.server.access.roles import Grants, Role
from finetree_runtime.server.service import serving
from google.rpc import error_details_pb2
from grpc_status import rpc_status

WAIT = 60  # no call of these tests takes long; a hang becomes DEADLINE_EXCEEDED


def models(prefix=""):
    return catalog_pb2.ListModelsRequest(prefix=prefix)


async def failure(call):
    """The error of a call, its status and its details by type."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    error = caught.value
    details = {}
    for packed in rpc_status.from_call(error).details:
        for kind in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo):
            if packed.Is(kind.DESCRIPTOR):
                details[kind.__name__] = message = kind()
                packed.Unpack(message)
    return error, details


def log_lines(capsys):
    return [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]


async def test_a_refusal_arrives_with_code_reason_and_metadata(program, connect):
    async with serving(program.build(program.Settings())) as address, connect(address) as client:
        error, details = await failure(client.estimator.ListModels(models("missing"), timeout=WAIT))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert error.details() == "no such model: see ListModels"
    info = details["ErrorInfo"]
    assert (info.reason, info.domain, dict(info.metadata)) == ("MODEL_NOT_FOUND", "finetree", {"model": "x"})


async def test_a_retry_delay_arrives_for_programs_and_for_grpc_itself(program, connect):
    async with serving(program.build(program.Settings())) as address, connect(address) as client:
        error, details = await failure(client.estimator.ListModels(models("busy"), timeout=WAIT))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert details["RetryInfo"].retry_delay.ToMilliseconds() == 1500
    assert dict(error.trailing_metadata())["grpc-retry-pushback-ms"] == "1500"


@pytest.mark.parametrize("kind", ["unary", "stream"])
async def test_an_unexpected_error_tells_the_client_an_id_and_the_log_the_cause(program, connect, capsys, kind):
    async with serving(program.build(program.Settings())) as address, connect(address) as client:
        if kind == "unary":
            call = client.estimator.ListModels(models("crash"), timeout=WAIT)
        else:
            stream = client.trainer.WatchJob(event_log_pb2.WatchJobRequest(name="crash"), timeout=WAIT)
            assert await stream.read() == event_log_pb2.WatchJobResponse()
            call = stream.read()
        error, details = await failure(call)
    assert error.code() is grpc.StatusCode.INTERNAL
    assert details["ErrorInfo"].reason == "INTERNAL_ERROR"
    seen = f"{error!r} {error.details()} {error.trailing_metadata()} {error.debug_error_string()}"
    assert "swordfish" not in seen
    assert "RuntimeError" not in seen
    error_id = details["ErrorInfo"].metadata["error_id"]
    lines = [line for line in log_lines(capsys) if line.get("error_id") == error_id]
    assert [line["event"] for line in lines] == ["unexpected_error", "rpc"]
    assert "swordfish" in lines[0]["exception"]


async def test_a_broken_rule_is_named_with_its_field(program, connect):
    async with serving(program.build(program.Settings())) as address, connect(address) as client:
        request = estimate_pb2.EstimateRunRequest()
        request.spec.model.name = "m"
        request.spec.lora.rank = 5000
        error, details = await failure(client.estimator.EstimateRun(request, timeout=WAIT))
        request.spec.lora.rank = 8
        await client.estimator.EstimateRun(request, timeout=WAIT)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details["ErrorInfo"].reason == "INVALID_REQUEST"
    (violation,) = details["BadRequest"].field_violations
    assert violation.field == "spec.lora.rank"
    assert "4096" in violation.description
    assert error.details() == f"spec.lora.rank: {violation.description}"


async def test_200_violations_arrive_as_32_in_4_kib(program, connect):
    rows = [estimator_pb2.BatchEstimateRow(key="k" * 200) for _ in range(200)]
    async with serving(program.build(program.Settings())) as address, connect(address) as client:
        request = estimator_pb2.BatchEstimateRunsRequest(rows=rows)
        error, details = await failure(client.estimator.BatchEstimateRuns(request, timeout=WAIT))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert len(details["BadRequest"].field_violations) == errors.MAX_VIOLATIONS
    assert details["BadRequest"].field_violations[31].field == "rows[31].key"
    assert details["ErrorInfo"].metadata["violation_count"] == "200"
    assert rpc_status.from_call(error) is not None
    assert len(dict(error.trailing_metadata())["grpc-status-details-bin"]) <= 4096


async def test_a_row_of_a_batch_is_not_validated_with_its_envelope(program, connect):
    row = estimator_pb2.BatchEstimateRow(key="k", request=estimate_pb2.EstimateRunRequest())
    async with serving(program.build(program.Settings())) as address, connect(address) as client:
        await client.estimator.BatchEstimateRuns(estimator_pb2.BatchEstimateRunsRequest(rows=[row]), timeout=WAIT)


async def test_each_message_of_a_stream_is_validated(program, connect):
    good = dataset_pb2.WriteDatasetRequest(name="d", data=b"x")
    bad = dataset_pb2.WriteDatasetRequest(offset=-1)
    async with serving(program.build(program.Settings())) as address, connect(address) as client:
        reply = await client.trainer.WriteDataset(iter([good, good]), timeout=WAIT)
        assert reply.dataset.committed_bytes == 2
        error, details = await failure(client.trainer.WriteDataset(iter([good, bad]), timeout=WAIT))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details["BadRequest"].field_violations[0].field == "offset"


async def test_bytes_that_are_no_message_are_the_callers_fault(program, connect):
    async with serving(program.build(program.Settings())) as address, connect(address) as client:
        raw = client.channel.unary_unary(f"/{program.ESTIMATOR}/ListModels")
        error, details = await failure(raw(b"\xff\xff\xff", timeout=WAIT))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details["ErrorInfo"].reason == "MALFORMED_REQUEST"


async def test_a_unary_call_has_a_time_limit(program, connect):
    async with serving(program.build(program.Settings(max_call_time=0.2))) as address, connect(address) as client:
        error, details = await failure(client.estimator.ListPrices(catalog_pb2.ListPricesRequest(), timeout=WAIT))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert details["ErrorInfo"].reason == "CALL_TIME_LIMIT"


@pytest.mark.parametrize("prefix", ["", "missing", "crash"])
async def test_the_request_id_goes_round(program, connect, capsys, prefix):
    async with serving(program.build(program.Settings())) as address, connect(address) as client:
        call = client.estimator.ListModels(models(prefix), metadata=[("x-request-id", "ci-17")], timeout=WAIT)
        trailers = dict(await call.trailing_metadata())
        if not prefix:
            assert (await call).next_page_token == "ci-17"
    assert trailers["x-request-id"] == "ci-17"
    assert trailers["finetree-server-version"] == "1.2.3"
    (line,) = [line for line in log_lines(capsys) if line["event"] == "rpc"]
    assert line["request_id"] == "ci-17"
    assert line["method"] == f"/{program.ESTIMATOR}/ListModels"
    assert line["principal"] == "local"
    assert line["ms"] >= 0


@pytest.mark.parametrize("given", [None, "x" * 129, "two words"])
async def test_a_request_id_is_made_where_none_usable_is_given(program, connect, given):
    metadata = [] if given is None else [("x-request-id", given)]
    async with serving(program.build(program.Settings())) as address, connect(address) as client:
        call = client.estimator.ListModels(models(), metadata=metadata, timeout=WAIT)
        trailers = dict(await call.trailing_metadata())
        assert (await call).next_page_token == trailers["x-request-id"]
    assert uuid.UUID(trailers["x-request-id"]).version == 7


async def test_a_handler_adds_to_its_log_line(program, connect, capsys):
    async with serving(program.build(program.Settings())) as address, connect(address) as client:
        await client.estimator.ListModels(models("smol"), timeout=WAIT)
        await client.estimator.ListModels(models("state"), timeout=WAIT, wait_for_ready=True).code()
    first, second = [line for line in log_lines(capsys) if line["event"] == "rpc"]
    assert (first["prefix"], first["code"]) == ("smol", "OK")
    assert (second["reason"], second["code"]) == ("MODEL_NOT_PREPARED", "FAILED_PRECONDITION")
    assert "prefix" not in second


async def test_handlers_see_the_time_that_is_left(program, connect):
    async with serving(program.build(program.Settings())) as address, connect(address) as client:
        limited = await client.estimator.ListModels(models("remaining"), timeout=WAIT)
        unlimited = await client.estimator.ListModels(models("remaining"))
    assert 0 < float(limited.next_page_token) <= WAIT + 0.5
    assert unlimited.next_page_token == "none"
    assert context.remaining() is None


async def test_a_unary_call_without_a_deadline_has_the_servers(program, connect):
    async with serving(program.build(program.Settings(max_call_time=0.05))) as address, connect(address) as client:
        started = time.monotonic()
        error, details = await failure(asyncio.wait_for(client.estimator.ListModels(models("sleep")), WAIT))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert details["ErrorInfo"].reason == "CALL_TIME_LIMIT"
    assert time.monotonic() - started < WAIT


async def test_the_clients_deadline_ends_the_handler(program, connect, capsys):
    async with serving(program.build(program.Settings())) as address, connect(address) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.estimator.ListModels(models("sleep"), timeout=0.1)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    (line,) = [line for line in log_lines(capsys) if line["event"] == "rpc"]
    assert line["code"] == "DEADLINE_EXCEEDED"


async def test_a_cancelled_stream_closes_its_generator_at_once(program, connect, capsys):
    service = program.build(program.Settings())
    trainer = service.servicers[1][1]
    async with serving(service) as address, connect(address) as client:
        stream = client.trainer.WatchJob(event_log_pb2.WatchJobRequest(name="deaf"))
        await stream.read()
        stream.cancel()
        await asyncio.wait_for(trainer.closed.wait(), WAIT)
    (line,) = [line for line in log_lines(capsys) if line["event"] == "rpc"]
    assert line["code"] == "CANCELLED"


async def test_the_authenticator_decides_and_names_the_caller(program, connect, capsys):
    class Tokens:
        async def authenticate(self, method, metadata, peer) -> context.Principal:
            assert method.endswith("/ListModels")
            assert peer.address.startswith("ipv4:127.0.0.1:")
            if metadata.get("authorization") != "Bearer right":
                raise errors.Unauthenticated("TOKEN_INVALID", "give a valid bearer token")
            return context.Principal(name="ci", project="p1", grants=Grants({"p1": Role.ESTIMATE}))

    service = program.build(program.Settings())
    service.authenticator = Tokens()
    async with serving(service) as address, connect(address) as client:
        error, details = await failure(client.estimator.ListModels(models(), timeout=WAIT))
        await client.estimator.ListModels(models(), metadata=[("authorization", "Bearer right")], timeout=WAIT)
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert details["ErrorInfo"].reason == "TOKEN_INVALID"
    captured = capsys.readouterr().err
    assert "Bearer" not in captured
    assert [json.loads(line)["principal"] for line in captured.splitlines() if '"rpc"' in line] == ["unknown", "ci"]


async def test_a_request_over_the_size_limit_is_refused(program, connect):
    async with serving(program.build(program.Settings(max_request_bytes=1024))) as address, connect(address) as client:
        rows = [estimator_pb2.BatchEstimateRow(key=f"{i:0100}") for i in range(15)]
        request = estimator_pb2.BatchEstimateRunsRequest(rows=rows)
        assert 1024 < request.ByteSize() < 2048 + 1024
        error, details = await failure(client.estimator.BatchEstimateRuns(request, timeout=WAIT))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert details["ErrorInfo"].reason == "REQUEST_TOO_LARGE"
    assert details["ErrorInfo"].metadata["limit_bytes"] == "1024"


async def test_messages_of_a_stream_have_a_limit_of_their_own(program, connect):
    settings = program.Settings(max_request_bytes=1024, max_stream_message_bytes=4096)
    async with serving(program.build(settings)) as address, connect(address) as client:
        large = dataset_pb2.WriteDatasetRequest(name="d", data=b"x" * 3000)
        reply = await client.trainer.WriteDataset(iter([large]), timeout=WAIT)
        assert reply.dataset.committed_bytes == 1
