# SPDX-License-Identifier: Apache-2.0
"""Calls as spans, at a collector of OpenTelemetry, and the ids of a trace in the log."""

import json
import subprocess
import sys

import grpc
import pytest
from finetree_api.estimator.v1 import catalog_pb2
from finetree_api.trainer.v1 import event_log_pb2
from finetree_runtime.server.service import serving

WAIT = 60
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CALLER = (("traceparent", f"00-{TRACE}-{SPAN}-01"),)
SERVER = 2
ERROR = 2


async def test_a_call_is_a_span_of_its_callers_trace(program, connect, collector, otlp, capsys):
    async with serving(program.build(program.Settings())) as address, connect(address) as one:
        await one.estimator.ListModels(catalog_pb2.ListModelsRequest(), timeout=WAIT, metadata=CALLER)
    (span,) = collector.spans
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, SPAN)
    assert (span.name, span.kind) == (f"{program.ESTIMATOR}/ListModels", SERVER)
    found = otlp.attributes(span)
    assert found["rpc.response.status_code"] == "OK"
    assert found["finetree.principal.kind"] == "local"
    assert found["finetree.project"] == "default"
    assert collector.services == {"probe"}
    line = calls(capsys)[0]
    assert (line["trace_id"], line["span_id"]) == (TRACE, span.span_id.hex())


def calls(capsys):
    """Lines of calls in the log."""
    return [json.loads(line) for line in capsys.readouterr().err.splitlines() if '"rpc"' in line]


async def test_an_error_of_the_server_is_one_and_its_text_stays_here(program, connect, collector, otlp):
    async with serving(program.build(program.Settings())) as address, connect(address) as one:
        for prefix in ("crash", "missing"):
            with pytest.raises(grpc.aio.AioRpcError):
                await one.estimator.ListModels(catalog_pb2.ListModelsRequest(prefix=prefix), timeout=WAIT)
        watch = one.trainer.WatchJob(event_log_pb2.WatchJobRequest(name="crash"), timeout=WAIT)
        with pytest.raises(grpc.aio.AioRpcError):
            _ = [reply async for reply in watch]
    shown = [(otlp.attributes(span)["rpc.response.status_code"], span.status.code == ERROR) for span in collector.spans]
    assert sorted(shown) == [("INTERNAL", True), ("INTERNAL", True), ("NOT_FOUND", False)]
    assert program.SECRET not in str(collector.spans)


async def test_a_trace_that_its_caller_does_not_record_is_not(program, connect, collector):
    quiet = (("traceparent", f"00-{TRACE}-{SPAN}-00"),)
    async with serving(program.build(program.Settings())) as address, connect(address) as one:
        await one.estimator.ListModels(catalog_pb2.ListModelsRequest(), timeout=WAIT, metadata=quiet)
    assert collector.spans == []


async def test_what_a_service_asks_of_another_one_is_in_the_same_trace(program, connect, collector):
    """The SDK sends the current span, which is the call's own."""
    async with serving(program.build(program.Settings())) as address, connect(address) as one:
        request = catalog_pb2.ListModelsRequest(prefix="trace")
        reply = await one.estimator.ListModels(request, timeout=WAIT, metadata=CALLER)
    (span,) = collector.spans
    assert reply.next_page_token == f"00-{TRACE}-{span.span_id.hex()}-01"


async def test_without_a_collector_the_log_has_the_callers_ids(program, connect, capsys):
    async with serving(program.build(program.Settings())) as address, connect(address) as one:
        await one.estimator.ListModels(catalog_pb2.ListModelsRequest(), timeout=WAIT, metadata=CALLER)
        await one.estimator.ListModels(catalog_pb2.ListModelsRequest(), timeout=WAIT)
    first, second = calls(capsys)
    assert (first["trace_id"], first["span_id"]) == (TRACE, SPAN)
    assert "trace_id" not in second


def test_a_service_that_is_not_asked_for_traces_loads_nothing_of_them():
    code = (
        "import sys; from finetree_runtime.server import service; from finetree_runtime.server.tracing import otlp\n"
        "assert otlp.tracing_of('a', '1', {}) is None\n"
        "on = {'OTEL_EXPORTER_OTLP_ENDPOINT': 'x'}\n"
        "assert otlp.tracing_of('a', '1', on | {'OTEL_SDK_DISABLED': 'true'}) is None\n"
        "assert otlp.tracing_of('a', '1', on | {'OTEL_TRACES_EXPORTER': 'none'}) is None\n"
        "assert not [name for name in sys.modules if name.startswith(('opentelemetry', 'prometheus'))]\n"
        "sys.modules['opentelemetry'] = None\n"
        "assert otlp.tracing_of('a', '1', on) is None"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "finetree-runtime[otel]" in ended.stderr
