# SPDX-License-Identifier: Apache-2.0
"""The logs that workers write, one for each attempt: read from the attempt's folder, also while they grow."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from finetree_api.trainer.v1 import job_log_pb2
from finetree_data.exchange import log_file
from finetree_data.exchange.log_file import JOB_LOG
from finetree_runtime.errors import NotFound, OutOfRange, Unavailable
from finetree_runtime.server.limits.table import Caller
from sqlalchemy import Connection

from finetree_trainer.clock import timestamp
from finetree_trainer.joblog import states
from finetree_trainer.joblog.log import EventLog, job_not_found
from finetree_trainer.joblog.watch import Watches
from finetree_trainer.layout import Layout
from finetree_trainer.store import attempts, jobs

PIECE_BYTES = 256 * 1024
"""Bytes of a message: a log of 8 MiB is 32 of them."""
LOOK_SECONDS = 0.3
"""How long a reader waits before it looks again whether the file has grown."""
HEARTBEAT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class _Attempts:
    """The attempts of a job, and whether it has ended."""

    rows: list[attempts.AttemptRow]
    job_ended: bool

    def ended(self, number: int) -> bool:
        """Whether nothing more is written by an attempt; 0: whether there is none and will be none."""
        if not number:
            return self.job_ended and not self.rows
        return any(row.attempt == number and row.ended for row in self.rows)

    def after(self, number: int) -> int:
        """The attempt that follows; 0 while there is none."""
        return next((row.attempt for row in self.rows if row.attempt > number), 0)


class AttemptLogs:
    """Lists, reads and follows the logs of attempts."""

    def __init__(self, log: EventLog, layout: Layout, watches: Watches) -> None:
        self._log, self._layout, self._watches = log, layout, watches

    async def list(self, uid: str) -> "list[job_log_pb2.JobLog]":
        """The logs of a job, in the order of its attempts. Raises NotFound JOB_NOT_FOUND."""
        return [await asyncio.to_thread(self._describe, row) for row in (await self._attempts(uid)).rows]

    def _describe(self, row: attempts.AttemptRow) -> job_log_pb2.JobLog:
        found = log_file.segments(self._layout.attempt(row.job_uid, row.attempt), JOB_LOG)
        return job_log_pb2.JobLog(
            attempt=row.attempt,
            size_bytes=found[-1].end if found else 0,
            kept_bytes=sum(segment.size for segment in found),
            start_time=timestamp(row.started),
            end_time=timestamp(row.ended) if row.ended else None,
        )

    async def read(
        self, uid: str, request: job_log_pb2.ReadJobLogRequest, *, caller: Caller
    ) -> AsyncIterator[job_log_pb2.ReadJobLogResponse]:
        """Stream a log from where the request says; the first piece comes at once, with or without text.

        Raises the errors that ReadJobLog documents.
        """
        known = await self._attempts(uid)
        number = request.attempt or (known.rows[-1].attempt if known.rows else 0)
        if (number == 0 and not request.follow) or (number and all(row.attempt != number for row in known.rows)):
            raise _log_not_found(number)
        offset = await asyncio.to_thread(self._start, uid, number, request)
        if not request.follow:
            piece = await asyncio.to_thread(self._read, uid, number, offset=offset, ended=known.ended(number))
            yield piece
            while piece.text:
                piece = await asyncio.to_thread(
                    self._read, uid, number, offset=piece.next_offset, ended=known.ended(number)
                )
                if piece.text:
                    yield piece
            return
        with self._watches.admitted(caller) as stop:
            async for piece in self._follow(uid, number, offset, last=request.last_attempt, stop=stop):
                yield piece

    async def _follow(
        self, uid: str, number: int, offset: int, *, last: int, stop: "asyncio.Future[None]"
    ) -> AsyncIterator[job_log_pb2.ReadJobLogResponse]:
        sent = 0.0
        while True:
            # Before the file is read: what was written until the attempt's end is then in what is read.
            known = await self._attempts(uid)
            ended = known.ended(number)
            piece = await asyncio.to_thread(self._read, uid, number, offset=offset, ended=ended)
            if piece.text or time.monotonic() - sent >= HEARTBEAT_SECONDS:
                yield piece
                offset, sent = piece.next_offset, time.monotonic()
            if piece.text:
                continue
            following = known.after(number) if ended or not number else 0
            if following and (not last or following <= last):
                number, offset = following, 0
                continue
            if ended and (known.job_ended or (last and number >= last)):
                return
            if stop.done():
                text = "The server is stopping; call ReadJobLog again with the last attempt and next_offset."
                raise Unavailable("SERVER_STOPPING", text, retry_delay=1.0)
            await asyncio.wait([stop], timeout=LOOK_SECONDS)

    async def _attempts(self, uid: str) -> _Attempts:
        def load(connection: Connection) -> _Attempts:
            reach = jobs.span(connection, uid)
            if reach is None:
                raise job_not_found(uid)
            return _Attempts(attempts.of_job(connection, uid), reach.state in states.TERMINAL)

        return await self._log.store.read(load)

    def _start(self, uid: str, number: int, request: job_log_pb2.ReadJobLogRequest) -> int:
        folder = self._layout.attempt(uid, number)
        if request.WhichOneof("start") == "last_lines":
            return log_file.start_of_last(folder, JOB_LOG, request.last_lines)
        found = log_file.segments(folder, JOB_LOG)
        size = found[-1].end if found else 0
        if request.offset > size:
            text = f"offset {request.offset} is beyond the log's {size} bytes."
            raise OutOfRange("OFFSET_BEYOND_END", text, metadata={"size_bytes": str(size)})
        return request.offset

    def _read(self, uid: str, number: int, *, offset: int, ended: bool) -> job_log_pb2.ReadJobLogResponse:
        folder = self._layout.attempt(uid, number)
        start, data = log_file.read(folder, JOB_LOG, offset, limit=PIECE_BYTES, whole_lines=not ended)
        text = data.decode("utf-8", "replace")
        return job_log_pb2.ReadJobLogResponse(attempt=number, offset=start, text=text, next_offset=start + len(data))


def _log_not_found(number: int) -> NotFound:
    text = f"The job has no attempt {number}; ListJobLogs shows those that it has."
    if not number:
        text = "No attempt of the job has begun, so that there is no log; follow it to read it when it comes."
    return NotFound("LOG_NOT_FOUND", text)
