# SPDX-License-Identifier: Apache-2.0
"""Export by OpenTelemetry's SDK, which is imported only where the environment asks for traces.

The environment is OpenTelemetry's own: OTEL_EXPORTER_OTLP_ENDPOINT (or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT) turns them
on, OTEL_TRACES_EXPORTER=none and OTEL_SDK_DISABLED=true turn them off; OTEL_TRACES_SAMPLER, OTEL_RESOURCE_ATTRIBUTES,
OTEL_EXPORTER_OTLP_HEADERS and the rest are read by the SDK.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

from finetree_runtime.server import context
from finetree_runtime.server.logging import get_logger
from finetree_runtime.server.tracing.recorded import RecordedSpan
from finetree_runtime.server.tracing.traceparent import TRACEPARENT, TraceContext, parse_traceparent

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""Codes that are an error of the server; by OpenTelemetry's conventions spans of others have no status."""


def is_wanted(env: Mapping[str, str]) -> bool:
    """Whether the environment asks for traces."""
    if env.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    exporter = env.get("OTEL_TRACES_EXPORTER", "")
    return exporter == "otlp" or (not exporter and any(env.get(name) for name in _ENDPOINTS))


def tracing_of(service: str, version: str, env: Mapping[str, str]) -> Tracing | None:
    """Begin to trace as the environment says; None where it does not ask for it, or OpenTelemetry is not installed.

    Missing telemetry keeps no service from starting: it is logged.
    """
    if not is_wanted(env):
        return None
    try:
        return Tracing(service, version, env)
    except ImportError as error:
        remedy = "install finetree-runtime[otel]"
        get_logger().warning("tracing_off", missing=error.name, remedy=remedy)
        return None


class Tracing:
    """Spans of calls, and of records, to one collector."""

    def __init__(self, service: str, version: str, env: Mapping[str, str]) -> None:
        from opentelemetry import trace
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        named = "OTEL_SERVICE_NAME" in env or "service.name=" in env.get("OTEL_RESOURCE_ATTRIBUTES", "")
        attributes = {"service.version": version} if named else {"service.name": service, "service.version": version}
        resource = Resource.create(attributes)
        self._trace = trace
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(_exporter(env)))
        self._tracer = self._provider.get_tracer("finetree", version)
        self.records = Records(resource, version, _exporter(env))
        """Takes spans that are made of records."""

    def surround(self, method: str, behavior: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """Return a method's behavior within a span of its own, which is the current one while it runs."""
        name = method.removeprefix("/")
        attributes = {"rpc.system.name": "grpc", "rpc.method": name}

        async def traced(request: Any, rpc: Any) -> Any:
            metadata = dict(rpc.invocation_metadata() or ())
            with self._tracer.start_as_current_span(
                name,
                context=self._parent(parse_traceparent(str(metadata.get(TRACEPARENT, "")))),
                kind=self._trace.SpanKind.SERVER,
                attributes=attributes,
                record_exception=False,  # its text may hold what a user has sent
                set_status_on_exception=False,
            ):
                return await behavior(request, rpc)

        return traced

    def current(self) -> TraceContext | None:
        """The span of this task."""
        found = self._trace.get_current_span().get_span_context()
        if not found.is_valid:
            return None
        return TraceContext(f"{found.trace_id:032x}", f"{found.span_id:016x}", found.trace_flags.sampled)

    def end(self, call: context.Call, code: str) -> None:
        """Note on the call's span how it has ended, and who called."""
        span = self._trace.get_current_span()
        span.set_attributes(
            {
                "rpc.response.status_code": code,
                "finetree.request_id": call.request_id,
                "finetree.principal.kind": call.principal.kind,
                "finetree.project": call.principal.project,
            }
        )
        if reason := call.fields.get("reason"):
            span.set_attribute("error.type", str(reason))
        if code in _FAULTS:
            span.set_status(self._trace.StatusCode.ERROR)

    def _parent(self, caller: TraceContext | None) -> Any:
        if caller is None:
            return None
        return self._trace.set_span_in_context(self._trace.NonRecordingSpan(_span_context(caller)))

    async def close(self) -> None:
        """Send what has not been sent."""
        await asyncio.to_thread(self._provider.shutdown)
        await asyncio.to_thread(self.records.close)


class Records:
    """Exports spans that are made of records, with the ids and times that they have."""

    def __init__(self, resource: Any, version: str, exporter: Any) -> None:
        from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
        from opentelemetry.sdk.trace.export import SpanExportResult
        from opentelemetry.sdk.trace.id_generator import IdGenerator
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON

        self._exporter, self._success = exporter, SpanExportResult.SUCCESS
        self._ended: list[Any] = []
        self._next: RecordedSpan | None = None
        outer = self

        class Given(IdGenerator):
            def generate_span_id(self) -> int:
                return int(outer._next.span_id, 16) if outer._next else 0

            def generate_trace_id(self) -> int:
                return int(outer._next.trace_id, 16) if outer._next else 0

        class Collect(SpanProcessor):
            def on_end(self, span: Any) -> None:
                outer._ended.append(span)

        # What was sampled is decided by whoever began the trace.
        provider = TracerProvider(resource=resource, sampler=ALWAYS_ON, id_generator=Given(), shutdown_on_exit=False)
        provider.add_span_processor(Collect())
        self._tracer = provider.get_tracer("finetree", version)

    async def export(self, spans: Sequence[RecordedSpan]) -> bool:
        """Send spans; return whether they have arrived. They may be sent again."""
        made = [self._make(span) for span in spans]
        result = await asyncio.to_thread(self._exporter.export, made)
        return bool(result == self._success)

    def close(self) -> None:
        """Close the connection."""
        self._exporter.shutdown()

    def _make(self, span: RecordedSpan) -> Any:
        from opentelemetry import trace

        parent = TraceContext(span.trace_id, span.parent_id) if span.parent_id else None
        within = (
            trace.set_span_in_context(trace.NonRecordingSpan(_span_context(parent)))
            if parent
            else trace.set_span_in_context(trace.INVALID_SPAN)
        )
        self._next = span
        with self._taken() as ended:
            made = self._tracer.start_span(
                span.name, context=within, start_time=1000 * span.start, attributes=dict(span.attributes)
            )
            if span.error:
                made.set_status(trace.StatusCode.ERROR, span.error)
            made.end(1000 * span.end)
        return ended[0]

    @contextlib.contextmanager
    def _taken(self) -> Iterator[list[Any]]:
        self._ended = []
        yield self._ended


def _span_context(caller: TraceContext) -> Any:
    from opentelemetry import trace

    flags = trace.TraceFlags(trace.TraceFlags.SAMPLED if caller.sampled else trace.TraceFlags.DEFAULT)
    return trace.SpanContext(int(caller.trace_id, 16), int(caller.span_id, 16), is_remote=True, trace_flags=flags)


def _exporter(env: Mapping[str, str]) -> Any:
    """Build the exporter of the protocol that the environment names; gRPC where it names none."""
    protocol = next((env[name] for name in _PROTOCOLS if env.get(name)), "grpc")
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        return OTLPSpanExporter()
    # Not among the packages of finetree-runtime[otel]: who names this protocol installs it.
    return importlib.import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter").OTLPSpanExporter()
