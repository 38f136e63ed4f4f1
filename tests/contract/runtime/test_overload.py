# SPDX-License-Identifier: Apache-2.0
"""A server with more calls than it can answer: who is refused, how, and who is not kept out."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc
import pytest
from finetree_api.estimator.v1 import catalog_pb2
from finetree_api.trainer.v1 import event_log_pb2
from finetree_runtime.server.service import serving
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

WAIT = 60


def models(prefix=""):
    return catalog_pb2.ListModelsRequest(prefix=prefix)


def watching():
    return event_log_pb2.WatchJobRequest(name="deaf")


def refusal(error):
    """Code, reason and seconds of the RetryInfo of an error."""
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for packed in rpc_status.from_call(error).details:
        packed.Unpack(info)
        packed.Unpack(retry)
    return error.code().name, info.reason, retry.retry_delay.ToSeconds()


@pytest.fixture
def busy(program, connect):
    """A running service with few places: its clients and its estimator servicer."""

    @contextlib.asynccontextmanager
    async def start(**limits: int) -> AsyncIterator[tuple[object, object]]:
        service = program.build(program.Settings(drain_time=0.1, **limits))
        async with serving(service) as address, connect(address) as client:
            servicer = service.servicers[0][1]
            try:
                yield client, servicer
            finally:
                servicer.let_go.set()

    return start


async def outcome(call):
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error
    return None


async def begun(servicer, count):
    async with asyncio.timeout(WAIT):
        while len(servicer.begun) < count:  # noqa: ASYNC110 - the servicer has no event for each
            await asyncio.sleep(0.005)


async def test_calls_beyond_the_places_and_the_line_are_refused_while_those_are_taken(busy):
    async with busy(max_running_calls=2, max_waiting_calls=3) as (client, servicer):
        calls = [asyncio.ensure_future(outcome(client.estimator.ListModels(models("hold")))) for _ in range(12)]
        ending = iter(asyncio.as_completed(calls, timeout=WAIT))
        for _ in range(7):
            assert refusal(await next(ending)) == ("RESOURCE_EXHAUSTED", "SERVER_OVERLOADED", 1)
        assert servicer.begun == ["hold"] * 2
        servicer.let_go.set()
        ended = await asyncio.wait_for(asyncio.gather(*calls), WAIT)
        assert sum(error is None for error in ended) == 5
        # The places are free again.
        await client.estimator.ListModels(models(), timeout=WAIT)


async def test_a_refusal_carries_what_every_reply_carries(busy):
    async with busy(max_running_calls=1, max_waiting_calls=0) as (client, servicer):
        held = client.estimator.ListModels(models("hold"))
        await begun(servicer, 1)
        call = client.estimator.ListModels(models(), metadata=(("x-request-id", "mine"),), timeout=WAIT)
        error = await outcome(call)
        trailers = dict(error.trailing_metadata())
        assert refusal(error)[1] == "SERVER_OVERLOADED"
        assert (trailers["x-request-id"], trailers["finetree-server-version"]) == ("mine", "1.2.3")
        assert trailers["grpc-retry-pushback-ms"] == "1000"
        servicer.let_go.set()
        await held


async def test_health_and_streams_have_places_of_their_own(busy):
    async with busy(max_running_calls=1, max_waiting_calls=0, max_streams=2) as (client, servicer):
        held = client.estimator.ListModels(models("hold"))
        await begun(servicer, 1)
        health = health_pb2_grpc.HealthStub(client.channel)
        streams = [client.trainer.WatchJob(watching(), timeout=WAIT) for _ in range(2)]
        for stream in streams:
            await stream.read()
        one_more = await outcome(client.trainer.WatchJob(watching(), timeout=WAIT).read())
        assert refusal(one_more)[:2] == ("RESOURCE_EXHAUSTED", "TOO_MANY_STREAMS")
        for _ in range(20):
            await health.Check(health_pb2.HealthCheckRequest(), timeout=WAIT)
        servicer.let_go.set()
        await held
        await client.estimator.ListModels(models(), timeout=WAIT)
        for stream in streams:
            stream.cancel()


async def test_a_call_whose_deadline_passes_in_the_line_is_never_begun(busy, capfd):
    async with busy(max_running_calls=1, max_waiting_calls=8) as (client, servicer):
        held = client.estimator.ListModels(models("hold"))
        await begun(servicer, 1)
        late = await outcome(client.estimator.ListModels(models("hold"), timeout=0.1))
        assert late.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        # The service counts from when the call came: for a moment the deadline has passed for its client alone.
        async with asyncio.timeout(WAIT):
            while "DEADLINE_EXCEEDED" not in capfd.readouterr().err:  # noqa: ASYNC110 - its log is all that tells
                await asyncio.sleep(0.005)
        servicer.let_go.set()
        await held
        await client.estimator.ListModels(models("hold"), timeout=WAIT)
        assert servicer.begun == ["hold"] * 2


async def test_a_call_that_only_waits_gives_its_place_to_others(busy):
    async with busy(max_running_calls=1, max_waiting_calls=0, max_streams=1) as (client, servicer):
        waits = client.estimator.ListModels(models("wait"))
        await begun(servicer, 1)
        await client.estimator.ListModels(models(), timeout=WAIT)
        # It counts as a stream instead, and so would another one.
        for call in (client.estimator.ListModels(models("wait")), client.trainer.WatchJob(watching()).read()):
            assert refusal(await outcome(call))[1] == "TOO_MANY_STREAMS"
        servicer.let_go.set()
        await waits
        await client.estimator.ListModels(models("wait"), timeout=WAIT)


async def test_clients_that_go_away_leave_no_place_taken(busy):
    async with busy(max_running_calls=2, max_waiting_calls=16) as (client, servicer):
        for _ in range(5):
            calls = [client.estimator.ListModels(models("hold")) for _ in range(12)]
            before = len(servicer.begun)
            await begun(servicer, before + 1)
            for call in calls:
                call.cancel()
            await asyncio.gather(*map(outcome_or_cancelled, calls))
        servicer.let_go.set()
        ended = await asyncio.gather(
            *(outcome(client.estimator.ListModels(models("hold"), timeout=WAIT)) for _ in range(16))
        )
        assert ended == [None] * 16


async def outcome_or_cancelled(call):
    with contextlib.suppress(asyncio.CancelledError):
        await outcome(call)
