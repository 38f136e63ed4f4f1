# SPDX-License-Identifier: Apache-2.0
"""Following all jobs of a project, without any network: what to request, what to deliver.

The service gives each change its place. A follower asks again behind the last change that it has, so that each is
delivered once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from finetree_api.trainer.v1 import event_pb2, job_pb2, trainer_pb2, waiting_pb2

from finetree._shared import rpcs
from finetree._shared.follow import MISSED_HEARTBEATS, Pace, event_kinds
from finetree._shared.requests import enum_number
from finetree._shared.trainer_requests import full_name, project_name
from finetree.errors import InvalidArgument, Violation

LONGEST_WAIT = 20
"""Seconds that one call of WaitJob waits at most."""


class ProjectFollow:
    """State of one follower of a project. It is never finished: jobs come as long as there are people."""

    def __init__(
        self,
        project: str,
        *,
        cursor: str,
        now: bool,
        kinds: Sequence[int],
        min_level: int,
        labels: Mapping[str, str],
        pace: Pace,
    ) -> None:
        self.rpc = rpcs.WATCH_JOBS
        self.subject = "the jobs of the project"
        self.silence = max(pace.heartbeat, pace.min_interval) * MISSED_HEARTBEATS
        self.finished = False
        self._project, self._now, self._kinds = project, now, list(kinds)
        self._min_level, self._labels, self._pace = min_level, dict(labels), pace
        self._ready: deque[waiting_pb2.JobChange] = deque()
        self._received = self._delivered = self._after_batch = cursor

    @property
    def cursor(self) -> str:
        """Cursor after the event that was delivered last, to store and to give to `watch_jobs(cursor=…)`."""
        return self._delivered

    def request(self) -> waiting_pb2.WatchJobsRequest:
        """Build the request for what comes next."""
        request = waiting_pb2.WatchJobsRequest(
            parent=project_name(self._project),
            kinds=self._kinds,  # type: ignore[arg-type]  # a kind newer than this client passes as a number
            min_level=self._min_level,  # type: ignore[arg-type]  # likewise
            labels=self._labels,
        )
        request.heartbeat.FromNanoseconds(round(self._pace.heartbeat * 1e9))
        if self._pace.min_interval:
            request.min_interval.FromNanoseconds(round(self._pace.min_interval * 1e9))
        if self._received:
            request.cursor = self._received
        elif self._now:
            request.now.SetInParent()
        return request

    def accept(self, batch: waiting_pb2.WatchJobsResponse) -> None:
        """Accept a batch."""
        self._ready.extend(batch.changes)
        self._received = self._after_batch = batch.cursor
        if not self._ready:
            self._delivered = batch.cursor

    def take(self) -> event_pb2.JobEvent | None:
        """Return the next event to deliver; None when more must be received."""
        if not self._ready:
            return None
        change = self._ready.popleft()
        self._delivered = change.cursor if self._ready else self._after_batch
        return change.event

    def question(self) -> trainer_pb2.GetJobRequest | None:
        """Nothing: the stream has no end of its own."""
        return None

    def ended_without_terminal(self, job: job_pb2.Job) -> bool:  # noqa: ARG002 - as of a job's follower
        """Never."""
        return False


def follow_project(
    project: str,
    *,
    cursor: str,
    now: bool,
    kinds: Sequence[str | int],
    min_level: str | int,
    labels: Mapping[str, str] | None,
    pace: Pace,
) -> ProjectFollow:
    """Build a follower of a project's jobs.

    Raises:
        InvalidArgument: a cursor and `now` are both given, or a word is no kind or level.
    """
    if cursor and now:
        text = "give one of cursor, now, not both"
        raise InvalidArgument(f"now: {text}", reason="INVALID_REQUEST", violations=(Violation("now", text),))
    return ProjectFollow(
        project,
        cursor=cursor,
        now=now,
        kinds=event_kinds(kinds),
        min_level=enum_number(event_pb2.EventLevel, min_level, "min_level"),
        labels=labels or {},
        pace=pace,
    )


def wait_job(project: str, name: str, states: Sequence[str | int], wait: int) -> waiting_pb2.WaitJobRequest:
    """Build the request of WaitJob; `wait` in seconds."""
    return waiting_pb2.WaitJobRequest(
        name=full_name(project, "jobs", name),
        states=[enum_number(job_pb2.JobState, state, "states") for state in states],
        wait_seconds=wait,
    )
