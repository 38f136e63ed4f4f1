# SPDX-License-Identifier: Apache-2.0
"""Following a job's event log, without any network: what to request, what to deliver, when it is over.

The service numbers the events of a job 1, 2, 3 … without a gap. A follower delivers each number once: it drops events
that it has seen, and when a number is missing it requests again from the last one it has.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from finetree_api.trainer.v1 import event_log_pb2, event_pb2, job_pb2, trainer_pb2

from finetree._shared import rpcs
from finetree._shared.requests import enum_number
from finetree._shared.rpcs import Rpc
from finetree.errors import Internal, InvalidArgument, Unavailable, Violation

MISSED_HEARTBEATS = 3
"""Heartbeats without a message after which a stream counts as broken."""
MAX_GAPS = 3
"""Times that events may be missing before the log itself counts as damaged."""
MAX_RATE = 100_000
"""Highest max_step_events_per_second of the contract."""
UNKNOWN = -1
"""Sequence number of a follower that began at a cursor, a time or now, and has seen no event."""
TOKEN = re.compile(r"(?P<cursor>.*)~(?P<seq>\d+)", re.DOTALL)
"""A cursor of ours: that of a batch, and the last number delivered from the batch after it."""
TERMINAL = event_pb2.EVENT_KIND_TERMINAL
ENDED = {job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_CANCELLED}


@dataclass(frozen=True, slots=True)
class Start:
    """Where a follower begins: one of a number, a cursor, a time and now; the first event without any.

    Raises:
        InvalidArgument: more than one is given, or a number below 0.
    """

    after_seq: int = 0
    cursor: str = ""
    after_time: datetime | None = None
    now: bool = False

    def __post_init__(self) -> None:
        given = {
            "after_seq": bool(self.after_seq),
            "cursor": bool(self.cursor),
            "after_time": self.after_time is not None,
            "now": self.now,
        }
        names = [name for name, stated in given.items() if stated]
        if len(names) > 1:
            raise _invalid(names[-1], f"give one of {', '.join(given)}, not {' and '.join(names)}")
        if self.after_seq < 0:
            raise _invalid("after_seq", f"must be 0 or more, got {self.after_seq}")


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a follower is sent something.

    Raises:
        InvalidArgument: a number that the contract does not take.

    Attributes:
        heartbeat: longest silence in seconds.
        min_interval: least seconds between two batches.
        max_step_events_per_second: highest rate of step metrics; 0: all.
    """

    heartbeat: float = 10.0
    min_interval: float = 0.0
    max_step_events_per_second: int = 0

    def __post_init__(self) -> None:
        if not 0.1 <= self.heartbeat <= 60:
            raise _invalid("heartbeat", f"must be 0.1 to 60 seconds, got {self.heartbeat}")
        if not 0 <= self.min_interval <= 60:
            raise _invalid("min_interval", f"must be 0 to 60 seconds, got {self.min_interval}")
        if not 0 <= self.max_step_events_per_second <= MAX_RATE:
            text = f"must be 0 to {MAX_RATE}, got {self.max_step_events_per_second}"
            raise _invalid("max_step_events_per_second", text)


class Following(Protocol):
    """What a stream of events asks of its follower: what to request, what to deliver, when it is over."""

    rpc: Rpc[Any, Any]
    subject: str
    """What is followed, in an error's text."""
    silence: float
    """Seconds without a message after which the stream counts as broken."""
    finished: bool

    @property
    def cursor(self) -> str:
        """Cursor after the event that was delivered last."""

    def request(self) -> Any:
        """Build the request for what comes next."""

    def accept(self, batch: Any) -> None:
        """Accept a batch."""

    def take(self) -> event_pb2.JobEvent | None:
        """Return the next event to deliver; None when more must be received."""

    def question(self) -> trainer_pb2.GetJobRequest | None:
        """What to ask when the stream has ended cleanly; None where that never is its end."""

    def ended_without_terminal(self, job: job_pb2.Job) -> bool:
        """Whether a stream that ended cleanly has nothing left to deliver."""


