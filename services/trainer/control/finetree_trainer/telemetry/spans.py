# SPDX-License-Identifier: Apache-2.0
"""Spans of a job, made of its events: what happened when is in the log, so no worker has to say it twice.

    job ─ waiting ─ attempt ─ phase ─ steps, evaluation, checkpoint

The ids of a span are a function of the job and of where it begins in the log. A span that is made again, after a
restart of the service, is the same span.
"""

import hashlib
from dataclasses import asdict, dataclass, replace
from typing import Any

from finetree_api.trainer.v1 import event_pb2, job_pb2
from finetree_runtime.server.tracing.recorded import RecordedSpan
from finetree_runtime.server.tracing.traceparent import TraceContext, parse_traceparent

from finetree_trainer.joblog import states
from finetree_trainer.store import events
from finetree_trainer.telemetry.live_jobs import state_name

KINDS = events.kinds_mask(
    [
        event_pb2.EVENT_KIND_STATE_CHANGED,
        event_pb2.EVENT_KIND_PHASE_PROGRESS,
        event_pb2.EVENT_KIND_ATTEMPT_STARTED,
        event_pb2.EVENT_KIND_STEP_METRICS,
        event_pb2.EVENT_KIND_EVAL_METRICS,
        event_pb2.EVENT_KIND_CHECKPOINT_SAVED,
        event_pb2.EVENT_KIND_TERMINAL,
    ]
)
"""Events that spans are made of."""

STEPS_SECONDS, STEPS_SHARE = 10.0, 0.01
"""A span of steps is at least so long, and at least this share of the attempt up to it: an attempt of a week has about
a thousand of them, where a span for each step would make millions."""


@dataclass(frozen=True, slots=True)
class Steps:
    """A span of optimizer steps that is not over: where it began, and what the newest step said. Times in µs."""

    seq: int
    start: int
    end: int
    first: int
    last: int
    tokens_per_second: float
    loss: float | None


@dataclass(frozen=True, slots=True)
class Began:
    """A span that is not over: the number of the event that began it, and that event's time in µs."""

    seq: int
    start: int
    name: str = ""


@dataclass(slots=True)
class Reached:
    """How far a job's events have become spans, and which ones are open. It is kept between runs of the service."""

    seq: int = 0
    created: int = 0
    waiting: Began | None = None
    attempt: Began | None = None
    phase: Began | None = None
    steps: Steps | None = None
    failure: str = ""
    """Reason of a job that has failed."""

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    @classmethod
    def of_json(cls, found: dict[str, Any]) -> "Reached":
        """Read what `to_json` made."""
        began = {name: Began(**found[name]) if found[name] else None for name in ("waiting", "attempt", "phase")}
        steps = Steps(**found["steps"]) if found["steps"] else None
        return cls(found["seq"], found["created"], **began, steps=steps, failure=found["failure"])


