# SPDX-License-Identifier: Apache-2.0
"""Calls over synchronous channels: unary ones with retries, server streams, uploads."""

from __future__ import annotations

import _thread
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Generic

import grpc

from finetree._shared import channels
from finetree._shared.channels import Sent
from finetree._shared.fork import GATE
from finetree._shared.raw import RawChannel
from finetree._shared.retry import Attempts
from finetree._shared.rpcs import Q, R, Rpc
from finetree._shared.status import error_of
from finetree._sync.connections import Connection, Connections, in_background
from finetree.config.options import Options
from finetree.config.settings import Service
from finetree.errors import FinetreeError, Internal, Unavailable


class Silence(Exception):  # noqa: N818 - not an error: what follows is its reader's to decide
    """Nothing arrived on a stream for as long as its reader waits."""


class Reader(Generic[R]):
    """The thread of a stream. It opens the call, reads a message each time one is wanted, and ends the call."""

    def __init__(self, begin: Callable[[], Any], connection: Connection) -> None:
        self.wanted: SimpleQueue[bool] = SimpleQueue()
        self.answers: SimpleQueue[R | BaseException] = SimpleQueue()
        self.busy = False
        self._begin, self._connection = begin, connection
        self._call: Any = None
        self._stopped = False
        _thread.start_new_thread(self._run, ())

    def stop(self) -> None:
        """End the call."""
        self._stopped = True
        self.wanted.put(False)  # noqa: FBT003 - the one thing that the queue says
        if self.busy and self._call is not None:
            with suppress(RuntimeError):  # the interpreter ends, and so does the call
                in_background(self._call.cancel)

    def _run(self) -> None:
        try:
            self._call = self._begin()
            while self.wanted.get() and not self._stopped:
                self.answers.put(next(self._call))
            self.answers.put(Unavailable("the stream was closed", reason="STREAM_CLOSED"))
        except BaseException as error:  # noqa: BLE001 - the thread that reads raises it
            self.answers.put(error)
        finally:
            if self._call is not None:
                self._call.cancel()
            self._connection.leave()


