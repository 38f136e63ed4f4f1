# SPDX-License-Identifier: Apache-2.0
"""The page for operators: what it counts, and what it says of the service's health."""

import asyncio
import contextlib
import http.client
import socket
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from finetree_api.estimator.v1 import catalog_pb2
from finetree_api.trainer.v1 import event_log_pb2
from finetree_runtime.config.settings import SettingsError
from finetree_runtime.server.metrics import page as metrics_page
from finetree_runtime.server.metrics import prometheus
from finetree_runtime.server.service import serving
from held_port import held_port

WAIT = 60
OTHER = "127.0.0.2"
"""Another address of this machine: all of 127.0.0.0/8 is loopback."""


async def test_calls_are_counted_by_code_and_errors_by_reason(program, connect):
    port = held_port()
    async with serving(program.build(program.Settings(metrics_address=str(port)))) as address, connect(address) as one:
        await one.estimator.ListModels(catalog_pb2.ListModelsRequest(), timeout=WAIT)
        for prefix in ("missing", "crash"):
            with pytest.raises(grpc.aio.AioRpcError):
                await one.estimator.ListModels(catalog_pb2.ListModelsRequest(prefix=prefix), timeout=WAIT)
        watch = one.trainer.WatchJob(event_log_pb2.WatchJobRequest(name="deaf"), timeout=WAIT)
        await watch.read()
        page = await get(port, "/metrics")
        watch.cancel()
    labels = f'grpc_method="ListModels",grpc_service="{program.ESTIMATOR}"'
    unary = f'{labels},grpc_type="unary"'
    assert f"grpc_server_started_total{{{unary}}} 3.0" in page
    assert f'grpc_server_handled_total{{grpc_code="OK",{unary}}} 1.0' in page
    assert f'grpc_server_handled_total{{grpc_code="NOT_FOUND",{unary}}} 1.0' in page
    assert f"grpc_server_handling_seconds_count{{{unary}}} 3.0" in page
    assert f'finetree_call_errors_total{{{labels},reason="MODEL_NOT_FOUND"}} 1.0' in page
    assert f'finetree_call_errors_total{{{labels},reason="INTERNAL_ERROR"}} 1.0' in page
    assert 'finetree_calls{state="streams"} 1.0' in page
    assert 'finetree_calls{state="running"} 0.0' in page
    assert "process_open_fds " in page
    assert "_created" not in page


async def test_a_call_that_is_refused_on_arrival_is_counted_with_its_reason(program, connect):
    port = held_port()
    settings = program.Settings(metrics_address=str(port), max_running_calls=1, max_waiting_calls=0)
    async with serving(program.build(settings)) as address, connect(address) as one:
        held = one.estimator.ListModels(catalog_pb2.ListModelsRequest(prefix="hold"), timeout=WAIT)
        await until_page(port, 'finetree_calls{state="running"} 1.0')
        with pytest.raises(grpc.aio.AioRpcError):
            await one.estimator.ListModels(catalog_pb2.ListModelsRequest(), timeout=WAIT)
        page = await get(port, "/metrics")
        held.cancel()
    assert 'reason="SERVER_OVERLOADED"} 1.0' in page
    assert 'grpc_server_started_total{grpc_method="ListModels"' in page


async def test_readiness_and_liveness_are_told_apart(program):
    port = held_port()
    service = program.build(program.Settings(metrics_address=f"127.0.0.1:{port}"))
    async with serving(service):
        assert await get(port, "/healthz") == "alive\n"
        assert await get(port, "/readyz") == "ready\n"
        await service.end_readiness()
        assert await get(port, "/healthz") == "alive\n"
        assert await status(port, "/readyz") == 503
        assert await status(port, "/else") == 404
    assert service.ready is False


async def test_a_blocked_service_is_not_alive(program, monkeypatch):
    for module in (metrics_page, prometheus):
        monkeypatch.setattr(module, "READ_SECONDS", 0.2)
    port = held_port()
    async with serving(program.build(program.Settings(metrics_address=str(port)))):
        with ThreadPoolExecutor() as pool:
            # The loop waits for the answer, and so does not answer itself.
            assert pool.submit(fetch, port, "/healthz").result(WAIT)[0] == 503
            assert pool.submit(fetch, port, "/metrics").result(WAIT)[0] == 503
        assert await status(port, "/healthz") == 200


async def test_the_page_is_on_loopback_unless_told_otherwise(program):
    port = held_port()
    async with serving(program.build(program.Settings(metrics_address=f":{port}"))):
        with pytest.raises(OSError, match="refused"), socket.create_connection((OTHER, port), timeout=WAIT):
            pass


async def test_an_address_in_use_is_refused(program):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = program.Settings(metrics_address=f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(SettingsError, match="in use") as refused:
            async with serving(program.build(settings)):
                pass
    assert refused.value.reason == "ADDRESS_UNAVAILABLE"


async def test_two_services_of_a_process_have_pages_of_their_own(program, connect):
    ports = held_port(), held_port()
    first, second = (program.build(program.Settings(metrics_address=str(port))) for port in ports)
    async with serving(first) as address, serving(second), connect(address) as one:
        await one.estimator.ListModels(catalog_pb2.ListModelsRequest(), timeout=WAIT)
        pages = [await get(port, "/metrics") for port in ports]
    assert ["ListModels" in page for page in pages] == [True, False]


async def until_page(port, text):
    async with asyncio.timeout(WAIT):
        while text not in await get(port, "/metrics"):  # noqa: ASYNC110 - what is waited for is on a page
            await asyncio.sleep(0.02)


async def get(port, path):
    return (await ask(port, path))[1]


async def status(port, path):
    return (await ask(port, path))[0]


async def ask(port, path):
    return await asyncio.to_thread(fetch, port, path)


def fetch(port, path):
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