class JobSpans:
    """Makes the spans of one job; `reached` is where it is."""

    def __init__(self, record: job_pb2.Job, reached: Reached | None = None) -> None:
        """`record` is the job as created: its name, task and trace context."""
        self.record = record
        self._uid, self._name = record.uid, record.name
        self._task = record.WhichOneof("task") or ""
        self._method = record.train.spec.WhichOneof("method") or "" if self._task == "train" else ""
        caller = parse_traceparent(record.trace_context)
        self.sampled = caller is None or caller.sampled
        """Whether whoever began the trace wants it recorded."""
        self._caller = caller or TraceContext(_digits(record.uid, "trace", size=32), "")
        self.reached = reached or Reached()

    def add(self, event: event_pb2.JobEvent) -> list[RecordedSpan]:
        """Take the next event; return the spans that are over with it."""
        reached, now = self.reached, event.event_time.ToMicroseconds()
        reached.seq = event.seq
        reached.created = reached.created or now
        match event.WhichOneof("payload"):
            case "state_changed":
                return self._on_state(event, now)
            case "phase_progress":
                return self._enter(event, job_pb2.JobPhase.Name(event.phase_progress.phase), now)
            case "step_metrics":
                return self._on_step(event, now)
            case "eval_metrics" | "checkpoint_saved":
                return [self._within_phase(event, now)]
            case "terminal":
                return [*self._close_attempt(now), self._job(event, now)]
        return []

    def _on_state(self, event: event_pb2.JobEvent, now: int) -> list[RecordedSpan]:
        reached, changed, made = self.reached, event.state_changed, list[RecordedSpan]()
        if reached.attempt is not None and changed.current not in states.WITH_WORKER:
            error = "" if changed.current in _IN_ORDER else changed.reason.code or state_name(changed.current)
            made += self._close_attempt(now, error)
        if reached.waiting is not None and changed.current not in states.WAITING:
            made.append(self._span("waiting", reached.waiting, now, self._root))
            reached.waiting = None
        if changed.current == job_pb2.JOB_STATE_FAILED:
            reached.failure = changed.reason.code
        if changed.current in states.WAITING:
            reached.waiting = reached.waiting or Began(event.seq, now)
        elif changed.current == job_pb2.JOB_STATE_PREPARING:
            reached.attempt = Began(event.seq, now, str(event.attempt))
        return made

    def _enter(self, event: event_pb2.JobEvent, name: str, now: int) -> list[RecordedSpan]:
        reached, phase = self.reached, name.removeprefix("JOB_PHASE_").lower()
        if reached.attempt is None or (reached.phase is not None and reached.phase.name == phase):
            return []
        made = self._close_phase(now)
        reached.phase = Began(event.seq, now, phase)
        return made

    def _on_step(self, event: event_pb2.JobEvent, now: int) -> list[RecordedSpan]:
        reached, step = self.reached, event.step_metrics
        made = self._enter(event, "JOB_PHASE_TRAIN", now)
        if reached.attempt is None:
            return made
        loss = step.loss if step.HasField("loss") else None
        if reached.steps is None:
            start = max(reached.attempt.start, now - int(step.step_seconds * 1e6))
            reached.steps = Steps(event.seq, start, now, step.step, step.step, step.tokens_per_second, loss)
        else:
            reached.steps = replace(
                reached.steps, end=now, last=step.step, tokens_per_second=step.tokens_per_second, loss=loss
            )
        longest = max(STEPS_SECONDS * 1e6, STEPS_SHARE * (now - reached.attempt.start))
        return made + (self._close_steps() if now - reached.steps.start >= longest else [])

    def _within_phase(self, event: event_pb2.JobEvent, now: int) -> RecordedSpan:
        """A span of which only the end is an event, which has its length."""
        attributes: dict[str, str | int | float]
        if event.HasField("eval_metrics"):
            found = event.eval_metrics
            name, seconds, attributes = "evaluation", found.seconds, {"finetree.step": found.step}
            if found.HasField("loss"):
                attributes["finetree.loss"] = found.loss
        else:
            saved = event.checkpoint_saved
            name, seconds = "checkpoint", saved.seconds
            attributes = {"finetree.step": saved.step, "finetree.size_bytes": saved.size_bytes}
        return self._span(name, Began(event.seq, now - int(seconds * 1e6)), now, self._innermost, attributes)

    def _close_attempt(self, now: int, error: str = "") -> list[RecordedSpan]:
        began = self.reached.attempt
        if began is None:
            return []
        made = self._close_phase(now)
        self.reached.attempt = None
        return [
            *made,
            self._span("attempt", began, now, self._root, {"finetree.attempt": int(began.name)}, error=error),
        ]

    def _close_phase(self, now: int) -> list[RecordedSpan]:
        began, made = self.reached.phase, self._close_steps()
        if began is None:
            return made
        parent = self._attempt_id
        self.reached.phase = None
        return [*made, self._span(began.name, began, now, parent)]

    def _close_steps(self) -> list[RecordedSpan]:
        steps = self.reached.steps
        if steps is None:
            return []
        self.reached.steps = None
        attributes: dict[str, str | int | float] = {
            "finetree.first_step": steps.first,
            "finetree.last_step": steps.last,
            "finetree.tokens_per_second": steps.tokens_per_second,
        }
        if steps.loss is not None:
            attributes["finetree.loss"] = steps.loss
        return [self._span("steps", Began(steps.seq, steps.start), steps.end, self._innermost, attributes)]

    def _job(self, event: event_pb2.JobEvent, now: int) -> RecordedSpan:
        terminal = event.terminal
        attributes: dict[str, str | int | float] = {
            "finetree.job": self._name,
            "finetree.task": self._task,
            "finetree.state": state_name(terminal.state),
            "finetree.attempts": event.attempt,
        }
        if self._method:
            attributes["finetree.method"] = self._method
        error = self.reached.failure or "FAILED" if terminal.state == job_pb2.JOB_STATE_FAILED else ""
        return RecordedSpan(
            f"job {self._task}",
            self._caller.trace_id,
            self._root,
            self._caller.span_id,
            self.reached.created,
            now,
            attributes,
            error,
        )

    def _span(
        self,
        name: str,
        began: Began,
        end: int,
        parent: str,
        attributes: dict[str, str | int | float] | dict[str, int] | None = None,
        *,
        error: str = "",
    ) -> RecordedSpan:
        known = {"finetree.job": self._name, **(attributes or {})}
        start = min(began.start, end)
        return RecordedSpan(name, self._caller.trace_id, self._id(name, began.seq), parent, start, end, known, error)

    @property
    def _root(self) -> str:
        return _digits(self._uid, "job")

    @property
    def _attempt_id(self) -> str:
        attempt = self.reached.attempt
        return self._id("attempt", attempt.seq) if attempt is not None else self._root

    @property
    def _innermost(self) -> str:
        phase = self.reached.phase
        return self._id(phase.name, phase.seq) if phase is not None else self._attempt_id

    def _id(self, name: str, seq: int) -> str:
        return _digits(self._uid, f"{name}/{seq}")


_IN_ORDER = frozenset({job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_CANCELLED, job_pb2.JOB_STATE_PAUSED})
"""States after an attempt that is no error."""


def _digits(uid: str, what: str, *, size: int = 16) -> str:
    """Hexadecimal digits that stand for something of a job."""
    return hashlib.sha256(f"{uid}/{what}".encode()).hexdigest()[:size]
