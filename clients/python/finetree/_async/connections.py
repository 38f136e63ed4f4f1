# SPDX-License-Identifier: Apache-2.0
"""The grpc.aio channels of a client, made on first use, one for unary calls and one for streams per service.

Each running loop has channels of its own: one of another loop would fail with "Event loop is closed".
"""

from __future__ import annotations

import asyncio
import weakref
from typing import Any

import grpc.aio

from finetree._shared import channels
from finetree._shared.channels import Kind, Sent
from finetree._shared.fork import GATE
from finetree._shared.retry import RetryBudget
from finetree._shared.status import error_of, may_be_plaintext_to_tls, plaintext_to_tls, speaks_tls, token_renewed
from finetree.config.options import Options
from finetree.config.settings import Service
from finetree.errors import ClientClosed, FinetreeError, Unauthenticated


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


class AsyncConnections:
    """Channels, retry budgets and what is known of each service: what a client shares with those made of it.

    Usable from several loops; in a forked child only if none of its parent's channels was open.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._closed = False
        self._reached: set[Service] = set()
        self._begin()
        GATE.register(self)

    def to(self, service: Service, kind: Kind) -> Connection:
        """Connection of a service for unary calls or streams, of the running loop.

        Raises:
            ForkedClientError: gRPC cannot work in this process.
            ClientClosed: CLIENT_CLOSED.
        """
        GATE.check(aio=True)
        if self._closed:
            raise ClientClosed("the client is closed; make another one", reason="CLIENT_CLOSED")
        running = asyncio.get_running_loop()
        if running not in self._open:
            self._forget_closed_loops()
        connections = self._open.setdefault(running, {})
        if (service, kind) not in connections:
            connections[service, kind] = Connection(self._connect(service, kind))
        return connections[service, kind]

    def budget(self, service: Service) -> RetryBudget:
        """Retries that calls of the service may still make, in all loops."""
        return self._budgets.setdefault(service, RetryBudget())

    def retire(self, service: Service, connection: Connection) -> None:
        """Replace the channel of streams, unless that has happened already."""
        connections = self._open.get(asyncio.get_running_loop(), {})
        if connections.get((service, "stream")) is connection:
            del connections[service, "stream"]
            connection.retired = True

    async def close(self) -> None:
        """Close the channels of the running loop; streams that are open on them end."""
        self._closed = True
        for connection in self._open.pop(asyncio.get_running_loop(), {}).values():
            await connection.close()

    def drop_channels(self) -> None:
        """Start without channels, in a forked child; the locks, too, may have been held by the parent's threads."""
        GATE.keep((self._open, self._budgets))
        self._begin()

    def note_reached(self, service: Service) -> None:
        """Record that a service answered: a later failure is not one of encryption."""
        self._reached.add(service)

    async def error_of_call(self, error: grpc.aio.AioRpcError, sent: Sent) -> FinetreeError:
        """Make the exception for an RpcError; TOKEN_RENEWED where the token was old and there is a new one."""
        service, target = sent.service, self._options.targets[sent.service]
        trailers: Any = error.trailing_metadata()
        code = error.code().name
        sent.log(code)
        found = error_of(code, error.details() or "", trailers, request_id=sent.request_id, target=target)
        if isinstance(found, Unauthenticated) and sent.token and target.token:
            return token_renewed(found) if await asyncio.to_thread(target.token.renew, sent.token) else found
        if service in self._reached or not may_be_plaintext_to_tls(found, target):
            return found
        mismatch = await asyncio.to_thread(speaks_tls, target.address)
        return plaintext_to_tls(found, target) if mismatch else found

    def _forget_closed_loops(self) -> None:
        # A channel holds its loop, so that no entry would ever go by itself. Without an owner it closes.
        # `keyrefs` copies in one step: loops of other threads come and go meanwhile.
        for loop in [reference() for reference in self._open.keyrefs()]:
            if loop is not None and loop.is_closed():
                for connection in self._open.pop(loop, {}).values():
                    GATE.closed(connection.channel)

    def _begin(self) -> None:
        self._open: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[Service, Kind], Connection]]
        self._open = weakref.WeakKeyDictionary()
        self._budgets: dict[Service, RetryBudget] = {}

    def _connect(self, service: Service, kind: Kind) -> grpc.aio.Channel:
        target = self._options.targets[service]
        arguments = channels.channel_arguments(target, kind)
        interceptors = list(self._options.interceptors) or None
        if target.tls is None:
            channel = grpc.aio.insecure_channel(target.address, arguments, interceptors=interceptors)
        else:
            channel = grpc.aio.secure_channel(
                target.address, channels.credentials(target.tls), arguments, interceptors=interceptors
            )
        GATE.opened(channel)
        return channel
