# SPDX-License-Identifier: Apache-2.0
"""The interceptor around every call of a service.

request id → authentication → authorization → rate limits → a place → deadline → validation → the servicer's method →
errors → metrics → one log line and, for what changes something or is refused, an audit record

A call that arrives when there is no place is refused before any of that: its request is not even read.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, cast

import grpc
from google.rpc import status_pb2
from grpc import aio
from grpc_status import rpc_status

from finetree_runtime.errors import (
    Code,
    DeadlineExceeded,
    DomainError,
    Internal,
    to_status,
)
from finetree_runtime.ids import uuid7
from finetree_runtime.server import context
from finetree_runtime.server.access.authorizer import authorize
from finetree_runtime.server.access.requirement import requirement_of
from finetree_runtime.server.audit.calls import Auditor, Trail
from finetree_runtime.server.entry.admission import REFUSALS, Admission, Places
from finetree_runtime.server.entry.auth import Authenticator
from finetree_runtime.server.entry.credentials import Peer
from finetree_runtime.server.entry.requests import CheckedStream, check, lenient, named_in, projects_of
from finetree_runtime.server.entry.revalidation import while_valid
from finetree_runtime.server.limits.rate import RateLimits
from finetree_runtime.server.logging import get_logger
from finetree_runtime.server.metrics.calls import CallMetrics
from finetree_runtime.server.replies import or_serialized
from finetree_runtime.server.tracing.otlp import Tracing
from finetree_runtime.server.tracing.traceparent import TRACEPARENT, TraceContext, parse_traceparent

REQUEST_ID = "x-request-id"
SERVER_VERSION = "finetree-server-version"
RETRY_PUSHBACK = "grpc-retry-pushback-ms"
"""Trailer that gRPC's own retries obey; they do not read RetryInfo (gRFC A6)."""

REFUSED_SECONDS = 1.0
"""Time over which refusals are counted into one log line: a line for each would cost more than the refusal."""

_HEALTH = "/grpc.health.v1.Health/"
_SIDE_SERVICES = (_HEALTH, "/grpc.reflection.")
_REQUEST_ID = re.compile(r"[!-~]{1,128}")
_FACTORIES: dict[tuple[bool, bool], tuple[str, Callable[..., Handler]]] = {
    (False, False): ("unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("server_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("client_stream", grpc.stream_unary_rpc_method_handler),
    (True, True): ("bidi_stream", grpc.stream_stream_rpc_method_handler),
}
"""By (request is a stream, response is a stream): the call's kind in metrics, and grpc's constructor of handlers."""

if TYPE_CHECKING:  # grpc's classes are generic only in their type stubs
    Context = aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]
    Behavior = Callable[..., Any]
    Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]


