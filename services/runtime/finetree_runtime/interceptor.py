# SPDX-License-Identifier: Apache-2.0
"""Everything that happens around a handler: one interceptor, since each layer of interceptors costs another coroutine.

request id → principal → deadline → validation → the handler → errors → metrics → one log line
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, NoReturn, cast

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import status_pb2
from grpc import aio
from grpc_status import rpc_status

from finetree_runtime import context, validation
from finetree_runtime.auth import Authenticator
from finetree_runtime.errors import Code, DeadlineExceeded, DomainError, InvalidArgument, to_status
from finetree_runtime.ids import uuid7
from finetree_runtime.logging import get_logger
from finetree_runtime.metrics import CallMetrics

REQUEST_ID = "x-request-id"
SERVER_VERSION = "finetree-server-version"
RETRY_PUSHBACK = "grpc-retry-pushback-ms"
"""What gRPC's own retries heed; they do not read RetryInfo (gRFC A6)."""

_SIDE_SERVICES = ("/grpc.health.v1.Health/", "/grpc.reflection.")
_REQUEST_ID = re.compile(r"[!-~]{1,128}")
_FACTORIES: dict[tuple[bool, bool], tuple[str, Callable[..., Handler]]] = {
    (False, False): ("unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("server_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("client_stream", grpc.stream_unary_rpc_method_handler),
    (True, True): ("bidi_stream", grpc.stream_stream_rpc_method_handler),
}

if TYPE_CHECKING:  # grpc's classes are generic only in their type stubs
    Context = aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]


