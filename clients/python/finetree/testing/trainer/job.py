# SPDX-License-Identifier: Apache-2.0
"""A job of the fake trainer: its event log, and the state that follows from it."""

from __future__ import annotations

import hashlib
import mimetypes
from collections import deque
from collections.abc import Iterable
from typing import Any

from finetree_api.trainer.v1 import artifact_pb2, event_pb2, job_pb2, trainer_pb2

from finetree.errors import FailedPrecondition
from finetree.testing.clock import Clock, to_timestamp
from finetree.testing.requests import invalid, not_promised
from finetree.testing.serving import invented_checks
from finetree.testing.trainer.script import Course, Paced, ended, moved

ENDED = frozenset({job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_CANCELLED})
WITH_WORKER = frozenset({job_pb2.JOB_STATE_PREPARING, job_pb2.JOB_STATE_RUNNING, job_pb2.JOB_STATE_CANCELLING})
_KINDS = {
    field.name: event_pb2.EventKind.Value(f"EVENT_KIND_{field.name.upper()}")
    for field in event_pb2.JobEvent.DESCRIPTOR.oneofs_by_name["payload"].fields
}
MAX_PAIRS = 64
_WARNINGS = ("checkpoint_failed", "batch_size_changed", "alert")
_TRAINED = 0.15, 0.79
"""Share of a job before its first step, and share of its steps."""


