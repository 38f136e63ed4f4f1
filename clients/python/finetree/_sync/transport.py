# SPDX-License-Identifier: Apache-2.0
"""Calls over synchronous channels: unary ones with retries, server streams and the watch over them, uploads."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any, Generic

import grpc

from finetree._shared import channels
from finetree._shared.fork import GATE
from finetree._shared.options import Options, Service
from finetree._shared.retry import Attempts
from finetree._shared.rpcs import Q, R, Rpc
from finetree._shared.status import error_of
from finetree._sync.connections import Connection, Connections


class Stream(Generic[R]):
    """An open server stream. Iteration raises FinetreeError; `close` is idempotent and safe from any thread."""

    def __init__(
        self, connections: Connections, connection: Connection, call: Any, *, service: Service, request_id: str
    ) -> None:
        self.generation = GATE.generation
        self._connections, self._connection, self._call = connections, connection, call
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
            raise self._connections.error_of_call(error, self._service, self._request_id) from None
        self._connections.note_reached(self._service)
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
        self._connections.renew(self._service, self._connection)


class Transport:
    """Calls with the options of a client. Thread-safe; usable in a forked child."""

    def __init__(self, options: Options, connections: Connections | None = None) -> None:
        self.options = options
        self._connections = connections or Connections(options)

    def with_options(self, options: Options) -> Transport:
        """Make a transport with other options over the same channels."""
        return Transport(options, self._connections)

    def unary(self, rpc: Rpc[Q, R], request: Q, *, timeout: float | None = None, request_id: str = "") -> R:
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
            try:
                response = self._attempt(rpc, request, attempts.timeout(), request_id)
            except grpc.RpcError as error:
                failure = self._connections.error_of_call(error, rpc.service, request_id)
            else:
                attempts.succeeded()
                self._connections.note_reached(rpc.service)
                return response
            time.sleep(attempts.delay(failure))

    def stream(self, rpc: Rpc[Q, R], request: Q, *, timeout: float | None = None) -> Stream[R]:
        """Open a server stream. Without a `timeout` it has no deadline: its reader watches for silence."""
        request_id = channels.new_request_id()
        with GATE.call():
            connection = self._connections.to(rpc.service, "stream")
            stub = connection.channel.unary_stream(rpc.path, rpc.request.SerializeToString, rpc.response.FromString)
            connection.enter()
            try:
                call = stub(request, timeout, channels.metadata(self.options, request_id))
            except BaseException:
                # A Ctrl-C in here may leave a channel on which no event is ever delivered (`close_channel`).
                self._connections.renew(rpc.service, connection)
                connection.leave()
                raise
        return Stream(self._connections, connection, call, service=rpc.service, request_id=request_id)

    def upload(self, rpc: Rpc[Q, R], requests: Iterable[Q], *, timeout: float | None = None) -> R:
        """Send a client stream and wait for its answer.

        Raises:
            FinetreeError: what the service answered, or why it could not be reached.
        """
        request_id = channels.new_request_id()
        with GATE.call():
            connection = self._connections.to(rpc.service, "stream")
            stub = connection.channel.stream_unary(rpc.path, rpc.request.SerializeToString, rpc.response.FromString)
            connection.enter()
            try:
                # A future runs on the channel's own thread: a fork in its middle is as harmless as beside a stream.
                call: Any = stub.future(
                    iter(requests),
                    timeout if timeout is not None else rpc.timeout,
                    channels.metadata(self.options, request_id),
                )
            except BaseException:
                self._connections.renew(rpc.service, connection)
                connection.leave()
                raise
        try:
            response: R = call.result()
        except grpc.RpcError as error:
            self._connections.renew(rpc.service, connection)
            raise self._connections.error_of_call(error, rpc.service, request_id) from None
        except grpc.FutureCancelledError:
            raise error_of("CANCELLED", "", None, request_id=request_id) from None
        finally:
            call.cancel()
            connection.leave()
        return response

    def channel(self, service: Service) -> grpc.Channel:
        """Channel of unary calls, for the raw stubs."""
        return self._connections.to(service, "unary").channel

    def close(self) -> None:
        """Close every channel; streams that are open on them end."""
        self._connections.close()

    def _attempt(self, rpc: Rpc[Q, R], request: Q, timeout: float | None, request_id: str) -> R:
        with GATE.call():
            stub = self._connections.to(rpc.service, "unary").channel.unary_unary(
                rpc.path, rpc.request.SerializeToString, rpc.response.FromString
            )
            response: R = stub(request, timeout, channels.metadata(self.options, request_id))
            return response

    def _timeout(self, rpc: Rpc[Q, R], timeout: float | None) -> float | None:
        return timeout if timeout is not None else self.options.timeout or rpc.timeout


class Watchdog:
    """Cancels a stream after `limit` seconds without a `beat`, in a daemon thread that wakes once per limit.

    Reading from a synchronous gRPC stream has no timeout of its own.
    """

    def __init__(self, stream: Stream[Any], limit: float) -> None:
        self.fired = False
        self._stream, self._limit = stream, limit
        self._last = time.monotonic()
        self._stopped = threading.Event()
        threading.Thread(target=self._watch, name="finetree-watchdog", daemon=True).start()

    def beat(self) -> None:
        """Record that a message arrived."""
        self._last = time.monotonic()

    def stop(self) -> None:
        """End the thread; the stream has ended."""
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(max(0.0, self._last + self._limit - time.monotonic())):
            if time.monotonic() - self._last >= self._limit:
                self.fired = True
                self._stream.cancel()
                return
