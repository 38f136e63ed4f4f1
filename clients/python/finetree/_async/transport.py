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
from finetree._shared.options import Options, Service
from finetree._shared.rpcs import Q, R, Rpc
from finetree._shared.status import error_of, may_be_plaintext_to_tls, plaintext_to_tls, speaks_tls
from finetree.errors import ClientClosed, FinetreeError


class Line:
    """A channel and what is open on it. A retired one is closed when its last stream has ended."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.streams = 0
        self.retired = False

    async def settle(self) -> None:
        """Close the channel if nothing is open on it and nothing new will be."""
        if self.retired and not self.streams:
            await self.close()

    async def close(self) -> None:
        """Close the channel."""
        GATE.closed(self.channel)
        await self.channel.close()


class Stream(Generic[R]):
    """An open server stream. `read` raises FinetreeError; `close` is idempotent."""

    def __init__(self, transport: AsyncTransport, line: Line, call: Any, service: Service, request_id: str) -> None:
        self._transport, self._line, self._call = transport, line, call
        self._service, self._request_id = service, request_id
        self._open = True
        line.streams += 1

    async def read(self) -> R | None:
        """The next message, None at the end."""
        try:
            message = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise await self._transport.translated(error, self._service, self._request_id) from None
        except asyncio.CancelledError:
            if _cancelling():
                raise
            raise _closed_meanwhile(self._request_id) from None
        if message is grpc.aio.EOF:
            return None
        self._transport.reached(self._service)
        answer: R = message
        return answer

    async def close(self, *, renew: bool = False) -> None:
        """End it. With `renew` the next stream uses a new connection: this one is broken or silent."""
        if not self._open:
            return
        self._open = False
        self._call.cancel()
        self._line.streams -= 1
        if renew:
            self._transport.retire(self._service, self._line)
        await self._line.settle()


class AsyncTransport:
    """The channels of a client. Usable from several loops; in a forked child only if none of them was open."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._lines: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[Service, Kind], Line]]
        self._lines = weakref.WeakKeyDictionary()
        self._closed = False
        self._reached: set[Service] = set()
        GATE.register(self)

    async def unary(self, method: Rpc[Q, R], request: Q, *, timeout: float | None = None, request_id: str = "") -> R:
        """Make a call. `timeout` in seconds before the client's own before the method's.

        Raises:
            FinetreeError: whatever the service or the way to it said.
        """
        request_id = request_id or channels.new_request_id()
        stub = self._line(method.service, "unary").channel.unary_unary(
            method.path, method.request.SerializeToString, method.response.FromString
        )
        try:
            response: R = await stub(
                request,
                timeout=self._timeout(method, timeout),
                metadata=channels.metadata(self.options, request_id),
            )
        except grpc.aio.AioRpcError as error:
            raise await self.translated(error, method.service, request_id) from None
        except asyncio.CancelledError:
            if _cancelling():
                raise
            raise _closed_meanwhile(request_id) from None
        self.reached(method.service)
        return response

    def stream(self, method: Rpc[Q, R], request: Q, *, timeout: float | None = None) -> Stream[R]:
        """Open a server stream. Without a `timeout` it has no deadline: who reads it watches for silence."""
        request_id = channels.new_request_id()
        line = self._line(method.service, "stream")
        stub = line.channel.unary_stream(method.path, method.request.SerializeToString, method.response.FromString)
        call = stub(request, timeout=timeout, metadata=channels.metadata(self.options, request_id))
        return Stream(self, line, call, method.service, request_id)

    async def upload(self, method: Rpc[Q, R], requests: AsyncIterator[Q], *, timeout: float | None = None) -> R:
        """Send a client stream and wait for its answer.

        Raises:
            FinetreeError: whatever the service or the way to it said.
        """
        request_id = channels.new_request_id()
        line = self._line(method.service, "stream")
        stub = line.channel.stream_unary(method.path, method.request.SerializeToString, method.response.FromString)
        call: Any = stub(
            requests,
            timeout=timeout if timeout is not None else method.timeout,
            metadata=channels.metadata(self.options, request_id),
        )
        line.streams += 1
        try:
            response: R = await call
        except grpc.aio.AioRpcError as error:
            self.retire(method.service, line)
            raise await self.translated(error, method.service, request_id) from None
        except asyncio.CancelledError:
            if _cancelling():
                raise
            raise _closed_meanwhile(request_id) from None
        finally:
            call.cancel()
            line.streams -= 1
            await line.settle()
        return response

    def channel(self, service: Service) -> grpc.aio.Channel:
        """The channel of unary calls, for the raw stubs."""
        return self._line(service, "unary").channel

    def retire(self, service: Service, line: Line) -> None:
        """Replace the channel of streams, if it is still that one."""
        lines = self._lines.get(asyncio.get_running_loop(), {})
        if lines.get((service, "stream")) is line:
            del lines[service, "stream"]
            line.retired = True

    async def close(self) -> None:
        """Close the channels of the running loop; streams that are open on them end."""
        self._closed = True
        for line in self._lines.pop(asyncio.get_running_loop(), {}).values():
            await line.close()

    def forget(self) -> None:
        """In a forked child: start without channels."""
        GATE.keep(self._lines)
        self._lines = weakref.WeakKeyDictionary()

    def reached(self, service: Service) -> None:
        """Note that a service answered: a later failure is no matter of encryption."""
        self._reached.add(service)

    async def translated(self, error: grpc.aio.AioRpcError, service: Service, request_id: str) -> FinetreeError:
        """The exception for an RpcError."""
        target = self.options.targets[service]
        trailers: Any = error.trailing_metadata()
        found = error_of(error.code().name, error.details() or "", trailers, request_id=request_id, target=target)
        if service in self._reached or not may_be_plaintext_to_tls(found, target):
            return found
        mismatch = await asyncio.to_thread(speaks_tls, target.address)
        return plaintext_to_tls(found, target) if mismatch else found

    def _line(self, service: Service, kind: Kind) -> Line:
        GATE.check(aio=True)
        if self._closed:
            raise ClientClosed("the client is closed; make another one", reason="CLIENT_CLOSED")
        lines = self._lines.setdefault(asyncio.get_running_loop(), {})
        if (service, kind) not in lines:
            lines[service, kind] = Line(self._connect(service, kind))
        return lines[service, kind]

    def _connect(self, service: Service, kind: Kind) -> grpc.aio.Channel:
        target = self.options.targets[service]
        arguments = channels.channel_arguments(self.options, target, kind)
        if target.tls is None:
            channel = grpc.aio.insecure_channel(target.address, arguments)
        else:
            channel = grpc.aio.secure_channel(target.address, channels.credentials(target.tls), arguments)
        GATE.opened(channel)
        return channel

    def _timeout(self, method: Rpc[Q, R], timeout: float | None) -> float | None:
        return timeout if timeout is not None else self.options.timeout or method.timeout


def _cancelling() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _closed_meanwhile(request_id: str) -> ClientClosed:
    # grpc.aio raises CancelledError when a channel closes under a call; asyncio would take it for this task's own end.
    return ClientClosed("the client was closed during the call", reason="CLIENT_CLOSED", request_id=request_id)