class Follow:
    """State of one follower.

    Attributes:
        finished: the Terminal event was delivered, or lies before the position where the follower began.
    """

    def __init__(
        self,
        name: str,
        *,
        start: Start,
        kinds: Sequence[int],
        min_level: int,
        pace: Pace,
    ) -> None:
        self.name = self.subject = name
        self.rpc = rpcs.WATCH_JOB
        # The service is silent between batches that it holds back.
        self.silence = max(pace.heartbeat, pace.min_interval) * MISSED_HEARTBEATS
        self.finished = False
        self._start, self._pace = start, pace
        self._wanted = frozenset(kinds)
        self._min_level = min_level
        self._ready: deque[event_pb2.JobEvent] = deque()
        self._base, self._seen = _position(start)
        self._delivered = self._seen
        self._pending = self._base
        self._gaps = 0

    @property
    def cursor(self) -> str:
        """Cursor after the event that was delivered last, to store and to give to `events(cursor=…)`."""
        return self._base if self._delivered == UNKNOWN else f"{self._base}~{self._delivered}"

    def request(self) -> event_log_pb2.WatchJobRequest:
        """Build the request for what comes next."""
        request = event_log_pb2.WatchJobRequest(name=self.name, min_level=self._min_level)  # type: ignore[arg-type]  # a level newer than this client passes as a number
        request.max_step_events_per_second = self._pace.max_step_events_per_second
        request.heartbeat.FromNanoseconds(round(self._pace.heartbeat * 1e9))
        if self._pace.min_interval:
            request.min_interval.FromNanoseconds(round(self._pace.min_interval * 1e9))
        if self._wanted:
            request.kinds.extend(sorted(self._wanted | {TERMINAL}))  # type: ignore[arg-type]  # likewise
        # After a gap the cursor points behind it, the number points before it.
        if self._pending and not self._gaps:
            request.cursor = self._pending
        elif self._seen > 0:
            request.after_seq = self._seen
        elif self._start.after_time is not None:
            request.after_time.FromDatetime(self._start.after_time)
        elif self._start.now:
            request.now.SetInParent()
        return request

    def accept(self, batch: event_log_pb2.WatchJobResponse) -> None:
        """Accept a batch.

        Raises:
            Unavailable: EVENTS_MISSING: numbers are missing; attach again.
            Internal: EVENT_LOG_GAP: they are missing from the log itself.
        """
        for event in batch.events:
            if event.seq <= self._seen:
                continue
            if not self._filtered and self._seen != UNKNOWN:
                self._check(range(self._seen + 1, event.seq), batch)
            self._seen = event.seq
            self._gaps = 0
            self._ready.append(event)
        self._pending = batch.cursor or self._pending
        if not self._ready:
            self._caught_up()

    def take(self) -> event_pb2.JobEvent | None:
        """Return the next event to deliver; None when more must be received."""
        while self._ready:
            event = self._ready.popleft()
            self._delivered = event.seq
            terminal = event.kind == TERMINAL or event.HasField("terminal")
            self.finished = self.finished or terminal
            if not self._ready:
                self._caught_up()
            if not terminal or not self._wanted or TERMINAL in self._wanted:
                return event
        return None

    def question(self) -> trainer_pb2.GetJobRequest | None:
        """What to ask when the stream has ended cleanly: how the job is."""
        return trainer_pb2.GetJobRequest(name=self.name)

    def ended_without_terminal(self, job: job_pb2.Job) -> bool:
        """Whether a stream that ended cleanly, without a Terminal event, has nothing left to deliver.

        That is so when the follower began after the Terminal event, or its level leaves that out.
        """
        complete = self._filtered or self._seen == UNKNOWN or job.last_seq <= self._seen
        # By its time, too: a newer service may have a state for it that this client does not know.
        self.finished = (job.state in ENDED or job.HasField("end_time")) and complete
        if not complete:
            # Events at the end are missing: the cursor is behind them, the last number is not.
            self._gaps += 1
        return self.finished

    @property
    def _filtered(self) -> bool:
        sampled = self._pace.max_step_events_per_second > 0
        return bool(self._wanted) or self._min_level > event_pb2.EVENT_LEVEL_DEBUG or sampled

    def _caught_up(self) -> None:
        if not self._gaps:
            self._base = self._pending

    def _check(self, missing: range, batch: event_log_pb2.WatchJobResponse) -> None:
        if all(any(skip.first_seq <= seq <= skip.last_seq for skip in batch.skipped) for seq in missing):
            return
        self._gaps += 1
        text = f"events {missing.start} to {missing.stop - 1} of {self.name} are missing from the stream"
        if self._gaps > MAX_GAPS:
            raise Internal(f"{text}, again and again; report it", reason="EVENT_LOG_GAP")
        raise Unavailable(text, reason="EVENTS_MISSING")


def _position(start: Start) -> tuple[str, int]:
    """Cursor of a service, and number of the last event before the start."""
    if found := TOKEN.fullmatch(start.cursor):
        return found["cursor"], int(found["seq"])
    unknown = start.cursor or start.now or start.after_time is not None
    return start.cursor, UNKNOWN if unknown else start.after_seq


def _invalid(field: str, text: str) -> InvalidArgument:
    violations = (Violation(field, text),)
    return InvalidArgument(f"{field}: {text}", reason="INVALID_REQUEST", violations=violations)


def heartbeats_missed(follow: Following) -> Unavailable:
    """Make the error for a silent stream."""
    return Unavailable(
        f"no message about {follow.subject} for {follow.silence:g} s, not even a heartbeat", reason="HEARTBEAT_MISSED"
    )


def ended_early(follow: Following) -> Unavailable:
    """Make the error for a stream that ended cleanly before its end."""
    return Unavailable(f"the stream of {follow.subject} ended before its Terminal event", reason="STREAM_ENDED")


def follow_job(
    name: str, *, start: Start | None = None, kinds: Sequence[str | int] = (), min_level: str | int = 0, pace: Pace
) -> Follow:
    """Build a follower of a job's events."""
    return Follow(
        name,
        start=start or Start(),
        kinds=event_kinds(kinds),
        min_level=enum_number(event_pb2.EventLevel, min_level, "min_level"),
        pace=pace,
    )


def event_kinds(kinds: Sequence[str | int]) -> list[Any]:
    """Numbers of kinds of events by their words, such as "step_metrics".

    Raises:
        InvalidArgument: INVALID_REQUEST: there is no such kind.
    """
    return [enum_number(event_pb2.EventKind, kind, "kinds") for kind in kinds]