class CallInterceptor(aio.ServerInterceptor):
    """Surrounds every call except those of health and reflection, and counts the running ones.

    A servicer's methods are coroutines, asynchronous generators, or coroutines that use `context.write`.
    """

    def __init__(
        self,
        *,
        version: str,
        authenticator: Authenticator,
        max_call_seconds: float,
        max_request_bytes: int,
        admission: Admission,
        auditor: Auditor,
        rates: RateLimits,
        metrics: CallMetrics | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._version = version
        self._admission = admission
        self._auditor = auditor
        self._rates = rates
        self._authenticator = authenticator
        self._max_call_seconds = max_call_seconds
        self._max_request_bytes = max_request_bytes
        self._metrics = metrics
        self._tracing = tracing
        self._log = get_logger()
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = asyncio.Event()
        self._methods: dict[str, _Method] = {}
        self._refused: Counter[str] = Counter()
        self._refusals = {reason: self._refusing(make()) for reason, make in REFUSALS.items()}

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        """Surround the handler of a method; None, for a method that nobody serves, makes gRPC answer UNIMPLEMENTED."""
        method = str(handler_call_details.method)
        known = self._methods.get(method)
        if known is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            known = self._methods[method] = self._method(method, handler)
        self._admission.line.note_arrival()
        reason = self._admission.refusal(stream=known.stream, side=known.side)
        if reason:
            self._note_refused(known.kind, method, reason)
            return self._refusals[reason]
        return known.handler

    def _method(self, method: str, handler: Handler) -> _Method:
        kind, factory = _FACTORIES[handler.request_streaming, handler.response_streaming]
        inner = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        assert inner is not None  # noqa: S101  # a handler has exactly one of the four
        stream = kind != "unary"
        if method.startswith(_SIDE_SERVICES):
            behavior = self._until_closing(inner) if handler.response_streaming else inner
            known = not method.startswith(_HEALTH)
            behavior = self._in_place(self._admission.side(stream=handler.response_streaming), behavior, known=known)
            made = factory(behavior, handler.request_deserializer, handler.response_serializer)
            return _Method(kind, made, stream=stream, side=True)
        limit = None if handler.request_streaming else self._max_request_bytes
        deserialize = lenient(handler.request_deserializer or bytes, limit)  # None: the request stays bytes
        serialize = or_serialized(handler.response_serializer)
        surrounded = self._surrounded(method, kind, inner)
        if self._tracing is not None:
            surrounded = self._tracing.surround(method, surrounded)
        made = factory(surrounded, deserialize, serialize)
        return _Method(kind, made, stream=stream, side=False)

    async def wait_until_idle(self, seconds: float) -> bool:
        """Wait until no call runs, then end health watches; False where calls still run after `seconds`.

        `Server.stop` alone waits for health watches, which never end, and does not wait for aborted calls (grpc#37239).
        """
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)
        self._closing.set()
        return self._idle.is_set()

    def _surrounded(self, method: str, kind: str, inner: Behavior) -> Behavior:
        """Return what gRPC calls in place of `inner`."""
        needed = requirement_of(method)

        async def behavior(request: Any, rpc: Context) -> Any:
            started, peer = time.monotonic(), Peer(rpc.peer(), rpc.auth_context())
            metadata = _texts(rpc)
            call = _begin(method, metadata, rpc, started)
            call.trace = self._trace_of(metadata)
            trailers = ((REQUEST_ID, call.request_id), (SERVER_VERSION, self._version))
            rpc.set_trailing_metadata(trailers)
            trail = self._auditor.trail(call, peer.address)
            self._running += 1
            self._idle.clear()
            if self._metrics is not None:
                self._metrics.begin(kind, method)
            code = Code.OK.name

            async def let_in() -> None:
                named = named_in(request)
                trail.received(named)
                call.principal = await self._authenticator.authenticate(method, metadata, peer)
                authorize(needed, named, call.principal)

            if kind in ("client_stream", "bidi_stream"):
                request = CheckedStream(request, let_in, trail.begin)
            try:
                await let_in()
                self._rates.take(
                    call.principal.name, lambda: projects_of(needed, named_in(request), call.principal.project)
                )
                async with while_valid(let_in) if call.principal.kind != "local" else contextlib.nullcontext():
                    if kind == "unary":
                        async with self._admission.unary(call):
                            return await self._run(kind, inner, request, rpc, trail)
                    with self._admission.streams.taken():
                        return await self._run(kind, inner, request, rpc, trail)
            except asyncio.CancelledError:
                code = (Code.DEADLINE_EXCEEDED if context.remaining() == 0.0 else Code.CANCELLED).name
                raise
            except aio.AbortError:  # the servicer ended the call itself
                code = rpc.code().name if isinstance(rpc.code(), grpc.StatusCode) else Code.UNKNOWN.name
                raise
            except Exception as error:
                # The client is gone, and a write to it failed; gRPC may notice the write before the cancellation.
                if rpc.done() or isinstance(error, aio.InternalError):
                    code = Code.CANCELLED.name
                    raise asyncio.CancelledError from error
                status = self._status(error)
                code = Code(status.code).name
                await _abort(rpc, status, trailers, error)
            finally:
                trail.end(code)
                self._end(kind, call, code, time.monotonic() - started, peer.address)

        return behavior

    def _trace_of(self, metadata: Mapping[str, str]) -> TraceContext | None:
        """The call's own span where calls are traced, else the caller's."""
        if self._tracing is not None:
            return self._tracing.current()
        return parse_traceparent(metadata.get(TRACEPARENT, ""))

    async def _run(self, kind: str, inner: Behavior, request: Any, rpc: Context, trail: Trail) -> Any:
        """Validate the request and call the servicer's method; only unary calls have a time limit."""
        if not isinstance(request, CheckedStream):
            check(request)
            await trail.begin()
        if kind == "unary":
            reply = await self._within_limit(inner(request, rpc))
            trail.replied(reply)
            return reply
        if kind == "client_stream":
            return await inner(request, rpc)
        return await _write_all(inner(request, rpc), rpc)

    async def _within_limit(self, work: Awaitable[Any]) -> Any:
        limit = asyncio.timeout(self._max_call_seconds)
        try:
            async with limit:
                return await work
        except TimeoutError:
            if not limit.expired():
                raise
            text = f"not done within {self._max_call_seconds:g} s, this server's limit for a unary call"
            raise DeadlineExceeded("CALL_TIME_LIMIT", text) from None

    def _status(self, error: Exception) -> status_pb2.Status:
        """Status of an error. Details of an unexpected one go to the log alone, under an id that the client gets."""
        if isinstance(error, DomainError):
            context.bind(reason=error.reason)
            return to_status(error)
        error_id = str(uuid7())
        context.bind(error_id=error_id)
        self._log.error("unexpected_error", error_id=error_id, request_id=context.request_id(), exc_info=error)
        text = f"internal error {error_id}: the server's log has the cause under this id"
        return to_status(Internal("INTERNAL_ERROR", text, metadata={"error_id": error_id}))

    def _end(self, kind: str, call: context.Call, code: str, seconds: float, peer: str) -> None:
        self._running -= 1
        if not self._running:
            self._idle.set()
        if self._metrics is not None:
            reason = "INTERNAL_ERROR" if "error_id" in call.fields else str(call.fields.get("reason", ""))
            self._metrics.observe(kind, call.method, code=code, seconds=seconds, reason=reason)
        if self._tracing is not None:
            self._tracing.end(call, code)
        line = {"method": call.method, "code": code, "ms": round(seconds * 1000, 3), "peer": peer}
        who = {"principal": call.principal.name, **_credential(call.principal)}
        self._log.info("rpc", **call.fields | line | who, request_id=call.request_id)

    def _refusing(self, error: DomainError) -> Handler:
        """Return a handler that refuses a call of any kind without reading its request, with an error built once."""
        wire = rpc_status.to_status(to_status(error))
        trailers = ((SERVER_VERSION, self._version), *_pushback(error), *wire.trailing_metadata)

        async def refuse(_requests: Any, rpc: Context) -> None:
            given = tuple(entry for entry in rpc.invocation_metadata() or () if entry[0] == REQUEST_ID)
            await rpc.abort(wire.code, wire.details, (*given, *trailers))

        return grpc.stream_stream_rpc_method_handler(refuse)

    def _note_refused(self, kind: str, method: str, reason: str) -> None:
        if self._metrics is not None:
            self._metrics.begin(kind, method)
            self._metrics.observe(kind, method, code=Code.RESOURCE_EXHAUSTED.name, seconds=0.0, reason=reason)
        if not self._refused:
            asyncio.get_running_loop().call_later(REFUSED_SECONDS, self._log_refused)
        self._refused[method] += 1

    def _log_refused(self) -> None:
        refused, self._refused = self._refused, Counter()
        self._log.warning("calls_refused", methods=dict(refused), seconds=REFUSED_SECONDS)

    def _in_place(self, places: Places, inner: Behavior, *, known: bool) -> Behavior:
        """Return a call of health or reflection that holds a place while it runs; `known`: not of any caller."""

        async def behavior(request: Any, rpc: Context) -> Any:
            try:
                if known:
                    await self._authenticator.authenticate("", _texts(rpc), Peer(rpc.peer(), rpc.auth_context()))
                with places.taken():
                    return await inner(request, rpc)
            except DomainError as error:  # others came in between its arrival and now
                await _abort(rpc, to_status(error), (), error)

        return behavior

    def _until_closing(self, inner: Behavior) -> Behavior:
        """Return a health watch or a reflection session that ends when the server does; nothing else would end it."""

        async def behavior(request: Any, rpc: Context) -> None:
            work = asyncio.ensure_future(_write_all(inner(request, rpc), rpc))
            closing = asyncio.ensure_future(self._closing.wait())
            try:
                await asyncio.wait({work, closing}, return_when=asyncio.FIRST_COMPLETED)
                if work.done():
                    await work
            finally:
                closing.cancel()
                work.cancel()

        return behavior


