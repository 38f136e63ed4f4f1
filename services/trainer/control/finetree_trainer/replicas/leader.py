# SPDX-License-Identifier: Apache-2.0
"""Calls that the leader must answer, sent to it as they came: metadata, deadline and errors are the caller's own.

While no replica leads, a call waits for one that takes over. What was sent is never sent again: the caller alone knows
whether it may be, and its `request_id` makes that safe.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn, cast

import grpc
from finetree_runtime.errors import DomainError, Unavailable
from finetree_runtime.meter import OFF, Meter
from finetree_runtime.server import context
from finetree_runtime.server.calls import REQUEST_ID, SERVER_VERSION
from finetree_runtime.server.replies import SerializedReply
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2
from grpc import aio
from grpc_status import rpc_status

FORWARDED = "finetree-forwarded"
"""Metadata of a call that a replica has sent on: it is sent on no further."""

WAIT_SECONDS = 15.0
"""How long a call waits for a leader, within its deadline: a take-over takes less."""
LOOK_SECONDS = 0.2
"""Pause between two looks at who leads."""

_OWN = ("user-agent", "content-type", "te", REQUEST_ID)
"""Metadata that every connection, or this server, sets itself."""
_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
]

_Rpc = aio.ServicerContext[Any, Any]


class _Requests:
    """A stream of requests that remembers what it has failed of: gRPC shows it to nobody."""

    def __init__(self, requests: Any) -> None:
        self._requests = requests
        self.failure: DomainError | None = None

    async def __aiter__(self) -> AsyncIterator[Any]:
        try:
            async for request in self._requests:
                yield request
        except DomainError as error:
            self.failure = error
            raise


class LeaderConnection:
    """Sends calls to the leader, whose address `find` returns, "" where there is none."""

    def __init__(
        self, find: Callable[[], str], credentials: grpc.ChannelCredentials | None, meter: Meter = OFF
    ) -> None:
        self._find, self._credentials = find, credentials
        self._address = ""
        self._channel: aio.Channel | None = None
        self._forwarded = meter.counter(
            "finetree_forwarded_calls_total", "Calls that were sent on to the replica that leads.", ("grpc_code",)
        )

    async def close(self) -> None:
        """Close the connection; calls in progress are cancelled."""
        if self._channel is not None:
            await self._channel.close()

    async def unary(self, method: MethodDescriptor, request: Any, rpc: _Rpc, *, wait: bool = True) -> Message:
        """Send a call with one reply on, also one whose requests are a stream, and return the reply.

        `wait`: for a leader, where there is none now. Raises Unavailable LEADER_UNAVAILABLE, and what a stream of
        requests raises; an error of the leader's ends the call as it is.
        """
        until, requests = self._until(WAIT_SECONDS if wait else 0.0), _Requests(request)
        sent = requests if method.client_streaming else request
        while True:
            channel = await self._ready(until)
            call = _stub(channel, method)(sent, metadata=_metadata(rpc), timeout=context.remaining())
            try:
                reply: Message = await call
            except asyncio.CancelledError:
                if requests.failure is not None:  # upon which gRPC has cancelled the call
                    raise requests.failure from None
                raise
            except aio.AioRpcError as error:
                if not method.client_streaming and _is_refused(error) and _now() < until:
                    await asyncio.sleep(LOOK_SECONDS)
                    continue
                await self._fail(rpc, error)
            self._forwarded.add("OK")
            return reply

    async def stream(self, method: MethodDescriptor, request: Any, rpc: _Rpc) -> AsyncIterator[SerializedReply]:
        """Send a call with a stream of replies on, and yield them. Raises as `unary` does."""
        channel = await self._ready(self._until(WAIT_SECONDS))
        call = _stub(channel, method)(request, metadata=_metadata(rpc), timeout=context.remaining())
        try:
            async for reply in call:
                yield SerializedReply(reply)
        except aio.AioRpcError as error:
            await self._fail(rpc, error)
        finally:
            call.cancel()
        self._forwarded.add("OK")

    def _until(self, seconds: float) -> float:
        remaining = context.remaining()
        return _now() + (seconds if remaining is None else min(seconds, remaining))

    async def _ready(self, until: float) -> aio.Channel:
        """Return a connection to the leader, once there is one that answers."""
        while True:
            channel = await self._channel_to(self._find())
            if channel is not None:
                try:
                    await asyncio.wait_for(channel.channel_ready(), LOOK_SECONDS)
                except TimeoutError:
                    pass  # it may lead no more
                else:
                    return channel
            else:
                await asyncio.sleep(LOOK_SECONDS)
            if _now() >= until:
                raise leader_unavailable()

    async def _channel_to(self, address: str) -> aio.Channel | None:
        if address != self._address:
            old, self._channel, self._address = self._channel, None, address
            if old is not None:
                await old.close()
        if self._channel is None and address:
            if self._credentials is None:
                self._channel = aio.insecure_channel(address, options=_OPTIONS)
            else:
                self._channel = aio.secure_channel(address, self._credentials, options=_OPTIONS)
        return self._channel

    async def _fail(self, rpc: _Rpc, error: aio.AioRpcError) -> NoReturn:
        """End a call with the leader's error, byte for byte, or with ours where it has answered nothing."""
        self._forwarded.add(error.code().name)
        trailers = tuple(error.trailing_metadata() or ())
        if error.code() is grpc.StatusCode.UNAVAILABLE and all(key != SERVER_VERSION for key, _ in trailers):
            raise leader_unavailable() from error
        if (reason := _reason(error)) is not None:
            context.bind(reason=reason)
        await rpc.abort(error.code(), error.details() or "", trailers)


def leader_unavailable() -> DomainError:
    """Build the error for a call that only the replica that leads can answer, while none does."""
    text = "No replica of the trainer leads now, or it was lost during the call; call again with the same request_id."
    return Unavailable("LEADER_UNAVAILABLE", text, retry_delay=1.0)


def _stub(channel: aio.Channel, method: MethodDescriptor) -> Any:
    """The call of a method on a channel. The messages of a stream of replies stay bytes."""
    make = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, False): channel.stream_unary,
        (True, True): channel.stream_stream,
    }[method.client_streaming, method.server_streaming]
    assert method.containing_service is not None  # noqa: S101 - a method has one
    return make(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=_serialized,
        response_deserializer=None if method.server_streaming else GetMessageClass(method.output_type).FromString,
    )


def _serialized(message: Any) -> bytes:
    return cast("bytes", message.SerializeToString())


def _metadata(rpc: _Rpc) -> tuple[tuple[str, Any], ...]:
    """The caller's metadata, with the id under which this replica logs the call."""
    given = rpc.invocation_metadata() or ()
    kept = ((key, value) for key, value in given if key not in _OWN and not key.startswith(("grpc-", ":")))
    return (*kept, (REQUEST_ID, context.request_id()), (FORWARDED, "1"))


def is_forwarded(rpc: _Rpc) -> bool:
    """Whether another replica has sent a call on."""
    return any(key == FORWARDED for key, _ in rpc.invocation_metadata() or ())


def _is_refused(error: aio.AioRpcError) -> bool:
    """Whether a replica has answered that it does not lead: nothing was done."""
    return error.code() is grpc.StatusCode.UNAVAILABLE and _reason(error) == "LEADER_UNAVAILABLE"


def _reason(error: aio.AioRpcError) -> str | None:
    status = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo()
    return next((info.reason for detail in status.details if detail.Unpack(info)), None) if status is not None else None


def _now() -> float:
    return asyncio.get_running_loop().time()
