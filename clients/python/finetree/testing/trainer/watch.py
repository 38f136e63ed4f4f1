# SPDX-License-Identifier: Apache-2.0
"""Streams of a job's events: a cursor over its log, live on the suite's clock, broken on request."""

from __future__ import annotations

import contextlib
import time
import zlib
from collections import Counter
from collections.abc import Iterator

import grpc
from finetree_api.trainer.v1 import event_log_pb2, event_pb2, waiting_pb2

from finetree.errors import (
    FailedPrecondition,
    FinetreeTimeout,
    InvalidArgument,
    OutOfRange,
    ResourceExhausted,
    Unavailable,
)
from finetree.joblog.metrics import StepSampler
from finetree.testing.clock import Clock
from finetree.testing.requests import invalid
from finetree.testing.trainer.job import ENDED, FakeJob

BATCH = 10
HEARTBEAT = 10.0
RETRY_AFTER = 0.01
"""Seconds after which a watcher of a stopping suite may come back. A service says 1; no test is to wait for that."""


class Watches:
    """Streams, and what goes wrong with them.

    Attributes:
        attached: how many watchers have attached so far.
        max_watchers: most streams that are open at once.
    """

    def __init__(self, clock: Clock) -> None:
        self.attached = 0
        self.max_watchers = 1000
        self.epoch = 1
        self.stopping = self.silent = False
        self.disconnects: set[int] = set()
        self.holes: set[int] = set()
        self._clock = clock
        self._open: Counter[str] = Counter()

    def attached_at_least(self, count: int, *, timeout: float = 10.0) -> None:
        """Wait until watchers have attached `count` times in all.

        Raises:
            FinetreeTimeout: they have not, in `timeout` seconds.
        """
        with self._clock.changed:
            if not self._clock.changed.wait_for(lambda: self.attached >= count, timeout):
                raise FinetreeTimeout(f"{self.attached} watchers attached, not {count}", reason="TIMEOUT")

    def stream(
        self, request: event_log_pb2.WatchJobRequest, job: FakeJob, context: grpc.ServicerContext
    ) -> Iterator[event_log_pb2.WatchJobResponse]:
        """Send the events of a job that a request asks for, until its Terminal event.

        Raises:
            FinetreeError: what WatchJob documents.
        """
        seq = self._start(request, job)
        with self._admitted(job, context):
            with self._clock.changed:
                self.attached += 1
                self._clock.changed.notify_all()
            yield from self._batches(request, job, seq, context)

    def reached(self, request: waiting_pb2.WaitJobRequest, job: FakeJob, context: grpc.ServicerContext) -> bool:
        """Wait until a job comes to one of the states that a request asks for; False where it cannot or does not.

        The time is over when the suite's clock or real time says so.

        Raises:
            FinetreeError: what WaitJob documents.
        """
        wanted = frozenset(request.states) or ENDED
        real_end = time.monotonic() + request.wait_seconds
        end = self._clock.micros() + request.wait_seconds * 1_000_000
        with self._admitted(job, context), self._clock.changed:
            job.pump()
            seen, after = {job.message.state}, job.message.last_seq
            while not seen & wanted:
                over = time.monotonic() >= real_end or self._clock.micros() >= end
                if over or job.ended or self.stopping or not context.is_active():
                    return False
                moments = [end, *([job.next_due] if job.next_due else [])]
                waits = [self._clock.real_seconds_until(moment) for moment in moments]
                waits.append(real_end - time.monotonic())
                self._clock.changed.wait(max(0.001, min(wait for wait in waits if wait is not None)))
                job.pump()
                seen = {event.state_changed.current for event in job.after(after) if event.HasField("state_changed")}
                after = job.message.last_seq
            return True

    @contextlib.contextmanager
    def _admitted(self, job: FakeJob, context: grpc.ServicerContext) -> Iterator[None]:
        """Count a caller among the watchers while it waits. Raises ResourceExhausted TOO_MANY_WATCHERS."""
        with self._clock.changed:
            if self._open.total() >= self.max_watchers:
                text = f"At most {self.max_watchers} watches may be open at once; end some, or use ListEvents."
                raise ResourceExhausted(text, reason="TOO_MANY_WATCHERS", retry_after=RETRY_AFTER)
            self._open[job.message.uid] += 1
        context.add_callback(self._clock.wake)
        try:
            yield
        finally:
            with self._clock.changed:
                self._open[job.message.uid] -= 1

    def _batches(
        self, request: event_log_pb2.WatchJobRequest, job: FakeJob, seq: int, context: grpc.ServicerContext
    ) -> Iterator[event_log_pb2.WatchJobResponse]:
        sampler = StepSampler(request.max_step_events_per_second)
        interval = request.min_interval.ToMicroseconds()
        not_before = 0
        while context.is_active():
            batch, seq = self._next(request, job, seq, context=context, not_before=not_before)
            shown = [event for event in batch if _wanted(event, request) and sampler.keeps(event)]
            stopping = self.stopping
            if context.is_active():
                yield event_log_pb2.WatchJobResponse(
                    events=shown,
                    cursor=self.cursor(job, seq),
                    server_time=self._clock.timestamp(),
                    skipped=sampler.take(),
                    min_seq=1,
                    last_seq=job.message.last_seq,
                )
                not_before = self._clock.micros() + interval if shown else 0
            if seq in self.disconnects:
                self.disconnects.discard(seq)
                raise Unavailable("the server stops; attach again", reason="SERVER_STOPPING")
            if job.ended and seq == job.message.last_seq:
                return
            if stopping:
                text = "The server is stopping; call WatchJob again with the last cursor."
                raise Unavailable(text, reason="SERVER_STOPPING", retry_after=RETRY_AFTER)

    def _next(
        self,
        request: event_log_pb2.WatchJobRequest,
        job: FakeJob,
        seq: int,
        *,
        context: grpc.ServicerContext,
        not_before: int,
    ) -> tuple[list[event_pb2.JobEvent], int]:
        """Wait for the next events, and for the time of a heartbeat at the longest.

        A heartbeat is due when the suite's clock or real time says so: a client tells a dead stream by its own clock.
        """
        every = request.heartbeat.ToMicroseconds() / 1e6 or HEARTBEAT
        real_end, end = time.monotonic() + every, self._clock.micros() + round(every * 1e6)
        with self._clock.changed:
            while context.is_active() and not self.stopping:
                job.pump()
                now = self._clock.micros()
                news = job.message.last_seq > seq or job.ended
                due = now >= end or time.monotonic() >= real_end
                if not self.silent and ((news and now >= not_before) or due):
                    break
                moments = [end, *(moment for moment in (job.next_due, not_before) if moment and moment > now)]
                waits = [self._clock.real_seconds_until(moment) for moment in moments]
                waits.append(max(real_end - time.monotonic(), 0.01))
                self._clock.changed.wait(max(0.001, min(wait for wait in waits if wait is not None)))
            count = len(job.log) if request.min_interval.ToMicroseconds() else BATCH
            batch = job.after(seq)[:count]
            cut = next((index for index, event in enumerate(batch, 1) if event.seq in self.disconnects), len(batch))
            kept = [event for event in batch[:cut] if event.seq not in self.holes]
            self.holes -= {event.seq for event in batch[:cut]}
            return kept, seq + cut

    def cursor(self, job: FakeJob, seq: int) -> str:
        """Cursor after an event of a job."""
        return f"{self.epoch}.{seq}.{_check(self.epoch, job, seq)}"

    def _start(self, request: event_log_pb2.WatchJobRequest, job: FakeJob) -> int:
        with self._clock.changed:
            job.pump()
            last = job.message.last_seq
            match request.WhichOneof("start"):
                case "cursor":
                    after = self._decode(request.cursor, job)
                case "after_seq":
                    after = request.after_seq
                case "after_time":
                    moment = request.after_time.ToMicroseconds()
                    earlier = [each.seq for each in job.log if each.event_time.ToMicroseconds() <= moment]
                    after = max(earlier, default=job.message.oldest_seq - 1)
                case "now":
                    after = last
                case _:
                    after = 0
            require_kept(job, after)
            return after

    def _decode(self, text: str, job: FakeJob) -> int:
        base, mark, seen = text.rpartition("~")
        if mark:
            if not _is_number(seen) or "~" in base:
                raise _no_cursor()
            return max(int(seen), self._decode(base, job) if base else 0)
        epoch, _, rest = text.partition(".")
        seq, _, check = rest.partition(".")
        if not _is_number(epoch) or not _is_number(seq) or check != _check(int(epoch), job, int(seq)):
            raise _no_cursor()
        if int(epoch) != self.epoch:
            text = "The event log was restored from a backup; watch the job from the beginning."
            raise FailedPrecondition(text, reason="LOG_RESET")
        return int(seq)


def require_kept(job: FakeJob, after: int) -> None:
    """Raise unless the event after a number is kept, or will come.

    Raises:
        OutOfRange: FUTURE_SEQ, EVENTS_EXPIRED.
    """
    last, oldest = job.message.last_seq, job.message.oldest_seq
    if after > last:
        text = f"event {after} does not exist; the newest is {last}."
        raise OutOfRange(text, reason="FUTURE_SEQ", metadata={"last_seq": str(last)})
    if after + 1 < oldest:
        text = f"event {after + 1} is no longer kept; the oldest is {oldest}."
        raise OutOfRange(text, reason="EVENTS_EXPIRED", metadata={"oldest_seq": str(oldest)})


def _wanted(event: event_pb2.JobEvent, request: event_log_pb2.WatchJobRequest) -> bool:
    return (not request.kinds or event.kind in request.kinds) and event.level >= request.min_level


def _check(epoch: int, job: FakeJob, seq: int) -> str:
    return f"{zlib.crc32(f'{epoch}/{job.message.uid}/{seq}'.encode()):08x}"


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 16


def _no_cursor() -> InvalidArgument:
    text = "is not a cursor of this job; use one from a WatchJob response, or none"
    return invalid("cursor", text, "CURSOR_INVALID")
