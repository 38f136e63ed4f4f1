# SPDX-License-Identifier: Apache-2.0
"""A collector of OpenTelemetry: its gRPC service over loopback, which keeps the spans that it gets."""

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what it gets; while `down`, it answers UNAVAILABLE."""

    def __init__(self) -> None:
        self.down = False
        self.refused = 0
        self.services: set[str] = set()
        self._spans: list = []
        self._lock = threading.Lock()

    def Export(self, request, context):  # noqa: N802 - a servicer's method
        if self.down:
            self.refused += 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "down")
        with self._lock:
            for resource in request.resource_spans:
                self.services |= {a.value.string_value for a in resource.resource.attributes if a.key == "service.name"}
                for scope in resource.scope_spans:
                    self._spans.extend(scope.spans)
        return trace_service_pb2.ExportTraceServiceResponse()

    @property
    def spans(self) -> list:
        """What has come so far."""
        with self._lock:
            return list(self._spans)


@contextlib.contextmanager
def collecting(monkeypatch) -> Iterator[Collector]:
    """Run a collector, and have the services of this process send to it."""
    server, collector = grpc.server(ThreadPoolExecutor(2)), Collector()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    try:
        yield collector
    finally:
        server.stop(0).wait()


def attributes(span) -> dict:
    """Attributes of a span, as Python values."""
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}