class CallInterceptor(aio.ServerInterceptor):
    """Surrounds every call of a service; health and reflection pass by.

    Handlers are coroutines or asynchronous generators (or coroutines that use `context.write`), never plain functions.
    """

    def __init__(
        self, *, version: str, authenticator: Authenticator, max_call_seconds: float, metrics: CallMetrics | None = None
    ) -> None:
        self._version = version
        self._authenticator = authenticator
        self._max_call_seconds = max_call_seconds
        self._metrics = metrics
        self._log = get_logger()
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = asyncio.Event()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """The handler, surrounded; made once for each method."""
        handler = await continuation(handler_call_details)
        method = str(handler_call_details.method)
        known = self._wrapped.get(method)
        if known is None or known[0] is not handler:
            if handler is None:  # gRPC answers UNIMPLEMENTED; remembering every wrong name would be a leak
                return handler
            known = self._wrapped[method] = (handler, self._wrap(method, handler))
        return known[1]

    async def finish(self, seconds: float) -> bool:
        """Wait until no call runs, then end health watches; False where calls still run after `seconds`.

        `Server.stop` alone waits for health watches, which never end, and does not wait for aborted calls (grpc#37239).
        """
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)
        self._closing.set()
        return self._idle.is_set()

    def _wrap(self, method: str, handler: Handler) -> Handler:
        kind, factory = _FACTORIES[handler.request_streaming, handler.response_streaming]
        if method.startswith(_SIDE_SERVICES):
            if not handler.response_streaming:
                return handler
            behaviour = self._side_stream(_inner(handler))
            return factory(behaviour, handler.request_deserializer, handler.response_serializer)
        behaviour = self._behaviour(method, kind, _inner(handler))
        return factory(behaviour, _lenient(handler.request_deserializer), handler.response_serializer)

    def _behaviour(self, method: str, kind: str, inner: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
        """The handler as a coroutine function. A generator's messages are written from here, so that it is closed here.

        Left to gRPC, a generator that is cut off at a `yield` is closed some time later by the garbage collector.
        """

        async def work(request: Any, rpc: Context) -> Any:
            if kind == "unary":
                _check(request)
                return await self._limited(inner(request, rpc))
            if kind in {"client_stream", "bidi_stream"}:
                request = _Checked(request)
            else:
                _check(request)
            return await (inner(request, rpc) if kind == "client_stream" else _write_all(inner(request, rpc), rpc))

        async def behaviour(request: Any, rpc: Context) -> Any:
            return await self._surround(method, kind, rpc, lambda: work(request, rpc))

        return behaviour

    async def _surround(self, method: str, kind: str, rpc: Context, work: Callable[[], Awaitable[Any]]) -> Any:
        started = time.monotonic()
        metadata = {str(key): value for key, value in rpc.invocation_metadata() or () if isinstance(value, str)}
        call = _begin(method, metadata, rpc, started)
        trailers = ((REQUEST_ID, call.request_id), (SERVER_VERSION, self._version))
        rpc.set_trailing_metadata(trailers)
        self._running += 1
        self._idle.clear()
        code = Code.OK.name
        try:
            call.principal = await self._authenticator.authenticate(method, metadata, rpc.peer())
            return await work()
        except asyncio.CancelledError:
            code = (Code.DEADLINE_EXCEEDED if context.remaining() == 0.0 else Code.CANCELLED).name
            raise
        except aio.AbortError:  # the handler ended the call itself
            code = rpc.code().name if isinstance(rpc.code(), grpc.StatusCode) else Code.UNKNOWN.name
            raise
        except Exception as error:
            # The client is gone, and what was written to it failed; gRPC may notice the write before the cancellation.
            if rpc.done() or isinstance(error, aio.InternalError):
                code = Code.CANCELLED.name
                raise asyncio.CancelledError from error
            status = self._status(error)
            code = Code(status.code).name
            await _abort(rpc, status, trailers, error)
        finally:
            self._end(kind, call, code, time.monotonic() - started, rpc.peer())

    async def _limited(self, work: Awaitable[Any]) -> Any:
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
        """The status of an error; one that no one foresaw goes to the log, and the client gets its id there."""
        if isinstance(error, DomainError):
            context.bind(reason=error.reason)
            return to_status(error)
        error_id = str(uuid7())
        context.bind(error_id=error_id)
        self._log.error("unexpected_error", error_id=error_id, request_id=context.request_id(), exc_info=error)
        return to_status(_UnexpectedError(error_id))

    def _end(self, kind: str, call: context.Call, code: str, seconds: float, peer: str) -> None:
        self._running -= 1
        if not self._running:
            self._idle.set()
        if self._metrics is not None:
            self._metrics.observe(kind, call.method, code, seconds)
        line = {"method": call.method, "code": code, "ms": round(seconds * 1000, 3), "peer": peer}
        self._log.info("rpc", **call.fields | line, request_id=call.request_id, principal=call.principal.name)

    def _side_stream(self, inner: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
        """A health watch or a reflection session: ends when the server does, as nothing else would end it."""

        async def behaviour(request: Any, rpc: Context) -> None:
            work = asyncio.ensure_future(_write_all(inner(request, rpc), rpc))
            closing = asyncio.ensure_future(self._closing.wait())
            try:
                await asyncio.wait({work, closing}, return_when=asyncio.FIRST_COMPLETED)
                if work.done():
                    await work
            finally:
                closing.cancel()
                work.cancel()

        return behaviour


class _UnexpectedError(DomainError):
    """What a client learns of an error that no one foresaw."""

    code = Code.INTERNAL

    def __init__(self, error_id: str) -> None:
        text = f"internal error {error_id}: the server's log has the cause under this id"
        super().__init__("INTERNAL_ERROR", text, metadata={"error_id": error_id})


class _Undecodable:
    """Stands for a request that is not a message of its type, so that it fails where errors are mapped."""


class _Checked:
    """The messages of a client's stream, each one validated as it is read."""

    def __init__(self, messages: AsyncIterator[Any]) -> None:
        self._messages = aiter(messages)

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        message = await anext(self._messages)
        _check(message)
        return message


def _begin(method: str, metadata: dict[str, str], rpc: Context, now: float) -> context.Call:
    """Make the call known to this task. Each rpc is a task of its own, so nothing has to be reset."""
    given = metadata.get(REQUEST_ID, "")
    remaining = cast("float | None", rpc.time_remaining())  # None without a deadline, whatever its annotation says
    call = context.Call(
        method=method,
        principal=context.UNKNOWN,
        request_id=given if _REQUEST_ID.fullmatch(given) else str(uuid7()),
        deadline=None if remaining is None else now + remaining,
    )
    context.CURRENT.set(call)
    return call


async def _abort(rpc: Context, status: status_pb2.Status, trailers: Any, error: Exception) -> NoReturn:
    delay = error.retry_delay if isinstance(error, DomainError) else None
    pushback = () if delay is None else ((RETRY_PUSHBACK, str(round(delay * 1000))),)
    wire = rpc_status.to_status(status)
    await rpc.abort(wire.code, wire.details, (*trailers, *pushback, *wire.trailing_metadata))


async def _write_all(responses: Any, rpc: Context) -> None:
    """Send what a generator yields; a handler that is a coroutine writes by itself."""
    if inspect.isawaitable(responses):
        await responses
        return
    async with contextlib.aclosing(responses):
        async for message in responses:
            await rpc.write(message)


def _inner(handler: Handler) -> Callable[..., Any]:
    found = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    assert found is not None  # noqa: S101  # a handler has exactly one of the four
    return found


def _lenient(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    if deserialize is None:
        return None

    def attempt(raw: bytes) -> Any:
        try:
            return deserialize(raw)
        except DecodeError:
            return _Undecodable()

    return attempt


def _check(message: Any) -> None:
    """Validate a request; one that a handler takes as bytes is the handler's to validate."""
    if isinstance(message, _Undecodable):
        raise InvalidArgument("MALFORMED_REQUEST", "the request is not a message of its type: check the client's stubs")
    if isinstance(message, Message):
        validation.validate(message)
