# SPDX-License-Identifier: Apache-2.0
"""The synchronous channels of a client, made on first use, one for unary calls and one for streams per service."""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import grpc

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

T = TypeVar("T")
CLOSE_SECONDS = 2.0
"""Longest time that closing a channel may take; it takes milliseconds, or for ever (`close_channel`)."""


def in_background(work: Callable[[], T]) -> SimpleQueue[tuple[T | None, BaseException | None]]:
    """Run something in a thread of its own and give its result, or what it raised.

    Python raises KeyboardInterrupt in the main thread, between any two instructions. Inside of gRPC or of a
    `threading.Condition` it leaves locks held and calls without the thread that would end them, for ever. A thread
    made by `_thread` and a SimpleQueue are made of single C calls: an interrupt comes before or after, never within.
    """
    outcome: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()

    def run() -> None:
        try:
            outcome.put((work(), None))
        except BaseException as error:  # noqa: BLE001 - the thread that waits raises it
            outcome.put((None, error))

    _thread.start_new_thread(run, ())
    return outcome


def close_channel(channel: grpc.Channel) -> None:
    """Close a channel, and give up waiting for it after `CLOSE_SECONDS`.

    gRPC waits without a limit for the calls of a channel that it closes. An interrupt inside of gRPC can leave a call
    that never ends (grpcio 1.85.3), so that a plain `close()` would never return.
    """
    with suppress(Empty, RuntimeError):  # no thread can be started: the interpreter ends, and the system closes
        in_background(channel.close).get(timeout=CLOSE_SECONDS)


class Connection:
    """A channel and the number of calls on it. A retired one closes itself when its last call has ended.

    `version` is that of the TLS files that it was made with.
    """

    def __init__(self, channel: grpc.Channel, version: int) -> None:
        self.channel = channel
        self.version = version
        self._lock = threading.Lock()
        self._calls = 0
        self._retired = False

    def enter(self) -> None:
        """Count a call that begins."""
        with self._lock:
            self._calls += 1

    def leave(self) -> None:
        """Count a call that has ended."""
        with self._lock:
            self._calls -= 1
            close = self._retired and not self._calls
        if close:
            close_channel(self.channel)

    def retire(self) -> None:
        """Let no new call begin, and close the channel after the last one."""
        with self._lock:
            self._retired = True
            close = not self._calls
        if close:
            close_channel(self.channel)


class Connections:
    """Channels, retry budgets and what is known of each service: what a client shares with those made of it.

    Thread-safe; usable in a forked child, which makes channels of its own.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._closed = False
        self._explainer = Explainer()
        self._tls: dict[Service, Credentials] = {}
        self._begin()
        GATE.register(self)

    def take(self, service: Service, kind: Kind) -> Connection:
        """Connection of a service for a unary call or a stream, which leaves it at its end.

        Raises:
            ForkedClientError: gRPC cannot work in this process.
            ClientClosed: CLIENT_CLOSED.
            InvalidArgument: the TLS files cannot be used.
        """
        GATE.check(aio=False)
        old = None
        with self._lock:
            if self._closed:
                raise ClientClosed("the client is closed; make another one", reason="CLIENT_CLOSED")
            credentials = self._credentials(service)
            version = credentials.refresh() if credentials is not None else 0
            connection = self._open.get((service, kind))
            if connection is None or connection.version != version:
                old = connection
                connection = self._open[service, kind] = Connection(self._connect(service, kind), version)
            connection.enter()
        if old is not None:
            old.retire()
        return connection

    def lend(self, service: Service) -> grpc.Channel:
        """Channel of unary calls for whoever makes calls by itself; it is open until the client closes."""
        connection = self.take(service, "unary")
        with self._lock:
            if connection in self._lent:
                connection.leave()
            else:
                self._lent.append(connection)
        return connection.channel

    def budget(self, service: Service) -> RetryBudget:
        """Retries that calls of the service may still make."""
        with self._lock:
            return self._budgets.setdefault(service, RetryBudget())

    def renew(self, service: Service, connection: Connection) -> None:
        """Replace the channel of streams, unless that has happened already."""
        with self._lock:
            current = self._open.get((service, "stream")) is connection
            if current:
                del self._open[service, "stream"]
        if current:
            connection.retire()

    def close(self) -> None:
        """Close every channel; streams that are open on them end."""
        with self._lock:
            self._closed = True
            connections = {*self._open.values(), *self._lent}
            self._open.clear()
            self._lent.clear()
        for connection in connections:
            close_channel(connection.channel)

    def drop_channels(self) -> None:
        """Start without channels, in a forked child; the locks, too, may have been held by the parent's threads."""
        GATE.keep((self._lock, self._open, self._lent, self._budgets))
        self._begin()

    def note_reached(self, service: Service) -> None:
        """Record that a service answered."""
        self._explainer.note_reached(service)

    def error_of_call(self, error: grpc.RpcError, sent: Sent) -> FinetreeError:
        """Make the exception for an RpcError; TOKEN_RENEWED where the token was old and there is a new one."""
        call: Any = error
        service, target = sent.service, self._options.targets[sent.service]
        code = call.code().name
        sent.log(code)
        found = error_of(
            code, call.details() or "", call.trailing_metadata(), request_id=sent.request_id, target=target
        )
        if isinstance(found, Unauthenticated) and sent.token and target.token and target.token.renew(sent.token):
            return token_renewed(found)
        helps = self._explainer.may_help(service, found, target)
        return self._explainer.explain(service, found, target) if helps else found

    def _begin(self) -> None:
        self._lock = threading.RLock()
        self._open: dict[tuple[Service, Kind], Connection] = {}
        self._lent: list[Connection] = []
        self._budgets: dict[Service, RetryBudget] = {}

    def _credentials(self, service: Service) -> Credentials | None:
        tls = self._options.targets[service].tls
        if tls is not None and service not in self._tls:
            same = (known for known in self._tls.values() if known.tls == tls)
            self._tls[service] = next(same, None) or Credentials(tls)
        return self._tls.get(service)

    def _connect(self, service: Service, kind: Kind) -> grpc.Channel:
        target = self._options.targets[service]
        arguments = channels.channel_arguments(target, kind)
        credentials = self._credentials(service)
        if credentials is None:
            channel = grpc.insecure_channel(target.address, arguments)
        else:
            channel = grpc.secure_channel(target.address, credentials.current, arguments)
        GATE.manage(channel)
        return grpc.intercept_channel(channel, *self._options.interceptors) if self._options.interceptors else channel
