# SPDX-License-Identifier: Apache-2.0
"""Events of a job or of a project as an iterator that survives broken connections, restarts and silence."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from finetree_api.trainer.v1 import event_pb2

from finetree._shared import rpcs
from finetree._shared.channels import LOG
from finetree._shared.follow import Following, ended_early, heartbeats_missed
from finetree._shared.fork import GATE
from finetree._shared.retry import Backoff
from finetree._sync.transport import Silence, Stream, Transport
from finetree.errors import FinetreeError


class EventStream:
    """Every event of a job, once and in order, until its Terminal event; or those of all jobs, without end.

    It attaches on the first `next`, and re-attaches from its position after a broken connection, a restarted server, a
    missing number, and when nothing (not even a heartbeat) arrives for three heartbeats. After `reconnect_timeout`
    seconds without a message it raises the last error. `close()` ends it; it is a context. Threads and tasks may
    share one: each event goes to one of them.
    """

    def __init__(self, transport: Transport, follow: Following, *, deadline: float | None = None) -> None:
        self._transport, self._follow = transport, follow
        self._backoff = Backoff(transport.options.reconnect_timeout, deadline)
        self._stream: Stream[Any] | None = None
        self._closed = threading.Event()
        self._turns: dict[int, threading.Lock] = {}

    @property
    def cursor(self) -> str:
        """Cursor after the event that was delivered last, to store and to give to `events(cursor=…)`."""
        return self._follow.cursor

    def __iter__(self) -> Iterator[event_pb2.JobEvent]:
        return self

    def __next__(self) -> event_pb2.JobEvent:
        # One for each process: a forked child cannot wait for a thread of its parent.
        with self._turns.setdefault(GATE.generation, threading.Lock()):
            return self._next()

    def _next(self) -> event_pb2.JobEvent:
        while not self._closed.is_set():
            event = self._follow.take()
            if event is not None:
                return event
            if self._follow.finished:
                break
            try:
                self._receive()
            except FinetreeError as error:
                self._detach(renew=True)
                delay = self._backoff.delay(error)
                LOG.info("events of %s are asked for again in %.2f s: %s", self._follow.subject, delay, error)
                self._closed.wait(delay)
        self.close()
        raise StopIteration

    def close(self) -> None:
        """End the stream. Safe to call twice."""
        self._closed.set()
        self._detach(renew=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _receive(self) -> None:
        stream = self._attached()
        if self._closed.is_set():  # by another thread, which may have missed a stream made just now
            self._detach(renew=False)
            return
        try:
            batch = stream.read(timeout=self._follow.silence)
        except Silence:
            raise heartbeats_missed(self._follow) from None
        if batch is None:
            self._ended()
            return
        self._follow.accept(batch)
        self._backoff.progressed()

    def _attached(self) -> Stream[Any]:
        if self._stream is not None and self._stream.generation != GATE.generation:
            # Inherited by a forked child: it continues in the parent.
            GATE.keep(self._stream)
            self._stream = None
        if self._stream is None:
            self._stream = self._transport.stream(
                self._follow.rpc, self._follow.request(), timeout=self._backoff.within(None)
            )
        return self._stream

    def _ended(self) -> None:
        self._detach(renew=False)
        request = self._follow.question()
        if request is None:
            raise ended_early(self._follow)
        job = self._transport.unary(rpcs.GET_JOB, request, timeout=self._backoff.within(rpcs.QUICK)).job
        if not self._follow.ended_without_terminal(job):
            raise ended_early(self._follow)

    def _detach(self, *, renew: bool) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close(renew=renew)
