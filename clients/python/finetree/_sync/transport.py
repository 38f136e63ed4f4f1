# SPDX-License-Identifier: Apache-2.0
"""Calls over synchronous channels, made on first use, one for unary calls and one for streams per service."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import Any, Generic

import grpc

from finetree._shared import channels
from finetree._shared.channels import Kind
from finetree._shared.fork import GATE
from finetree._shared.rpcs import Q, R, Rpc
from finetree._shared.status import error_of, may_be_plaintext_to_tls, plaintext_to_tls, speaks_tls
from finetree.config.options import Options
from finetree.config.settings import Service
from finetree.errors import ClientClosed, FinetreeError


class Connection:
    """A channel and the number of streams on it. A retired one closes itself when its last stream has ended."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self._lock = threading.Lock()
        self._streams = 0
        self._retired = False

    def enter(self) -> None:
        """Count a stream that begins."""
        with self._lock:
            self._streams += 1

    def leave(self) -> None:
        """Count a stream that has ended."""
        with self._lock:
            self._streams -= 1
            close = self._retired and not self._streams
        if close:
            self.channel.close()

    def retire(self) -> None:
        """Let no new stream begin, and close the channel after the last one."""
        with self._lock:
            self._retired = True
            close = not self._streams
        if close:
            self.channel.close()


class Stream(Generic[R]):
    """An open server stream. Iteration raises FinetreeError; `close` is idempotent and safe from any thread."""

    def __init__(
        self, transport: Transport, connection: Connection, call: Any, service: Service, request_id: str
    ) -> None:
        self.generation = GATE.generation
        self._transport, self._connection, self._call = transport, connection, call
        self._service, self._request_id = service, request_id
        self._open = True
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[R]:
        return self

    def __next__(self) -> R:
        try:
            message: R = next(self._call)
        except StopIteration:
            self.close()
            raise
        except grpc.RpcError as error:
            self.close()
            raise self._transport.error_of_call(error, self._service, self._request_id) from None
        self._transport.note_reached(self._service)
        return message

    def cancel(self) -> None:
        """Cancel the stream from another thread; its reader gets Cancelled."""
        self._call.cancel()

    def close(self) -> None:
        """Cancel the stream if it is open."""
        if self.generation != GATE.generation:
            # Inherited by a forked child: neither the call nor the lock, which a thread may have held, can be used.
            GATE.keep((self._call, self._connection, self._lock))
            return
        with self._lock:
            was_open, self._open = self._open, False
        if not was_open:
            return
        self._call.cancel()
        self._connection.leave()

    def renew(self) -> None:
        """Make the next stream use a new connection: this one is broken or silent."""
        self._transport.renew(self._service, self._connection)


