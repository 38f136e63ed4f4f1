# SPDX-License-Identifier: Apache-2.0
"""Everything that happens around a handler, in one place, since each layer of gRPC's interceptors costs a coroutine.

request id → principal → deadline → validation → the handler → errors → metrics → one log line
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import re
import time
from collections.abc import Awaitable, Callable
from logging import INFO
from typing import TYPE_CHECKING, Any, NoReturn, cast

import grpc
from google.rpc import status_pb2
from grpc import aio
from grpc_status import rpc_status

from finetree_runtime.errors import Code, DeadlineExceeded, DomainError, to_status
from finetree_runtime.ids import uuid7, uuid7_text
from finetree_runtime.server import context
from finetree_runtime.server.auth import Authenticator
from finetree_runtime.server.handlers import (
    Checked,
    Registrar,
    SurroundingRegistrar,
    attempt,
    check,
    inner_of,
    lenient,
    takes_bytes,
    write_all,
)
from finetree_runtime.server.logging import get_logger
from finetree_runtime.server.metrics import CallMetrics

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
    Behaviour = Callable[..., Any]
    Work = Callable[[Any, Context], Awaitable[Any] | bytes]


class Calls:
    """Surrounds every call of a service; health and reflection pass by.

    Handlers are coroutines or asynchronous generators (or coroutines that use `context.write`); only one that takes
    bytes may be a plain function.
    """

    def __init__(
        self, *, version: str, authenticator: Authenticator, max_call_seconds: float, metrics: CallMetrics | None = None
    ) -> None:
        self._version = version
        self._authenticator = authenticator
        self._max_call_seconds = max_call_seconds
        self._metrics = metrics
        self._log = get_logger().bind()  # the logger itself, which need not be made for each line
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = asyncio.Event()

    def registrar(self, server: aio.Server) -> Registrar:
        """What services are to be hung into, so that their calls are surrounded."""
        return SurroundingRegistrar(server, self.handler)

    def handler(self, found: Handler | None, method: str) -> Handler | None:
        """A method's handler, surrounded; made once for each method."""
        if found is None:  # gRPC answers UNIMPLEMENTED; remembering every wrong name would be a leak
            return None
        known = self._wrapped.get(method)
        if known is None or known[0] is not found:
            known = self._wrapped[method] = (found, self._wrap(method, found))
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
            behaviour = self._side_stream(inner_of(handler))
            return factory(behaviour, handler.request_deserializer, handler.response_serializer)
        inner, serialize = inner_of(handler), handler.response_serializer
        if kind == "unary":
            if takes_bytes(inner):
                return factory(self._in_bytes(method, inner), None, None)
            return factory(self._unary(method, inner, handler.request_deserializer or bytes), None, serialize)
        behaviour = self._streaming(method, kind, inner)
        return factory(behaviour, lenient(handler.request_deserializer), serialize)

    def _in_bytes(self, method: str, inner: Behaviour) -> Behaviour:
        """A handler that takes bytes; what waits for nothing, or briefly, needs no time limit."""
        if not inspect.iscoroutinefunction(inner):
            return self._surrounded(method, "unary", inner)

        def work(raw: bytes, rpc: Context) -> Awaitable[Any]:
            return self._limited(inner(raw, rpc))

        return self._surrounded(method, "unary", work)

    def _unary(self, method: str, inner: Behaviour, deserialize: Callable[[bytes], Any]) -> Behaviour:
        """A handler of one message, read here, where errors are mapped, and validated by the same bytes."""

        async def work(raw: bytes, rpc: Context) -> Any:
            request = attempt(deserialize, raw)
            check(request, raw)
            return await self._limited(inner(request, rpc))

        return self._surrounded(method, "unary", work)

    def _streaming(self, method: str, kind: str, inner: Behaviour) -> Behaviour:
        """A handler of streams. A generator's messages are written from here, so that it is closed here.

        Left to gRPC, a generator that is cut off at a `yield` is closed some time later by the garbage collector.
        """

        async def work(request: Any, rpc: Context) -> Any:
            if kind == "server_stream":
                check(request)
            else:
                request = Checked(request)
            return await (inner(request, rpc) if kind == "client_stream" else write_all(inner(request, rpc), rpc))

        return self._surrounded(method, kind, work)

    def _surrounded(self, method: str, kind: str, work: Work) -> Behaviour:
        """What gRPC calls: a partial, since a coroutine for each layer costs more than what it does."""
        return functools.partial(Calls._surround, self, method, kind, work)

    async def _surround(self, method: str, kind: str, work: Work, request: Any, rpc: Context) -> Any:
        started, peer = time.monotonic(), rpc.peer()
        metadata = {str(key): value for key, value in rpc.invocation_metadata() or () if isinstance(value, str)}
        call = _begin(method, metadata, rpc, started)
        trailers = ((REQUEST_ID, call.request_id), (SERVER_VERSION, self._version))
        rpc.set_trailing_metadata(trailers)
        self._running += 1
        self._idle.clear()
        code = Code.OK.name
        try:
            call.principal = await self._authenticator.authenticate(method, metadata, peer)
            answer = work(request, rpc)
            return answer if isinstance(answer, bytes) else await answer
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
            self._end(kind, call, code, time.monotonic() - started, peer)

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
        if not self._log.is_enabled_for(INFO):
            return
        line = {"method": call.method, "code": code, "ms": round(seconds * 1000, 3), "peer": peer}
        self._log.info("rpc", **call.fields | line, request_id=call.request_id, principal=call.principal.name)

    def _side_stream(self, inner: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
        """A health watch or a reflection session: ends when the server does, as nothing else would end it."""

        async def behaviour(request: Any, rpc: Context) -> None:
            work = asyncio.ensure_future(write_all(inner(request, rpc), rpc))
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


def _begin(method: str, metadata: dict[str, str], rpc: Context, now: float) -> context.Call:
    """Make the call known to this task. Each rpc is a task of its own, so nothing has to be reset."""
    given = metadata.get(REQUEST_ID, "")
    remaining = cast("float | None", rpc.time_remaining())  # None without a deadline, whatever its annotation says
    call = context.Call(
        method=method,
        principal=context.UNKNOWN,
        request_id=given if _REQUEST_ID.fullmatch(given) else uuid7_text(),
        deadline=None if remaining is None else now + remaining,
    )
    context.CURRENT.set(call)
    return call


async def _abort(rpc: Context, status: status_pb2.Status, trailers: Any, error: Exception) -> NoReturn:
    delay = error.retry_delay if isinstance(error, DomainError) else None
    pushback = () if delay is None else ((RETRY_PUSHBACK, str(round(delay * 1000))),)
    wire = rpc_status.to_status(status)
    await rpc.abort(wire.code, wire.details, (*trailers, *pushback, *wire.trailing_metadata))
