# SPDX-License-Identifier: Apache-2.0
"""Metrics of jobs, counted from the event log as it grows: the code that runs jobs knows nothing of them."""

from typing import Any

from finetree_api.trainer.v1 import event_pb2, job_pb2
from finetree_api.types.v1 import run_spec_pb2
from finetree_runtime.meter import Meter, Values

from finetree_trainer.joblog import states
from finetree_trainer.joblog.log import Change, EventLog
from finetree_trainer.store.jobs import JobRow
from finetree_trainer.telemetry.live_jobs import (
    SUSPENDED,
    LiveJob,
    LiveJobs,
    note_progress,
    state_name,
    task_name,
)

WAITS = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 24 * 3600.0)
"""Upper ends of the buckets of a time in the queue, seconds."""

RATIOS = (0.25, 0.5, 0.67, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0)
"""Upper ends of the buckets of measured to estimated: 1 is exact, above it the run took more."""

_LOST = {"WORKER_LOST": "lost", "WORKER_INTERRUPTED": "interrupted"}
"""Outcome of an attempt whose job waits for another one, by the reason of that state; others failed and are retried."""


OUTCOMES = ("succeeded", "failed", "cancelled", "paused", "preempted", "lost", "interrupted", "retried")
"""What becomes of an attempt."""

_TASKS = tuple(task_name(task) for task in job_pb2.TaskKind.values() if task)
_METHODS = tuple(field.name for field in run_spec_pb2.RunSpec.DESCRIPTOR.oneofs_by_name["method"].fields)
_CATEGORIES = tuple(
    job_pb2.FailureCategory.Name(category).removeprefix("FAILURE_CATEGORY_").lower()
    for category in job_pb2.FailureCategory.values()
    if category
)
_ENDS = (("succeeded", ""), ("cancelled", ""), *(("failed", category) for category in _CATEGORIES))


