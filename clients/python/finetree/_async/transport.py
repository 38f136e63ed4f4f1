# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ASYNC109 - the parameters are the synchronous client's; a timeout becomes the call's deadline
"""Calls over grpc.aio channels, made on first use, one for unary calls and one for streams per service.

Each running loop has channels of its own: one of another loop would fail with "Event loop is closed".
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator
from typing import Any, Generic

import grpc
import grpc.aio

from finetree._shared import channels
from finetree._shared.channels import Kind
from finetree._shared.fork import GATE
from finetree._shared.rpcs import Q, R, Rpc
from finetree._shared.status import error_of, may_be_plaintext_to_tls, plaintext_to_tls, speaks_tls
from finetree.config.options import Options
from finetree.config.settings import Service
from finetree.errors import ClientClosed, FinetreeError


class Connection:
    """A channel and the number of streams on it. A retired one is closed when its last stream has ended."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.streams = 0
        self.retired = False

    async def settle(self) -> None:
        """Close the channel if it is retired and has no stream."""
        if self.retired and not self.streams:
            await self.close()

    async def close(self) -> None:
        """Close the channel."""
        GATE.closed(self.channel)
        await self.channel.close()


class Stream(Generic[R]):
    """An open server stream. `read` raises FinetreeError; `close` is idempotent."""

    def __init__(
        self, transport: AsyncTransport, connection: Connection, call: Any, service: Service, request_id: str
    ) -> None:
        self._transport, self._connection, self._call = transport, connection, call
        self._service, self._request_id = service, request_id
        self._open = True
        connection.streams += 1

    async def read(self) -> R | None:
        """Read the next message; None at the end."""
        try:
            message = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise await self._transport.error_of_call(error, self._service, self._request_id) from None
        except asyncio.CancelledError:
            if _cancelling():
                raise
            raise _closed_meanwhile(self._request_id) from None
        if message is grpc.aio.EOF:
            return None
        self._transport.note_reached(self._service)
        answer: R = message
        return answer

    async def close(self, *, renew: bool = False) -> None:
        """Cancel the stream. With `renew` the next one uses a new connection: this one is broken or silent."""
        if not self._open:
            return
        self._open = False
        self._call.cancel()
        self._connection.streams -= 1
        if renew:
            self._transport.retire(self._service, self._connection)
        await self._connection.settle()


