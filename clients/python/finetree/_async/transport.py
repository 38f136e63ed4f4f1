# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ASYNC109 - the parameters are the synchronous client's; a timeout becomes the call's deadline
"""Calls over grpc.aio channels: unary ones with retries, server streams, uploads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Generic

import grpc
import grpc.aio

from finetree._async.connections import AsyncConnections, Connection
from finetree._shared import channels
from finetree._shared.channels import Sent
from finetree._shared.raw import RawChannel
from finetree._shared.retry import Attempts
from finetree._shared.rpcs import Q, R, Rpc
from finetree.config.options import Options
from finetree.config.settings import Service
from finetree.errors import ClientClosed


class Stream(Generic[R]):
    """An open server stream. `read` raises FinetreeError; `close` is idempotent."""

    def __init__(self, connections: AsyncConnections, connection: Connection, call: Any, *, sent: Sent) -> None:
        self._connections, self._connection, self._call = connections, connection, call
        self._sent = sent
        self._open = True
        connection.calls += 1

    async def read(self) -> R | None:
        """Read the next message; None at the end."""
        try:
            message = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise await self._connections.error_of_call(error, self._sent) from None
        except asyncio.CancelledError:
            if _cancelling():
                raise
            raise _closed_meanwhile(self._sent.request_id) from None
        if message is grpc.aio.EOF:
            return None
        self._connections.note_reached(self._sent.service)
        answer: R = message
        return answer

    async def close(self, *, renew: bool = False) -> None:
        """Cancel the stream. With `renew` the next one uses a new connection: this one is broken or silent."""
        if not self._open:
            return
        self._open = False
        self._call.cancel()
        self._connection.calls -= 1
        if renew:
            self._connections.retire(self._sent.service, self._connection)
        await self._connection.settle()


class AsyncTransport:
    """Calls with the options of a client, from any loop."""

    def __init__(self, options: Options, connections: AsyncConnections | None = None) -> None:
        self.options = options
        self._connections = connections or AsyncConnections(options)

    def with_options(self, options: Options) -> AsyncTransport:
        """Make a transport with other options over the same channels."""
        return AsyncTransport(options, self._connections)

    async def unary(self, rpc: Rpc[Q, R], request: Q, *, timeout: float | None = None, request_id: str = "") -> R:
        """Make a unary call, again while the service is unavailable and `retries` allows it.

        Args:
            rpc: which one.
            request: its request.
            timeout: seconds for all attempts together; None means the client's, else the rpc's own.
            request_id: the same for all attempts; empty means a new one.

        Raises:
            FinetreeError: what the service answered, or why it could not be reached.
        """
        request_id = request_id or channels.new_request_id()
        budget = self._connections.budget(rpc.service)
        attempts = Attempts(self.options.retries, budget, self._timeout(rpc, timeout))
        while True:
            sent = await self._sent(rpc, request_id)
            try:
                response = await self._attempt(rpc, request, attempts.timeout(), sent)
            except grpc.aio.AioRpcError as error:
                failure = await self._connections.error_of_call(error, sent)
            else:
                sent.log("OK")
                attempts.succeeded()
                self._connections.note_reached(rpc.service)
                return response
            delay = attempts.delay(failure)
            channels.LOG.info("%s is tried again in %.2f s: %s", rpc.path, delay, failure)
            await asyncio.sleep(delay)

    async def stream(self, rpc: Rpc[Q, R], request: Q, *, timeout: float | None = None) -> Stream[R]:
        """Open a server stream. Without a `timeout` it has no deadline: its reader watches for silence."""
        sent = await self._sent(rpc, channels.new_request_id())
        connection = self._connections.to(rpc.service, "stream")
        stub = connection.channel.unary_stream(rpc.path, rpc.request.SerializeToString, rpc.response.FromString)
        call = stub(request, timeout=timeout, metadata=sent.metadata)
        return Stream(self._connections, connection, call, sent=sent)

    async def upload(self, rpc: Rpc[Q, R], requests: AsyncIterator[Q], *, timeout: float | None = None) -> R:
        """Send a client stream and wait for its answer.

        Raises:
            FinetreeError: what the service answered, or why it could not be reached.
        """
        sent = await self._sent(rpc, channels.new_request_id())
        connection = self._connections.to(rpc.service, "stream")
        stub = connection.channel.stream_unary(rpc.path, rpc.request.SerializeToString, rpc.response.FromString)
        call: Any = stub(
            requests,
            timeout=timeout if timeout is not None else rpc.timeout,
            metadata=sent.metadata,
        )
        connection.calls += 1
        try:
            response: R = await call
        except grpc.aio.AioRpcError as error:
            self._connections.retire(rpc.service, connection)
            raise await self._connections.error_of_call(error, sent) from None
        except asyncio.CancelledError:
            if _cancelling():
                raise
            raise _closed_meanwhile(sent.request_id) from None
        finally:
            call.cancel()
            connection.calls -= 1
            await connection.settle()
        return response

    def channel(self, service: Service) -> grpc.aio.Channel:
        """Channel of unary calls."""
        return self._connections.lend(service)

    def raw_channel(self, service: Service) -> grpc.aio.Channel:
        """Channel of unary calls for stubs, whose calls then carry the client's metadata."""
        channel: Any = RawChannel(self.channel(service), self.options, service)
        raw: grpc.aio.Channel = channel
        return raw

    async def close(self) -> None:
        """Close the channels of the running loop; streams that are open on them end."""
        await self._connections.close()

    async def _sent(self, rpc: Rpc[Q, R], request_id: str) -> Sent:
        """Begin a call: read the token, in another thread if that may block."""
        token = channels.own_token(self.options, rpc.service)
        value = "" if token is None else token.kept or await asyncio.to_thread(token.value)
        return Sent(rpc.service, rpc.path, request_id, value)

    async def _attempt(self, rpc: Rpc[Q, R], request: Q, timeout: float | None, sent: Sent) -> R:
        connection = self._connections.to(rpc.service, "unary")
        stub = connection.channel.unary_unary(rpc.path, rpc.request.SerializeToString, rpc.response.FromString)
        connection.calls += 1
        try:
            response: R = await stub(request, timeout=timeout, metadata=sent.metadata)
        except asyncio.CancelledError:
            if _cancelling():
                raise
            raise _closed_meanwhile(sent.request_id) from None
        finally:
            connection.calls -= 1
            await self._connections.close_replaced()
        return response

    def _timeout(self, rpc: Rpc[Q, R], timeout: float | None) -> float | None:
        return timeout if timeout is not None else self.options.timeout or rpc.timeout


def _cancelling() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _closed_meanwhile(request_id: str) -> ClientClosed:
    # grpc.aio raises CancelledError when a channel closes under a call; asyncio would take it for a cancelled task.
    return ClientClosed("the client was closed during the call", reason="CLIENT_CLOSED", request_id=request_id)