class FakeJob:
    """A job and its log. Events are numbered 1, 2, 3 … and get the clock's time when they are stored.

    Attributes:
        message: the job as GetJob answers it.
        log: its events that are kept.
        files: files of its artifacts, by the artifact's own name and path.
        course: what it does.
        settled: whether what it leaves behind was brought about.
    """

    def __init__(self, message: job_pb2.Job, course: Course, clock: Clock) -> None:
        self.message = message
        self.log: list[event_pb2.JobEvent] = []
        self.course = course
        self.files = {name: dict(files) for name, files in course.files.items()} if message.HasField("train") else {}
        self.settled = False
        self._clock = clock
        self._started = 0
        self._due = course.begin(message)
        self._free = course.hold_at
        self._rests = False
        self._coming: deque[Paced] = deque(course.events(message, self._artifacts()))
        self._placements = list(message.placements)
        del message.placements[:]
        if self.next_due is not None:
            self._next(self._due + self._coming[0].micros)  # a new job waits: the rest comes when it is looked at
        if message.suspended and not course.recorded:
            self._rest()

    @property
    def kind(self) -> job_pb2.TaskKind.ValueType:
        """Kind of the job's task."""
        return job_pb2.TaskKind.Value(f"TASK_KIND_{(self.message.WhichOneof('task') or 'unspecified').upper()}")

    @property
    def ended(self) -> bool:
        """Whether its Terminal event is stored."""
        return bool(self.log) and self.log[-1].HasField("terminal")

    @property
    def next_due(self) -> int | None:
        """Microseconds at which its next event is stored by itself, None for never."""
        if self._free == 0 or self._rests or not self._coming or self.ended:
            return None
        return self._due + self._coming[0].micros

    def pump(self) -> None:
        """Store what is due by the clock, and end the job at its deadline or its longest duration."""
        while (due := self.next_due) is not None and due <= self._clock.micros():
            self._limit(due)
            if not self.ended:
                self._next(due)
        self._limit(self._clock.micros())

    def advance(self, count: int | None) -> None:
        """Store `count` of the events that are held, all of them for None."""
        stored = 0
        while self._coming and not self.ended and not self._rests and (count is None or stored < count):
            self._next(self._clock.micros())
            stored += 1

    def cancel(self, code: str = "CANCEL_REQUESTED", why: str = "Cancelled on request.") -> None:
        """Cancel the job, unless it has ended; its worker obeys at once."""
        self._finish_cancelled(code, why, self._clock.micros())

    def pause(self) -> None:
        """Pause the job; its worker obeys at once.

        Raises:
            FailedPrecondition: JOB_NOT_PAUSABLE.
            Unimplemented: NOT_IN_FAKE_SUITE: it is a recorded one.
        """
        job, now = self.message, self._clock.micros()
        if self.course.recorded:
            raise not_promised("pauses no recorded job")
        if job_pb2.JOB_ACTION_PAUSE not in job.allowed_actions:
            text = "The job does not train, or it is in no state that can be paused."
            raise FailedPrecondition(text, reason="JOB_NOT_PAUSABLE")
        if job.state == job_pb2.JOB_STATE_QUEUED:
            job.suspended = True
            job.state_reason.CopyFrom(job_pb2.StateReason(code="SUSPENDED", text="Paused on request while it waited."))
        else:
            if job.state == job_pb2.JOB_STATE_RUNNING:
                self._coming.appendleft(Paced(0, moved(job_pb2.JOB_STATE_PREPARING, job_pb2.JOB_STATE_RUNNING)))
            self._store(moved(job.state, job_pb2.JOB_STATE_PAUSING), now)
            self._store(moved(job_pb2.JOB_STATE_PAUSING, job_pb2.JOB_STATE_PAUSED), now)
            job.ClearField("placements")
        self._rest()

    def resume(self) -> None:
        """Have the job go on.

        Raises:
            FailedPrecondition: JOB_NOT_PAUSED.
        """
        job, now = self.message, self._clock.micros()
        if job_pb2.JOB_ACTION_RESUME not in job.allowed_actions:
            raise FailedPrecondition("The job is neither paused nor suspended.", reason="JOB_NOT_PAUSED")
        self._rests, job.suspended, self._due = False, False, now
        job.ClearField("blocked_by")
        if job.state == job_pb2.JOB_STATE_PAUSED:
            started = event_pb2.AttemptStarted(
                restored_step=job.progress.step, reason=event_pb2.ATTEMPT_REASON_RESUMED, engine="fake"
            )
            self._coming.appendleft(Paced(0, event_pb2.JobEvent(attempt_started=started)))
            self._coming.appendleft(Paced(0, moved(job_pb2.JOB_STATE_QUEUED, job_pb2.JOB_STATE_PREPARING)))
            self._store(moved(job_pb2.JOB_STATE_PAUSED, job_pb2.JOB_STATE_QUEUED), now)
        self._allow()

    def _rest(self) -> None:
        self._rests = True
        if self.message.suspended:
            self.message.blocked_by = "suspended: it is not queued until it is resumed"
        self._allow()

    def update(self, request: trainer_pb2.UpdateJobRequest) -> None:
        """Change the display name, labels and annotations, as far as the mask names them.

        Raises:
            InvalidArgument: INVALID_REQUEST; nothing is changed.
        """
        job = job_pb2.Job()
        job.CopyFrom(self.message)
        paths = set(request.update_mask.paths)
        if not paths:
            paths = {field.name for field, _ in request.ListFields()} & {"display_name", "labels", "annotations"}
        if "display_name" in paths:
            job.display_name = request.display_name
        elif request.display_name:
            raise invalid("display_name", "is set, and update_mask does not name it")
        for field in ("labels", "annotations"):
            _update_map(getattr(job, field), getattr(request, field), paths=paths, field=field)
        if job != self.message:
            job.update_time.CopyFrom(self._clock.timestamp())
            self.message.CopyFrom(job)

    def artifacts(self) -> list[artifact_pb2.Artifact]:
        """List the artifacts made so far, by name."""
        ready = [event.artifact_ready.artifact for event in self.log if event.HasField("artifact_ready")]
        return sorted(ready, key=lambda artifact: artifact.name)

    def after(self, seq: int) -> list[event_pb2.JobEvent]:
        """Events after a number."""
        return self.log[max(0, seq + 1 - self.message.oldest_seq) :]

    def forget_before(self, seq: int) -> None:
        """Remove the events before a number, as retention does."""
        self.log = self.after(seq - 1)
        self.message.oldest_seq = seq

    def _next(self, due: int) -> None:
        self._due = due
        paced = self._coming.popleft()
        self._store(paced.event, due)
        if self._free:
            self._free -= 1

    def _limit(self, moment: int) -> None:
        if self.course.recorded:
            return
        limits, deadline = self.message.limits, self.message.deadline
        ends = []
        if self.message.HasField("deadline"):
            ends.append((deadline.ToMicroseconds(), "DEADLINE_REACHED", "Its deadline was reached."))
        if limits.HasField("max_duration") and self._started:
            longest = self._started + limits.max_duration.ToMicroseconds()
            ends.append((longest, "MAX_DURATION_REACHED", "Its longest duration was reached."))
        for end, code, why in sorted(ends):
            if end <= moment and self.log:
                self._finish_cancelled(code, why, max(end, self.log[-1].event_time.ToMicroseconds()))

    def _finish_cancelled(self, code: str, why: str, moment: int) -> None:
        if self.ended:
            return
        state = self.message.state
        if state in WITH_WORKER:
            self._store(moved(state, job_pb2.JOB_STATE_CANCELLING, code, why), moment)
            state = job_pb2.JOB_STATE_CANCELLING
        code = "CANCELLED" if code == "CANCEL_REQUESTED" else code
        self._store(moved(state, job_pb2.JOB_STATE_CANCELLED, code, why), moment)
        self._store(ended(event_pb2.Terminal(state=job_pb2.JOB_STATE_CANCELLED)), moment)

    def _store(self, event: event_pb2.JobEvent, moment: int) -> None:
        job = self.message
        event.event_time.CopyFrom(to_timestamp(moment))
        if event.seq:  # of a recorded log, which has the rest
            self._started = self._started or (moment if event.attempt else 0)
            self.log.append(event)
            self.follow(event)
            return
        payload = event.WhichOneof("payload") or ""
        if event.state_changed.current == job_pb2.JOB_STATE_PREPARING:
            job.attempt += 1
            self._started = self._started or moment
        event.job, event.job_uid = job.name, job.uid
        event.seq, event.attempt = job.last_seq + 1, job.attempt
        if self._started:
            event.elapsed.FromMicroseconds(moment - self._started)
        event.kind = event.kind or event_pb2.EventKind.ValueType(_KINDS.get(payload, 0))
        usual = event_pb2.EVENT_LEVEL_WARNING if payload in _WARNINGS else event_pb2.EVENT_LEVEL_INFO
        event.level = event.level or usual
        event.state = event.state_changed.current if payload == "state_changed" else job.state
        self.log.append(event)
        self.follow(event)

    def follow(self, event: event_pb2.JobEvent) -> None:
        """Bring the job up to date with an event of its log."""
        job = self.message
        job.state, job.last_seq, job.attempt = event.state, event.seq, event.attempt
        if self._started and not job.HasField("start_time"):
            job.start_time.CopyFrom(to_timestamp(self._started))
            job.placements.extend(self._placements)
        job.update_time.CopyFrom(event.event_time)
        match event.WhichOneof("payload"):
            case "state_changed":
                job.state_reason.CopyFrom(event.state_changed.reason)
                if job.state != job_pb2.JOB_STATE_QUEUED:
                    job.blocked_by = ""
            case "phase_progress":
                job.progress.phase = event.phase_progress.phase
            case "step_metrics":
                _step(job, event.step_metrics)
            case "eval_metrics":
                job.metrics.eval_loss = event.eval_metrics.loss
                if event.eval_metrics.HasField("exact_match"):
                    job.metrics.exact_match = event.eval_metrics.exact_match
            case "terminal":
                self._end(event)
        self._allow()

    def _allow(self) -> None:
        del self.message.allowed_actions[:]
        self.message.allowed_actions.extend(_actions(self.message))

    def _end(self, event: event_pb2.JobEvent) -> None:
        job = self.message
        job.end_time.CopyFrom(event.event_time)
        job.ClearField("placements")
        if event.terminal.HasField("error"):
            job.error.CopyFrom(event.terminal.error)
        job.failure_category = event.terminal.failure_category
        if job.state == job_pb2.JOB_STATE_SUCCEEDED:
            job.progress.fraction = 1.0

    def _artifacts(self) -> list[artifact_pb2.Artifact]:
        return [self._artifact(name, self.files[name]) for name in sorted(self.files)]

    def _artifact(self, name: str, content: dict[str, bytes]) -> artifact_pb2.Artifact:
        files = [
            artifact_pb2.ArtifactFile(
                path=path,
                size_bytes=len(data),
                sha256=hashlib.sha256(data).hexdigest(),
                media_type=mimetypes.guess_type(path)[0] or "application/octet-stream",
            )
            for path, data in sorted(content.items())
        ]
        manifest = "".join(f"{file.path} {file.sha256}\n" for file in files)
        adapter = "adapter_config.json" in content
        return artifact_pb2.Artifact(
            name=f"{self.message.name}/artifacts/{name}",
            kind=artifact_pb2.ARTIFACT_KIND_ADAPTER,
            sha256=hashlib.sha256(manifest.encode()).hexdigest(),
            files=files,
            size_bytes=sum(file.size_bytes for file in files),
            peft_type="LORA" if adapter else "",
            attempt=1,
            base=self.message.base if self.message.HasField("base") else None,
            create_time=self._clock.timestamp(),
            plan_digest=self.message.plan_digest,
            serving=invented_checks(served=adapter),
        )


