# SPDX-License-Identifier: Apache-2.0
"""What a program sees of its calls: logs, interceptors, metadata of answers, and the trace that goes along."""

import logging
import sys
import types

import finetree
import grpc
import grpc.aio
import pytest
from finetree_api.trainer.v1 import event_log_pb2, trainer_pb2
from google.protobuf import duration_pb2


def test_calls_are_logged_without_secrets_and_without_handlers(do, suite, caplog):
    assert logging.getLogger("finetree").handlers == []
    client = do.client(token="geheim", tls=False)
    with caplog.at_level(logging.DEBUG, logger="finetree"):
        do(client.recommend({"model": {"name": "tiny"}}, request_id="mine"))
        with pytest.raises(finetree.NotFound):
            do(client.get_job("none"))
    (called, failed) = [record.getMessage() for record in caplog.records]
    assert "RecommenderService/Recommend: OK after " in called
    assert called.endswith("request mine")
    assert "TrainerService/GetJob: NOT_FOUND after " in failed
    assert {record.levelname for record in caplog.records} == {"DEBUG"}
    assert "geheim" not in caplog.text


def test_what_is_tried_again_is_logged(do, suite, caplog):
    suite.faults.fail_next("ListMethods", finetree.Unavailable("not now"))
    with caplog.at_level(logging.INFO, logger="finetree"):
        do(do.client().list_methods())
    (record,) = caplog.records
    assert "ListMethods is tried again in 0." in record.getMessage()
    assert "not now" in record.getMessage()


def test_a_watch_that_attaches_again_is_logged(do, suite, caplog, spec):
    suite.trainer.disconnect_after(4)
    with caplog.at_level(logging.INFO, logger="finetree"):
        job = do(do.client().create_job(spec))
        do.all(job.events())
    (record,) = caplog.records
    assert record.getMessage().startswith(f"events of {job.name} are asked for again in 0.")


class Count(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor, grpc.StreamUnaryClientInterceptor):
    """Notes the method of each call."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def note(self, details):
        method = details.method.decode() if isinstance(details.method, bytes) else details.method
        self.seen.append(method.rpartition("/")[2])

    def intercept_unary_unary(self, continuation, client_call_details, request):
        self.note(client_call_details)
        return continuation(client_call_details, request)

    def intercept_unary_stream(self, continuation, client_call_details, request):
        self.note(client_call_details)
        return continuation(client_call_details, request)

    def intercept_stream_unary(self, continuation, client_call_details, request_iterator):
        self.note(client_call_details)
        return continuation(client_call_details, request_iterator)


class CountUnary(grpc.aio.UnaryUnaryClientInterceptor):
    """Likewise, for grpc.aio, whose interceptors are of one kind each."""

    def __init__(self, count) -> None:
        self.count = count

    async def intercept_unary_unary(self, continuation, client_call_details, request):
        self.count.note(client_call_details)
        return await continuation(client_call_details, request)


class CountStream(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, count) -> None:
        self.count = count

    async def intercept_unary_stream(self, continuation, client_call_details, request):
        self.count.note(client_call_details)
        return await continuation(client_call_details, request)


class CountUpload(grpc.aio.StreamUnaryClientInterceptor):
    def __init__(self, count) -> None:
        self.count = count

    async def intercept_stream_unary(self, continuation, client_call_details, request_iterator):
        self.count.note(client_call_details)
        return await continuation(client_call_details, request_iterator)


def test_interceptors_see_every_attempt_of_every_kind_of_call(do, suite, spec, tmp_path):
    count = Count()
    suite.faults.fail_next("GetJob", finetree.Unavailable("not now"))
    client = do.client(interceptors=[CountUnary(count), CountStream(count), CountUpload(count)] if do.aio else [count])
    do(client.upload_dataset(b'{"prompt": "a", "completion": "b"}\n'))
    job = do(client.create_job(spec))
    do(job.wait())
    do(job.download(tmp_path))
    assert {"CreateDataset", "WriteDataset", "CreateJob", "WatchJob", "DownloadArtifact"} <= set(count.seen)
    assert count.seen.count("GetJob") == 2


def test_raw_stubs_send_the_clients_metadata_and_give_the_answers(suite):
    with suite.client(token="t", tls=False) as client:
        request = trainer_pb2.ListJobsRequest(parent="projects/default")
        response, call = client.raw.trainer.ListJobs.with_call(request, timeout=60)
        assert response.jobs == []
        assert dict(call.trailing_metadata())["finetree-server-version"] == finetree.__version__
        client.raw.trainer.ListJobs(request, timeout=60, metadata=(("x-request-id", "mine"),))
        first, second = suite.faults.calls("ListJobs")
        assert len(first.request_id) == 36
        assert second.request_id == "mine"


async def test_asynchronous_raw_stubs_too(suite, spec):
    async with suite.async_client(token="t", tls=False) as client:
        job = await client.create_job(spec)
        call = client.raw.trainer.GetJob(trainer_pb2.GetJobRequest(name=job.name), timeout=60)
        assert (await call).job.name == job.name
        assert dict(await call.trailing_metadata())["finetree-server-version"] == finetree.__version__
        request = event_log_pb2.WatchJobRequest(name=job.name, heartbeat=duration_pb2.Duration(seconds=1))
        batches = [batch async for batch in client.raw.trainer.WatchJob(request, timeout=60)]
        assert batches[-1].events[-1].HasField("terminal")


class Span:
    """A span of OpenTelemetry's API, as far as it is read."""

    is_valid, trace_id, span_id, trace_flags = True, 0xABC, 0xDEF, 1

    def get_span_context(self):
        return self


def test_the_callers_trace_goes_along(do, suite, monkeypatch, spec):
    module = types.ModuleType("opentelemetry.trace")
    monkeypatch.setattr(module, "get_current_span", Span, raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", module)
    seen = Traces()
    client = do.client(interceptors=[seen.aio() if do.aio else seen])
    do(client.create_job(spec))
    assert seen.found == ["00-00000000000000000000000000000abc-0000000000000def-01"]


class Traces(grpc.UnaryUnaryClientInterceptor):
    """Collects what is sent as traceparent."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def intercept_unary_unary(self, continuation, client_call_details, request):
        self.found += [value for name, value in client_call_details.metadata if name == "traceparent"]
        return continuation(client_call_details, request)

    def aio(self):
        found = self.found

        class Asynchronous(grpc.aio.UnaryUnaryClientInterceptor):
            async def intercept_unary_unary(self, continuation, client_call_details, request) -> object:
                found.extend(value for name, value in client_call_details.metadata if name == "traceparent")
                return await continuation(client_call_details, request)

        return Asynchronous()