class JobMetrics:
    """Follows the log from its making on; `jobs` are those that have not ended."""

    def __init__(self, log: EventLog, meter: Meter) -> None:
        self.jobs = LiveJobs()
        self._log = log
        meter.gauge("finetree_jobs", "Jobs that have not ended.", ("state", "task"), read=self._by_state)
        meter.gauge(
            "finetree_queue_oldest_seconds",
            "Time that the job which waits longest for a device has waited; suspended ones do not wait.",
            read=self._longest_wait,
        )
        self._waits = meter.histogram(
            "finetree_queue_wait_seconds", "Time that a job waited until an attempt began.", ("task",), buckets=WAITS
        )
        self._attempts = meter.counter(
            "finetree_attempts_total", "Attempts that have ended, by what came of them.", ("task", "outcome")
        )
        self._ended = meter.counter(
            "finetree_jobs_ended_total",
            "Jobs that have ended; failed ones by whose fault it was.",
            ("task", "state", "category"),
        )
        self._events = meter.counter("finetree_events_total", "Events that were logged.", ("kind",))
        self._tokens = meter.counter("finetree_tokens_total", "Tokens that training has processed.", ("method",))
        self._steps = meter.counter("finetree_steps_total", "Optimizer steps that training has taken.", ("method",))
        self._saves = meter.histogram("finetree_checkpoint_seconds", "Time that saving a checkpoint took.")
        self._unsaved = meter.counter(
            "finetree_checkpoint_failures_total", "Checkpoints that could not be saved; training went on."
        )
        self._time_ratio = meter.histogram(
            "finetree_estimate_time_ratio",
            "Measured to estimated duration of runs that succeeded in one attempt.",
            ("method",),
            buckets=RATIOS,
        )
        self._memory_ratio = meter.histogram(
            "finetree_estimate_memory_ratio",
            "Measured to estimated peak memory of runs that succeeded.",
            ("method",),
            buckets=RATIOS,
        )
        meter.total(
            "finetree_fenced_writes_total",
            "Writes of workers whose attempt is over, which were refused.",
            read=lambda: {(): float(log.fenced_writes)},
        )
        # From 0 on: Prometheus sees no increase in a series that begins with 1.
        for method in _METHODS:
            self._time_ratio.begin(method)
            self._memory_ratio.begin(method)
        for task in _TASKS:
            self._waits.begin(task)
            for outcome in OUTCOMES:
                self._attempts.add(task, outcome, by=0)
            for state, category in _ENDS:
                self._ended.add(task, state, category, by=0)
        log.followers.append(self._on_events)
        log.listeners.append(self._on_change)

    def _on_change(self, row: JobRow) -> None:
        self.jobs.follow(row)

    def _on_events(self, change: Change[Any]) -> None:
        job = self.jobs.of(change.row)
        for event in change.events:
            self._events.add(event_pb2.EventKind.Name(event.kind).removeprefix("EVENT_KIND_").lower())
            match event.WhichOneof("payload"):
                case "state_changed":
                    self._on_state(job, event)
                case "step_metrics":
                    self._on_step(job, event.step_metrics)
                case "checkpoint_saved":
                    self._saves.observe(event.checkpoint_saved.seconds)
                case "checkpoint_failed":
                    self._unsaved.add()
                case "terminal":
                    self._on_end(job, event.terminal)
            note_progress(job, event)

    def _on_state(self, job: LiveJob, event: event_pb2.JobEvent) -> None:
        changed, now = event.state_changed, event.event_time.ToMicroseconds()
        if changed.previous in states.WAITING and changed.current == job_pb2.JOB_STATE_PREPARING:
            since = job.waiting_since or now
            self._waits.observe(max(0, now - since) / 1e6, task_name(job.task))
            job.heard = job.saved = now
            job.tokens_per_second, job.processed_tokens = 0.0, 0
        if changed.previous in states.WITH_WORKER and changed.current not in states.WITH_WORKER:
            outcome = state_name(changed.current)
            if changed.current == job_pb2.JOB_STATE_RECOVERING:
                outcome = _LOST.get(changed.reason.code, "retried")
            elif changed.current == job_pb2.JOB_STATE_QUEUED:
                outcome = "preempted"
            self._attempts.add(task_name(job.task), outcome)

    def _on_step(self, job: LiveJob, step: event_pb2.StepMetrics) -> None:
        self._steps.add(job.method)
        # The number is the run's: of an attempt that resumes, the first step has what earlier ones processed.
        before = job.processed_tokens or (0 if step.step == 1 else step.processed_tokens)
        self._tokens.add(job.method, by=max(0, step.processed_tokens - before))

    def _on_end(self, job: LiveJob, terminal: event_pb2.Terminal) -> None:
        category = job_pb2.FailureCategory.Name(terminal.failure_category).removeprefix("FAILURE_CATEGORY_").lower()
        shown = category if terminal.failure_category else ""
        self._ended.add(task_name(job.task), state_name(terminal.state), shown)
        estimate, summary = job.estimate, terminal.summary
        if estimate is None or terminal.state != job_pb2.JOB_STATE_SUCCEEDED or job.task != job_pb2.TASK_KIND_TRAIN:
            return
        if summary.total_seconds and estimate.total_seconds.expected > 0 and job.attempt == 1:
            self._time_ratio.observe(summary.total_seconds / estimate.total_seconds.expected, job.method)
        if summary.peak_memory_bytes and estimate.device_bytes.expected > 0:
            self._memory_ratio.observe(summary.peak_memory_bytes / estimate.device_bytes.expected, job.method)

    def _by_state(self) -> Values:
        names = [*(state_name(state) for state in sorted(states.LIVE)), SUSPENDED]
        counts: dict[tuple[str, ...], float] = {(name, task): 0.0 for name in names for task in _TASKS}
        for job in self.jobs.values():
            counts[job.state_name, task_name(job.task)] += 1
        return counts

    def _longest_wait(self) -> Values:
        since = [job.waiting_since for job in self.jobs.values() if job.waiting_since]
        return {(): max(0, self._log.clock() - min(since)) / 1e6 if since else 0.0}