def _update_map(present: Any, given: Any, *, paths: set[str], field: str) -> None:
    if field in paths:
        present.clear()
        present.update(given)
        return
    keys = {path.removeprefix(f"{field}.") for path in paths if path.startswith(f"{field}.")}
    for key in sorted(set(given) - keys):
        raise invalid(f'{field}["{key}"]', "is set, and update_mask does not name it")
    for key in keys:
        if key in given:
            present[key] = given[key]
        else:
            present.pop(key, None)
    if len(present) > MAX_PAIRS:
        raise invalid(field, f"would have {len(present)} entries; a job has at most {MAX_PAIRS}")


def _step(job: job_pb2.Job, step: event_pb2.StepMetrics) -> None:
    progress, metrics = job.progress, job.metrics
    progress.phase = job_pb2.JOB_PHASE_TRAIN
    progress.step, progress.total_steps = step.step, step.total_steps
    before, share = _TRAINED
    progress.fraction = max(progress.fraction, before + share * step.step / max(1, step.total_steps))
    if step.HasField("loss"):
        metrics.loss = step.loss
    metrics.learning_rate, metrics.tokens_per_second = step.learning_rate, step.tokens_per_second
    metrics.peak_memory_bytes = max(metrics.peak_memory_bytes, step.peak_memory_bytes)


def _actions(job: job_pb2.Job) -> Iterable[job_pb2.JobAction.ValueType]:
    state, waits = job.state, job.state == job_pb2.JOB_STATE_QUEUED
    if state in ENDED:
        return [job_pb2.JOB_ACTION_DOWNLOAD]
    if state == job_pb2.JOB_STATE_CANCELLING:
        return []
    allowed = [job_pb2.JOB_ACTION_CANCEL]
    works = state in (job_pb2.JOB_STATE_PREPARING, job_pb2.JOB_STATE_RUNNING)
    if job.HasField("train") and (works or (waits and not job.suspended)):
        allowed.append(job_pb2.JOB_ACTION_PAUSE)
    if state == job_pb2.JOB_STATE_PAUSED or (waits and job.suspended):
        allowed.append(job_pb2.JOB_ACTION_RESUME)
    return allowed
