# SPDX-License-Identifier: Apache-2.0
"""One change of a job: the events that are added, the state it goes to, and the numbers that follow from them."""

from collections.abc import Iterable, Mapping

from finetree_api.trainer.v1 import event_pb2, job_pb2
from google.rpc import status_pb2

from finetree_trainer.clock import timestamp
from finetree_trainer.joblog import progress, states
from finetree_trainer.store.jobs import JobRow

_KINDS = {
    field.name: event_pb2.EventKind.Value(f"EVENT_KIND_{field.name.upper()}")
    for field in event_pb2.JobEvent.DESCRIPTOR.oneofs_by_name["payload"].fields
}
_LEVELS = {
    "checkpoint_failed": event_pb2.EVENT_LEVEL_WARNING,
    "batch_size_changed": event_pb2.EVENT_LEVEL_WARNING,
    "alert": event_pb2.EVENT_LEVEL_WARNING,
}


class FinishedError(Exception):
    """The job has its Terminal event; nothing comes after it."""


class Transaction:
    """The job's row, the part of its Job message that changes (`snapshot`), and the events of this transaction.

    It lives on the writer thread for the length of one database transaction; `now` is the service's clock.
    """

    def __init__(self, row: JobRow, now: int) -> None:
        self.row = row
        # A clock that was set back while the service was down must not set the log's times back.
        self.now = max(now, row.update_time)
        self.snapshot = job_pb2.Job.FromString(row.snapshot)
        self.events: list[event_pb2.JobEvent] = []
        self.changed = False
        self._closed = row.state in states.TERMINAL

    @property
    def finished(self) -> bool:
        """Whether the job has its Terminal event."""
        return self._closed

    def add(self, event: event_pb2.JobEvent) -> None:
        """Number an event, complete and append it. Raises FinishedError after the Terminal event."""
        if self._closed:
            raise FinishedError(self.row.uid)
        row = self.row
        row.last_seq += 1
        payload = event.WhichOneof("payload") or ""
        event.job, event.job_uid, event.seq = row.name, row.uid, row.last_seq
        event.attempt, event.state = row.attempt, job_pb2.JobState.ValueType(row.state)
        event.event_time.FromMicroseconds(self.now)
        if row.attempt_started:
            event.elapsed.FromMicroseconds(max(0, self.now - row.attempt_started))
        event.kind = event_pb2.EventKind.ValueType(_KINDS.get(payload, 0))
        event.level = event.level or _LEVELS.get(payload, event_pb2.EVENT_LEVEL_INFO)
        progress.update(self.snapshot, event, self.row.task)
        self.events.append(event)

    def move(
        self,
        state: job_pb2.JobState.ValueType,
        code: str,
        text: str,
        *,
        remedy: str = "",
        not_before: int = 0,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Go to another state and log it. Raises TransitionError where it may not follow the present one."""
        previous = job_pb2.JobState.ValueType(self.row.state)
        states.require_transition(previous, state)
        reason = job_pb2.StateReason(code=code, text=text, remedy=remedy, metadata=metadata)
        if not_before:
            reason.next_attempt_time.CopyFrom(timestamp(not_before))
        self.row.state = state
        self.snapshot.state_reason.CopyFrom(reason)
        changed = event_pb2.StateChanged(previous=previous, current=state, reason=reason)
        self.add(event_pb2.JobEvent(state_changed=changed, message=text))

    def finish(
        self,
        state: job_pb2.JobState.ValueType,
        code: str,
        text: str,
        *,
        remedy: str = "",
        error: status_pb2.Status | None = None,
        category: job_pb2.FailureCategory.ValueType = job_pb2.FAILURE_CATEGORY_UNSPECIFIED,
        retryable: bool = False,
        summary: event_pb2.RunSummary | None = None,
    ) -> None:
        """Go to a terminal state and log the job's one Terminal event; nothing can be added after it."""
        self.move(state, code, text, remedy=remedy)
        self.row.end_time = self.now
        self.snapshot.ClearField("placements")
        self.snapshot.failure_category = category
        if error is not None:
            self.snapshot.error.CopyFrom(error)
        terminal = event_pb2.Terminal(
            state=state, error=error, failure_category=category, retryable=retryable, summary=summary
        )
        level = event_pb2.EVENT_LEVEL_ERROR if state == job_pb2.JOB_STATE_FAILED else event_pb2.EVENT_LEVEL_INFO
        self.add(event_pb2.JobEvent(terminal=terminal, message=text, level=level))
        self._closed = True

    def cancel(self, summary: event_pb2.RunSummary | None = None, *, published: bool = False) -> None:
        """Go to CANCELLED after a worker that was told to end: on request, or by a limit, which stays the reason."""
        was = self.snapshot.state_reason
        code, text, remedy = "CANCELLED", "Cancelled on request.", ""
        if was.code in states.LIMITS:
            code, text = was.code, was.text
            if published:
                text = f"{text} What it had learned is published."
                remedy = "Download it (`finetree jobs download`), or train on from it with a higher limit."
        self.finish(job_pb2.JOB_STATE_CANCELLED, code, text, remedy=remedy, summary=summary)

    def begin_attempt(self, placements: Iterable[job_pb2.Placement]) -> int:
        """Count a new attempt, place it on devices and start its clock; return its number."""
        self.row.attempt += 1
        self.row.attempt_started = self.now
        self.snapshot.placements.extend(placements)
        if not self.snapshot.HasField("start_time"):
            self.snapshot.start_time.CopyFrom(timestamp(self.now))
        return self.row.attempt

    def recover(self, code: str, text: str, *, not_before: int = 0) -> None:
        """Have the job wait for another attempt after one whose process is dead; up to a time, if that is not 0."""
        self.snapshot.ClearField("placements")
        self.move(job_pb2.JOB_STATE_RECOVERING, code, text, not_before=not_before)

    def pause(self, text: str) -> None:
        """Go to PAUSED after an attempt whose process is dead."""
        self.snapshot.ClearField("placements")
        remedy = f"Resume it (`finetree jobs resume {self.row.uid}`)."
        self.move(job_pb2.JOB_STATE_PAUSED, "PAUSED", text, remedy=remedy)
        self._stop_clock()

    def requeue(self, text: str) -> None:
        """Have a preempted job wait again, at its place, after an attempt whose process is dead."""
        self.snapshot.ClearField("placements")
        self.move(job_pb2.JOB_STATE_QUEUED, states.PREEMPTED, text)

    def suspend(self, text: str) -> None:
        """Take a waiting job out of the queue; its state stays."""
        self.row.suspended = self.changed = True
        self.snapshot.state_reason.CopyFrom(job_pb2.StateReason(code="SUSPENDED", text=text))
        self._stop_clock()

    def resume(self) -> None:
        """Have a paused or suspended job wait for a device."""
        text = "Resumed on request; waits for a device."
        self.row.suspended, self.changed = False, True
        if self.snapshot.HasField("pause_time"):
            paused = self.now - self.snapshot.pause_time.ToMicroseconds()
            self.snapshot.paused_duration.FromMicroseconds(self.snapshot.paused_duration.ToMicroseconds() + paused)
            self.snapshot.ClearField("pause_time")
        if self.row.state == job_pb2.JOB_STATE_PAUSED:
            self.move(job_pb2.JOB_STATE_QUEUED, "WAITING_FOR_DEVICE", text)
        else:
            self.snapshot.state_reason.CopyFrom(job_pb2.StateReason(code="WAITING_FOR_DEVICE", text=text))

    def _stop_clock(self) -> None:
        """Note since when the job is paused: its limits do not count this time."""
        if self.snapshot.HasField("start_time"):
            self.snapshot.pause_time.CopyFrom(timestamp(self.now))

    def flush(self) -> bool:
        """Write the snapshot back into the row; return whether there is anything to store."""
        if not self.events and not self.changed:
            return False
        self.row.snapshot = self.snapshot.SerializeToString()
        self.row.update_time = self.now
        return True