class AsyncTransport:
    """The channels of a client. Usable from several loops; in a forked child only if none of them was open."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._connections: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[Service, Kind], Connection]]
        self._connections = weakref.WeakKeyDictionary()
        self._closed = False
        self._reached: set[Service] = set()
        GATE.register(self)

    async def unary(self, rpc: Rpc[Q, R], request: Q, *, timeout: float | None = None, request_id: str = "") -> R:
        """Make a unary call. `timeout` in seconds; None means the client's, else the rpc's own.

        Raises:
            FinetreeError: what the service answered, or why it could not be reached.
        """
        request_id = request_id or channels.new_request_id()
        stub = self._connection_to(rpc.service, "unary").channel.unary_unary(
            rpc.path, rpc.request.SerializeToString, rpc.response.FromString
        )
        try:
            response: R = await stub(
                request,
                timeout=self._timeout(rpc, timeout),
                metadata=channels.metadata(self.options, rpc.service, request_id),
            )
        except grpc.aio.AioRpcError as error:
            raise await self.error_of_call(error, rpc.service, request_id) from None
        except asyncio.CancelledError:
            if _cancelling():
                raise
            raise _closed_meanwhile(request_id) from None
        self.note_reached(rpc.service)
        return response

    def stream(self, rpc: Rpc[Q, R], request: Q, *, timeout: float | None = None) -> Stream[R]:
        """Open a server stream. Without a `timeout` it has no deadline: its reader watches for silence."""
        request_id = channels.new_request_id()
        connection = self._connection_to(rpc.service, "stream")
        stub = connection.channel.unary_stream(rpc.path, rpc.request.SerializeToString, rpc.response.FromString)
        call = stub(request, timeout=timeout, metadata=channels.metadata(self.options, rpc.service, request_id))
        return Stream(self, connection, call, rpc.service, request_id)

    async def upload(self, rpc: Rpc[Q, R], requests: AsyncIterator[Q], *, timeout: float | None = None) -> R:
        """Send a client stream and wait for its answer.

        Raises:
            FinetreeError: what the service answered, or why it could not be reached.
        """
        request_id = channels.new_request_id()
        connection = self._connection_to(rpc.service, "stream")
        stub = connection.channel.stream_unary(rpc.path, rpc.request.SerializeToString, rpc.response.FromString)
        call: Any = stub(
            requests,
            timeout=timeout if timeout is not None else rpc.timeout,
            metadata=channels.metadata(self.options, rpc.service, request_id),
        )
        connection.streams += 1
        try:
            response: R = await call
        except grpc.aio.AioRpcError as error:
            self.retire(rpc.service, connection)
            raise await self.error_of_call(error, rpc.service, request_id) from None
        except asyncio.CancelledError:
            if _cancelling():
                raise
            raise _closed_meanwhile(request_id) from None
        finally:
            call.cancel()
            connection.streams -= 1
            await connection.settle()
        return response

    def channel(self, service: Service) -> grpc.aio.Channel:
        """Channel of unary calls, for the raw stubs."""
        return self._connection_to(service, "unary").channel

    def retire(self, service: Service, connection: Connection) -> None:
        """Replace the channel of streams, unless that has happened already."""
        connections = self._connections.get(asyncio.get_running_loop(), {})
        if connections.get((service, "stream")) is connection:
            del connections[service, "stream"]
            connection.retired = True

    async def close(self) -> None:
        """Close the channels of the running loop; streams that are open on them end."""
        self._closed = True
        for connection in self._connections.pop(asyncio.get_running_loop(), {}).values():
            await connection.close()

    def drop_channels(self) -> None:
        """Start without channels, in a forked child."""
        GATE.keep(self._connections)
        self._connections = weakref.WeakKeyDictionary()

    def note_reached(self, service: Service) -> None:
        """Record that a service answered: a later failure is not one of encryption."""
        self._reached.add(service)

    async def error_of_call(self, error: grpc.aio.AioRpcError, service: Service, request_id: str) -> FinetreeError:
        """Make the exception for an RpcError."""
        target = self.options.targets[service]
        trailers: Any = error.trailing_metadata()
        found = error_of(error.code().name, error.details() or "", trailers, request_id=request_id, target=target)
        if service in self._reached or not may_be_plaintext_to_tls(found, target):
            return found
        mismatch = await asyncio.to_thread(speaks_tls, target.address)
        return plaintext_to_tls(found, target) if mismatch else found

    def _connection_to(self, service: Service, kind: Kind) -> Connection:
        GATE.check(aio=True)
        if self._closed:
            raise ClientClosed("the client is closed; make another one", reason="CLIENT_CLOSED")
        connections = self._connections.setdefault(asyncio.get_running_loop(), {})
        if (service, kind) not in connections:
            connections[service, kind] = Connection(self._connect(service, kind))
        return connections[service, kind]

    def _connect(self, service: Service, kind: Kind) -> grpc.aio.Channel:
        target = self.options.targets[service]
        arguments = channels.channel_arguments(self.options, target, kind)
        if target.tls is None:
            channel = grpc.aio.insecure_channel(target.address, arguments)
        else:
            channel = grpc.aio.secure_channel(target.address, channels.credentials(target.tls), arguments)
        GATE.opened(channel)
        return channel

    def _timeout(self, rpc: Rpc[Q, R], timeout: float | None) -> float | None:
        return timeout if timeout is not None else self.options.timeout or rpc.timeout


def _cancelling() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _closed_meanwhile(request_id: str) -> ClientClosed:
    # grpc.aio raises CancelledError when a channel closes under a call; asyncio would take it for a cancelled task.
    return ClientClosed("the client was closed during the call", reason="CLIENT_CLOSED", request_id=request_id)