@dataclass(frozen=True, slots=True)
class _Method:
    """A method that was called before: the surrounded handler, and what it counts as."""

    kind: str
    handler: Handler
    stream: bool
    side: bool


def _credential(principal: context.Principal) -> dict[str, str]:
    """Id of the token that a call came with, for its log line."""
    return {"credential": principal.credential} if principal.credential else {}


def _texts(rpc: Context) -> dict[str, str]:
    """Text entries of a call's metadata."""
    return {str(key): value for key, value in rpc.invocation_metadata() or () if isinstance(value, str)}


def _begin(method: str, metadata: dict[str, str], rpc: Context, now: float) -> context.Call:
    """Make the call known to this task. Each rpc is a task of its own, so nothing has to be reset."""
    given, parent = metadata.get(REQUEST_ID, ""), metadata.get(TRACEPARENT, "")
    remaining = cast("float | None", rpc.time_remaining())  # None without a deadline, whatever its annotation says
    call = context.Call(
        method=method,
        principal=context.UNKNOWN,
        request_id=given if _REQUEST_ID.fullmatch(given) else str(uuid7()),
        deadline=None if remaining is None else now + remaining,
        traceparent=parent if parse_traceparent(parent) is not None else "",
    )
    context.CURRENT.set(call)
    return call


async def _write_all(responses: Any, rpc: Context) -> None:
    """Send what a generator yields, and close it; a coroutine writes by itself.

    Left to gRPC, a generator that is cut off at a `yield` is closed some time later by the garbage collector.
    """
    if inspect.isawaitable(responses):
        await responses
        return
    async with contextlib.aclosing(responses):
        async for message in responses:
            await rpc.write(message)


async def _abort(rpc: Context, status: status_pb2.Status, trailers: Any, error: Exception) -> NoReturn:
    """End a call with a status.

    A client that does not read keeps a message in the way of the status; its call is dropped, and it sees CANCELLED.
    """
    wire = rpc_status.to_status(status)
    try:
        await rpc.abort(wire.code, wire.details, (*trailers, *_pushback(error), *wire.trailing_metadata))
    except aio.InternalError:
        raise asyncio.CancelledError from error


def _pushback(error: Exception) -> tuple[tuple[str, str], ...]:
    delay = error.retry_delay if isinstance(error, DomainError) else None
    return () if delay is None else ((RETRY_PUSHBACK, str(round(delay * 1000))),)