class Stream(Generic[R]):
    """An open server stream. `close` is idempotent and safe from any thread; a stream that is forgotten closes."""

    def __init__(
        self,
        connections: Connections,
        connection: Connection,
        begin: Callable[[], Any],
        *,
        sent: Sent,
    ) -> None:
        self.generation = GATE.generation
        self._connections, self._connection = connections, connection
        self._sent = sent
        self._reader: Reader[R] = Reader(begin, connection)
        self._stop = weakref.finalize(self, self._reader.stop)
        self._stop.atexit = False

    def read(self, timeout: float | None = None) -> R | None:
        """Read the next message; None at the end.

        Args:
            timeout: seconds to wait for it; None means for ever.

        Raises:
            Silence: it did not come in time.
            FinetreeError: why the stream ended.
        """
        reader = self._reader
        reader.busy = True
        reader.wanted.put(True)  # noqa: FBT003 - the one thing that the queue says
        try:
            answer = reader.answers.get(timeout=timeout)
        except Empty:
            raise Silence from None
        reader.busy = False
        if isinstance(answer, StopIteration):
            return None
        if isinstance(answer, grpc.RpcError):
            raise self._connections.error_of_call(answer, self._sent) from None
        if isinstance(answer, BaseException):
            self.close(renew=True)
            raise answer
        self._connections.note_reached(self._sent.service)
        return answer

    def close(self, *, renew: bool = False) -> None:
        """End the stream. With `renew` the next one uses a new connection: this one is broken or silent."""
        if self.generation != GATE.generation:
            # Inherited by a forked child: the thread and the call are the parent's.
            GATE.keep(self._reader)
            return
        if renew:
            self._connections.renew(self._sent.service, self._connection)
        self._stop()


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
            sent = self._sent(rpc, request_id)
            try:
                response = self._attempt(rpc, request, attempts.timeout(), sent)
            except grpc.RpcError as error:
                failure = self._connections.error_of_call(error, sent)
            except FinetreeError as error:
                failure = error
            else:
                sent.log("OK")
                attempts.succeeded()
                self._connections.note_reached(rpc.service)
                return response
            delay = attempts.delay(failure)
            channels.LOG.info("%s is tried again in %.2f s: %s", rpc.path, delay, failure)
            time.sleep(delay)

    def stream(self, rpc: Rpc[Q, R], request: Q, *, timeout: float | None = None) -> Stream[R]:
        """Open a server stream. Without a `timeout` it has no deadline: its reader watches for silence."""
        sent = self._sent(rpc, channels.new_request_id())
        connection = self._connections.take(rpc.service, "stream")
        stub = connection.channel.unary_stream(rpc.path, rpc.request.SerializeToString, rpc.response.FromString)

        def begin() -> Any:
            with GATE.call():
                return stub(request, timeout, sent.metadata)

        return Stream(self._connections, connection, begin, sent=sent)

    def upload(self, rpc: Rpc[Q, R], requests: Iterable[Q], *, timeout: float | None = None) -> R:
        """Send a client stream and wait for its answer.

        Raises:
            FinetreeError: what the service answered, or why it could not be reached.
        """
        sent = self._sent(rpc, channels.new_request_id())
        connection = self._connections.take(rpc.service, "stream")
        stub = connection.channel.stream_unary(rpc.path, rpc.request.SerializeToString, rpc.response.FromString)

        def begin() -> Iterator[R]:
            # A future runs on the channel's own thread: a fork in its middle is as harmless as one beside a stream.
            with GATE.call():
                return Answer(
                    stub.future(iter(requests), timeout if timeout is not None else rpc.timeout, sent.metadata)
                )

        return self._answer(rpc, connection, begin, sent)

    def _answer(self, rpc: Rpc[Q, R], connection: Connection, begin: Callable[[], Any], sent: Sent) -> R:
        """Wait for the one answer of a call that is begun on a thread of its own."""
        stream: Stream[R] = Stream(self._connections, connection, begin, sent=sent)
        renew = True
        try:
            response = stream.read()
            renew = False
        except grpc.FutureCancelledError:
            raise error_of("CANCELLED", "", None, request_id=sent.request_id) from None
        finally:
            stream.close(renew=renew)
        if response is None:
            raise Internal(f"{rpc.path} ended without an answer", reason="NO_ANSWER", request_id=sent.request_id)
        return response

    def channel(self, service: Service) -> grpc.Channel:
        """Channel of unary calls."""
        return self._connections.lend(service)

    def raw_channel(self, service: Service) -> grpc.Channel:
        """Channel of unary calls for stubs, whose calls then carry the client's metadata."""
        channel: Any = RawChannel(self.channel(service), self.options, service)
        raw: grpc.Channel = channel
        return raw

    def close(self) -> None:
        """Close every channel; streams that are open on them end."""
        self._connections.close()

    def _sent(self, rpc: Rpc[Q, R], request_id: str) -> Sent:
        """Begin a call: read the token, which may block, before anything that a fork waits for."""
        token = channels.own_token(self.options, rpc.service)
        return Sent(rpc.service, rpc.path, request_id, token.value() if token is not None else "")

    def _attempt(self, rpc: Rpc[Q, R], request: Q, timeout: float | None, sent: Sent) -> R:
        if rpc.long:
            return self._attempt_long(rpc, request, timeout, sent)
        with GATE.call():
            connection = self._connections.take(rpc.service, "unary")
            try:
                stub = connection.channel.unary_unary(rpc.path, rpc.request.SerializeToString, rpc.response.FromString)
                response: R = stub(request, timeout, sent.metadata)
                return response
            finally:
                connection.leave()

    def _attempt_long(self, rpc: Rpc[Q, R], request: Q, timeout: float | None, sent: Sent) -> R:
        connection = self._connections.take(rpc.service, "stream")
        stub = connection.channel.unary_unary(rpc.path, rpc.request.SerializeToString, rpc.response.FromString)

        def begin() -> Iterator[R]:
            with GATE.call():  # a future runs on the channel's own thread, as that of an upload
                return Answer(stub.future(request, timeout, sent.metadata))

        return self._answer(rpc, connection, begin, sent)

    def _timeout(self, rpc: Rpc[Q, R], timeout: float | None) -> float | None:
        return timeout if timeout is not None else self.options.timeout or rpc.timeout


class Answer(Generic[R]):
    """The one answer of a client stream, to be read and cancelled like a server stream."""

    def __init__(self, future: Any) -> None:
        self._future = future

    def __iter__(self) -> Iterator[R]:
        return self

    def __next__(self) -> R:
        answer: R = self._future.result()
        return answer

    def cancel(self) -> None:
        """Cancel the call."""
        self._future.cancel()
