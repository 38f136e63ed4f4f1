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
from finetree._shared.status import error_of, token_renewed
from finetree._shared.tls.credentials import Credentials
from finetree._shared.tls.handshake import Explainer
from finetree.config.options import Options
from finetree.config.settings import Service
from finetree.errors import ClientClosed, FinetreeError, Unauthenticated


class Connection:
    """A channel and the number of calls on it. A retired one is closed when its last call has ended.

    `version` is that of the TLS files that it was made with; a `lent` one stays open until the client closes.
    """

    def __init__(self, channel: grpc.aio.Channel, version: int) -> None:
        self.channel = channel
        self.version = version
        self.calls = 0
        self.retired = False
        self.lent = False

    async def settle(self) -> None:
        """Close the channel if it is retired and has no call."""
        if self.retired and not self.calls and not self.lent:
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
        self._explainer = Explainer()
        self._tls: dict[Service, Credentials] = {}
        self._begin()
        GATE.register(self)

    def to(self, service: Service, kind: Kind) -> Connection:
        """Connection of a service for unary calls or streams, of the running loop.

        Raises:
            ForkedClientError: gRPC cannot work in this process.
            ClientClosed: CLIENT_CLOSED.
            InvalidArgument: the TLS files cannot be used.
        """
        GATE.check(aio=True)
        if self._closed:
            raise ClientClosed("the client is closed; make another one", reason="CLIENT_CLOSED")
        running = asyncio.get_running_loop()
        if running not in self._open:
            self._forget_closed_loops()
        connections = self._open.setdefault(running, {})
        credentials = self._credentials(service)
        version = credentials.refresh() if credentials is not None else 0
        old = connections.get((service, kind))
        if old is not None and old.version == version:
            return old
        connection = connections[service, kind] = Connection(self._connect(service, kind), version)
        if old is not None:
            self._replaced.setdefault(running, []).append(old)
            old.retired = True
        return connection

    def lend(self, service: Service) -> grpc.aio.Channel:
        """Channel of unary calls for whoever makes calls by itself; it is open until the client closes."""
        connection = self.to(service, "unary")
        connection.lent = True
        return connection.channel

    async def close_replaced(self) -> None:
        """Close channels whose TLS files have changed, those without calls."""
        running = asyncio.get_running_loop()
        if running in self._replaced:
            waiting = self._replaced.pop(running)
            kept = [connection for connection in waiting if connection.calls or connection.lent]
            if kept:
                self._replaced[running] = kept
            for connection in waiting:
                await connection.settle()

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
        running = asyncio.get_running_loop()
        for connection in (*self._open.pop(running, {}).values(), *self._replaced.pop(running, ())):
            await connection.close()

    def drop_channels(self) -> None:
        """Start without channels, in a forked child; the locks, too, may have been held by the parent's threads."""
        GATE.keep((self._open, self._replaced, self._budgets))
        self._begin()

    def note_reached(self, service: Service) -> None:
        """Record that a service answered."""
        self._explainer.note_reached(service)

    async def error_of_call(self, error: grpc.aio.AioRpcError, sent: Sent) -> FinetreeError:
        """Make the exception for an RpcError; TOKEN_RENEWED where the token was old and there is a new one."""
        service, target = sent.service, self._options.targets[sent.service]
        trailers: Any = error.trailing_metadata()
        code = error.code().name
        sent.log(code)
        found = error_of(code, error.details() or "", trailers, request_id=sent.request_id, target=target)
        if isinstance(found, Unauthenticated) and sent.token and target.token:
            return token_renewed(found) if await asyncio.to_thread(target.token.renew, sent.token) else found
        if not self._explainer.may_help(service, found, target):
            return found
        return await asyncio.to_thread(self._explainer.explain, service, found, target)

    def _forget_closed_loops(self) -> None:
        # A channel holds its loop, so that no entry would ever go by itself. Without an owner it closes.
        # `keyrefs` copies in one step: loops of other threads come and go meanwhile.
        for loop in [reference() for reference in self._open.keyrefs()]:
            if loop is not None and loop.is_closed():
                for connection in (*self._open.pop(loop, {}).values(), *self._replaced.pop(loop, ())):
                    GATE.closed(connection.channel)

    def _begin(self) -> None:
        self._open: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[Service, Kind], Connection]]
        self._open = weakref.WeakKeyDictionary()
        self._replaced: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, list[Connection]]
        self._replaced = weakref.WeakKeyDictionary()
        self._budgets: dict[Service, RetryBudget] = {}

    def _credentials(self, service: Service) -> Credentials | None:
        tls = self._options.targets[service].tls
        if tls is not None and service not in self._tls:
            same = (known for known in self._tls.values() if known.tls == tls)
            self._tls[service] = next(same, None) or Credentials(tls)
        return self._tls.get(service)

    def _connect(self, service: Service, kind: Kind) -> grpc.aio.Channel:
        target = self._options.targets[service]
        arguments = channels.channel_arguments(target, kind)
        interceptors = list(self._options.interceptors) or None
        credentials = self._credentials(service)
        if credentials is None:
            channel = grpc.aio.insecure_channel(target.address, arguments, interceptors=interceptors)
        else:
            channel = grpc.aio.secure_channel(target.address, credentials.current, arguments, interceptors=interceptors)
        GATE.opened(channel)
        return channel
