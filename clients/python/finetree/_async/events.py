# SPDX-License-Identifier: Apache-2.0
"""Events of a job or of a project as an async iterator that survives broken connections, restarts and silence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self

from finetree_api.trainer.v1 import event_pb2

from finetree._async.transport import AsyncTransport, Stream
from finetree._shared import rpcs
from finetree._shared.channels import LOG
from finetree._shared.follow import Following, ended_early, heartbeats_missed
from finetree._shared.retry import Backoff
from finetree.errors import FinetreeError


class AsyncEventStream:
    """Every event of a job, once and in order, until its Terminal event; or those of all jobs, without end.

    It attaches on the first `next`, and re-attaches from its position after a broken connection, a restarted server, a
    missing number, and when nothing (not even a heartbeat) arrives for three heartbeats. After `reconnect_timeout`
    seconds without a message it raises the last error. `close()` ends it; it is a context. Threads and tasks may
    share one: each event goes to one of them.
    """

    def __init__(self, transport: AsyncTransport, follow: Following, *, deadline: float | None = None) -> None:
        self._transport, self._follow = transport, follow
        self._backoff = Backoff(transport.options.reconnect_timeout, deadline)
        self._stream: Stream[Any] | None = None
        self._closed = asyncio.Event()
        self._turn = asyncio.Lock()

    @property
    def cursor(self) -> str:
        """Cursor after the event that was delivered last, to store and to give to `events(cursor=…)`."""
        return self._follow.cursor

    def __aiter__(self) -> AsyncIterator[event_pb2.JobEvent]:
        return self

    async def __anext__(self) -> event_pb2.JobEvent:
        async with self._turn:
            return await self._next()

    async def _next(self) -> event_pb2.JobEvent:
        while not self._closed.is_set():
            event = self._follow.take()
            if event is not None:
                return event
            if self._follow.finished:
                break
            try:
                await self._receive()
            except FinetreeError as error:
                await self._detach(renew=True)
                delay = self._backoff.delay(error)
                LOG.info("events of %s are asked for again in %.2f s: %s", self._follow.subject, delay, error)
                await self._pause(delay)
        await self.close()
        raise StopAsyncIteration

    async def close(self) -> None:
        """End the stream. Safe to call twice."""
        self._closed.set()
        await self._detach(renew=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _receive(self) -> None:
        if self._stream is None:
            self._stream = await self._transport.stream(
                self._follow.rpc, self._follow.request(), timeout=self._backoff.within(None)
            )
        try:
            async with asyncio.timeout(self._follow.silence):
                batch = await self._stream.read()
        except TimeoutError as error:
            if isinstance(error, FinetreeError):
                raise
            raise heartbeats_missed(self._follow) from None
        if batch is None:
            await self._ended()
            return
        self._follow.accept(batch)
        self._backoff.progressed()

    async def _ended(self) -> None:
        await self._detach(renew=False)
        request = self._follow.question()
        if request is None:
            raise ended_early(self._follow)
        job = (await self._transport.unary(rpcs.GET_JOB, request, timeout=self._backoff.within(rpcs.QUICK))).job
        if not self._follow.ended_without_terminal(job):
            raise ended_early(self._follow)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._closed.wait()
        except TimeoutError:
            pass

    async def _detach(self, *, renew: bool) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.close(renew=renew)
