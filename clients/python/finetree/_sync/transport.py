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
from finetree._shared.options import Options, Service
from finetree._shared.rpcs import Q, R, Rpc
from finetree._shared.status import error_of, may_be_plaintext_to_tls, plaintext_to_tls, speaks_tls
from finetree.errors import ClientClosed, FinetreeError


class Line:
    """A channel and what is open on it. A retired one closes itself when its last stream has ended."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self._lock = threading.Lock()
        self._streams = 0
        self._retired = False

    def enter(self) -> None:
        """A stream begins."""
        with self._lock:
            self._streams += 1

    def leave(self) -> None:
        """A stream has ended."""
        with self._lock:
            self._streams -= 1
            close = self._retired and not self._streams
        if close:
            self.channel.close()

    def retire(self) -> None:
        """No new stream will come."""
        with self._lock:
            self._retired = True
            close = not self._streams
        if close:
            self.channel.close()


class Stream(Generic[R]):
    """An open server stream. Iteration raises FinetreeError; `close` is idempotent and safe from any thread."""

    def __init__(self, transport: Transport, line: Line, call: Any, service: Service, request_id: str) -> None:
        self.generation = GATE.generation
        self._transport, self._line, self._call = transport, line, call
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
            raise self._transport.translated(error, self._service, self._request_id) from None
        self._transport.reached(self._service)
        return message

    def cancel(self) -> None:
        """End it from another thread; the reader gets Cancelled."""
        self._call.cancel()

    def close(self) -> None:
        """End it."""
        if self.generation != GATE.generation:
            # Inherited by a forked child: neither the call nor the lock (which a thread may have held) is ours.
            GATE.keep((self._call, self._line, self._lock))
            return
        with self._lock:
            was_open, self._open = self._open, False
        if not was_open:
            return
        self._call.cancel()
        self._line.leave()

    def renew(self) -> None:
        """Let the next stream use a new connection: this one is broken or silent."""
        self._transport.renew(self._service, self._line)


class Transport:
    """The channels of a client. Thread-safe; usable in a forked child, which makes channels of its own."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._lock = threading.RLock()
        self._lines: dict[tuple[Service, Kind], Line] = {}
        self._closed = False
        self._reached: set[Service] = set()
        GATE.register(self)

    def unary(self, method: Rpc[Q, R], request: Q, *, timeout: float | None = None, request_id: str = "") -> R:
        """Make a call. `timeout` in seconds before the client's own before the method's.

        Raises:
            FinetreeError: whatever the service or the way to it said.
        """
        request_id = request_id or channels.new_request_id()
        with GATE.call():
            stub = self._line(method.service, "unary").channel.unary_unary(
                method.path, method.request.SerializeToString, method.response.FromString
            )
            try:
                response: R = stub(request, self._timeout(method, timeout), channels.metadata(self.options, request_id))
            except grpc.RpcError as error:
                failure = error
            else:
                self.reached(method.service)
                return response
        raise self.translated(failure, method.service, request_id) from None

    def stream(self, method: Rpc[Q, R], request: Q, *, timeout: float | None = None) -> Stream[R]:
        """Open a server stream. Without a `timeout` it has no deadline: who reads it watches for silence."""
        request_id = channels.new_request_id()
        with GATE.call():
            line = self._line(method.service, "stream")
            call = line.channel.unary_stream(method.path, method.request.SerializeToString, method.response.FromString)
            line.enter()
            return Stream(
                self,
                line,
                call(request, timeout, channels.metadata(self.options, request_id)),
                method.service,
                request_id,
            )

    def upload(self, method: Rpc[Q, R], requests: Iterable[Q], *, timeout: float | None = None) -> R:
        """Send a client stream and wait for its answer.

        Raises:
            FinetreeError: whatever the service or the way to it said.
        """
        request_id = channels.new_request_id()
        with GATE.call():
            line = self._line(method.service, "stream")
            stub = line.channel.stream_unary(method.path, method.request.SerializeToString, method.response.FromString)
            line.enter()
            # A future runs on the channel's own thread: a fork in its middle is as harmless as one beside a stream.
            call: Any = stub.future(
                iter(requests),
                timeout if timeout is not None else method.timeout,
                channels.metadata(self.options, request_id),
            )
        try:
            response: R = call.result()
        except grpc.RpcError as error:
            self.renew(method.service, line)
            raise self.translated(error, method.service, request_id) from None
        except grpc.FutureCancelledError:
            raise error_of("CANCELLED", "", None, request_id=request_id) from None
        finally:
            call.cancel()
            line.leave()
        return response

    def channel(self, service: Service) -> grpc.Channel:
        """The channel of unary calls, for the raw stubs."""
        return self._line(service, "unary").channel

    def renew(self, service: Service, line: Line) -> None:
        """Replace the channel of streams, if it is still that one."""
        with self._lock:
            if self._lines.get((service, "stream")) is line:
                del self._lines[service, "stream"]
                line.retire()

    def close(self) -> None:
        """Close every channel; streams that are open on them end."""
        with self._lock:
            self._closed = True
            lines, self._lines = list(self._lines.values()), {}
        for line in lines:
            line.channel.close()

    def forget(self) -> None:
        """In a forked child: start without channels."""
        self._lock = threading.RLock()
        GATE.keep(self._lines)
        self._lines = {}

    def reached(self, service: Service) -> None:
        """Note that a service answered: a later failure is no matter of encryption."""
        self._reached.add(service)

    def translated(self, error: grpc.RpcError, service: Service, request_id: str) -> FinetreeError:
        """The exception for an RpcError."""
        call: Any = error
        target = self.options.targets[service]
        found = error_of(
            call.code().name, call.details() or "", call.trailing_metadata(), request_id=request_id, target=target
        )
        if service not in self._reached and may_be_plaintext_to_tls(found, target) and speaks_tls(target.address):
            return plaintext_to_tls(found, target)
        return found

    def _line(self, service: Service, kind: Kind) -> Line:
        GATE.check(aio=False)
        with self._lock:
            if self._closed:
                raise ClientClosed("the client is closed; make another one", reason="CLIENT_CLOSED")
            line = self._lines.get((service, kind))
            if line is None:
                line = self._lines[service, kind] = Line(self._connect(service, kind))
            return line

    def _connect(self, service: Service, kind: Kind) -> grpc.Channel:
        target = self.options.targets[service]
        arguments = channels.channel_arguments(self.options, target, kind)
        if target.tls is None:
            return grpc.insecure_channel(target.address, arguments)
        return grpc.secure_channel(target.address, channels.credentials(target.tls), arguments)

    def _timeout(self, method: Rpc[Q, R], timeout: float | None) -> float | None:
        return timeout if timeout is not None else self.options.timeout or method.timeout