class Transport:
    """The channels of a client. Thread-safe; usable in a forked child, which makes channels of its own."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._lock = threading.RLock()
        self._connections: dict[tuple[Service, Kind], Connection] = {}
        self._closed = False
        self._reached: set[Service] = set()
        GATE.register(self)

    def unary(self, rpc: Rpc[Q, R], request: Q, *, timeout: float | None = None, request_id: str = "") -> R:
        """Make a unary call. `timeout` in seconds; None means the client's, else the rpc's own.

        Raises:
            FinetreeError: what the service answered, or why it could not be reached.
        """
        request_id = request_id or channels.new_request_id()
        with GATE.call():
            stub = self._connection_to(rpc.service, "unary").channel.unary_unary(
                rpc.path, rpc.request.SerializeToString, rpc.response.FromString
            )
            try:
                response: R = stub(
                    request, self._timeout(rpc, timeout), channels.metadata(self.options, rpc.service, request_id)
                )
            except grpc.RpcError as error:
                failure = error
            else:
                self.note_reached(rpc.service)
                return response
        raise self.error_of_call(failure, rpc.service, request_id) from None

    def stream(self, rpc: Rpc[Q, R], request: Q, *, timeout: float | None = None) -> Stream[R]:
        """Open a server stream. Without a `timeout` it has no deadline: its reader watches for silence."""
        request_id = channels.new_request_id()
        with GATE.call():
            connection = self._connection_to(rpc.service, "stream")
            call = connection.channel.unary_stream(rpc.path, rpc.request.SerializeToString, rpc.response.FromString)
            connection.enter()
            return Stream(
                self,
                connection,
                call(request, timeout, channels.metadata(self.options, rpc.service, request_id)),
                rpc.service,
                request_id,
            )

    def upload(self, rpc: Rpc[Q, R], requests: Iterable[Q], *, timeout: float | None = None) -> R:
        """Send a client stream and wait for its answer.

        Raises:
            FinetreeError: what the service answered, or why it could not be reached.
        """
        request_id = channels.new_request_id()
        with GATE.call():
            connection = self._connection_to(rpc.service, "stream")
            stub = connection.channel.stream_unary(rpc.path, rpc.request.SerializeToString, rpc.response.FromString)
            connection.enter()
            # A future runs on the channel's own thread: a fork in its middle is as harmless as one beside a stream.
            call: Any = stub.future(
                iter(requests),
                timeout if timeout is not None else rpc.timeout,
                channels.metadata(self.options, rpc.service, request_id),
            )
        try:
            response: R = call.result()
        except grpc.RpcError as error:
            self.renew(rpc.service, connection)
            raise self.error_of_call(error, rpc.service, request_id) from None
        except grpc.FutureCancelledError:
            raise error_of("CANCELLED", "", None, request_id=request_id) from None
        finally:
            call.cancel()
            connection.leave()
        return response

    def channel(self, service: Service) -> grpc.Channel:
        """Channel of unary calls, for the raw stubs."""
        return self._connection_to(service, "unary").channel

    def renew(self, service: Service, connection: Connection) -> None:
        """Replace the channel of streams, unless that has happened already."""
        with self._lock:
            if self._connections.get((service, "stream")) is connection:
                del self._connections[service, "stream"]
                connection.retire()

    def close(self) -> None:
        """Close every channel; streams that are open on them end."""
        with self._lock:
            self._closed = True
            connections, self._connections = list(self._connections.values()), {}
        for connection in connections:
            connection.channel.close()

    def drop_channels(self) -> None:
        """Start without channels, in a forked child."""
        self._lock = threading.RLock()
        GATE.keep(self._connections)
        self._connections = {}

    def note_reached(self, service: Service) -> None:
        """Record that a service answered: a later failure is not one of encryption."""
        self._reached.add(service)

    def error_of_call(self, error: grpc.RpcError, service: Service, request_id: str) -> FinetreeError:
        """Make the exception for an RpcError."""
        call: Any = error
        target = self.options.targets[service]
        found = error_of(
            call.code().name, call.details() or "", call.trailing_metadata(), request_id=request_id, target=target
        )
        if service not in self._reached and may_be_plaintext_to_tls(found, target) and speaks_tls(target.address):
            return plaintext_to_tls(found, target)
        return found

    def _connection_to(self, service: Service, kind: Kind) -> Connection:
        GATE.check(aio=False)
        with self._lock:
            if self._closed:
                raise ClientClosed("the client is closed; make another one", reason="CLIENT_CLOSED")
            connection = self._connections.get((service, kind))
            if connection is None:
                connection = self._connections[service, kind] = Connection(self._connect(service, kind))
            return connection

    def _connect(self, service: Service, kind: Kind) -> grpc.Channel:
        target = self.options.targets[service]
        arguments = channels.channel_arguments(self.options, target, kind)
        if target.tls is None:
            return grpc.insecure_channel(target.address, arguments)
        return grpc.secure_channel(target.address, channels.credentials(target.tls), arguments)

    def _timeout(self, rpc: Rpc[Q, R], timeout: float | None) -> float | None:
        return timeout if timeout is not None else self.options.timeout or rpc.timeout
