# SPDX-License-Identifier: Apache-2.0
"""Jobs that have not ended, as the metrics see them: state, progress, and when something was last heard of each."""

from collections.abc import Iterable
from dataclasses import dataclass

from finetree_api.trainer.v1 import event_pb2, job_pb2
from finetree_api.types.v1 import estimate_summary_pb2

from finetree_trainer.joblog import states
from finetree_trainer.store.jobs import JobRow

SUSPENDED = "suspended"
"""State of a job that waits and is not queued, in metrics."""


@dataclass(slots=True)
class LiveJob:
    """A job that has not ended. Times are microseconds since 1970, 0 for never."""

    task: int
    state: int
    suspended: bool = False
    method: str = ""
    """Name of the fine-tuning method; empty for a job that trains nothing."""
    estimate: estimate_summary_pb2.EstimateSummary | None = None
    waiting_since: int = 0
    """Since when it waits for a device; 0 while it does not."""
    attempt: int = 0
    heard: int = 0
    """When its attempt began, or last said something of its progress."""
    saved: int = 0
    """When its attempt began, or its newest checkpoint was saved."""
    step: int = 0
    total_steps: int = 0
    tokens_per_second: float = 0.0
    processed_tokens: int = 0

    @property
    def state_name(self) -> str:
        """Name of its state, as the metrics have it."""
        if self.suspended and self.state in states.WAITING:
            return SUSPENDED
        return state_name(self.state)


class LiveJobs(dict[str, LiveJob]):
    """Jobs that have not ended, by uid."""

    def recover(self, rows: Iterable[JobRow]) -> None:
        """Take over what an earlier run of the service left; rows have their records."""
        for row in rows:
            job = self.of(row)
            snapshot = job_pb2.Job.FromString(row.snapshot)
            job.step, job.total_steps = snapshot.progress.step, snapshot.progress.total_steps
            job.tokens_per_second = snapshot.metrics.tokens_per_second
            if row.state in states.WITH_WORKER:
                job.heard, job.saved = row.update_time, row.attempt_started

    def of(self, row: JobRow) -> LiveJob:
        """The job of a row, which is added where it is new."""
        job = self.get(row.uid)
        if job is None:
            job = self[row.uid] = LiveJob(row.task, row.state, attempt=row.attempt)
            if row.record:
                record = job_pb2.Job.FromString(row.record)
                job.method = record.train.spec.WhichOneof("method") or ""
                job.estimate = record.estimate if record.HasField("estimate") else None
        return job

    def follow(self, row: JobRow) -> None:
        """Bring a job up to its row; one that has ended is dropped."""
        if row.state in states.TERMINAL:
            self.pop(row.uid, None)
            return
        job = self.of(row)
        job.state, job.suspended, job.attempt = row.state, row.suspended, row.attempt
        if row.state not in states.WAITING or row.suspended:
            job.waiting_since = 0
        elif not job.waiting_since:
            job.waiting_since = row.update_time


def state_name(state: int) -> str:
    """Name of a state in metrics, for example "running"."""
    return job_pb2.JobState.Name(job_pb2.JobState.ValueType(state)).removeprefix("JOB_STATE_").lower()


def task_name(task: int) -> str:
    """Name of a kind of task in metrics, for example "train"."""
    return job_pb2.TaskKind.Name(job_pb2.TaskKind.ValueType(task)).removeprefix("TASK_KIND_").lower()


def note_progress(job: LiveJob, event: event_pb2.JobEvent) -> None:
    """Bring what is known of a job's progress up to an event of its worker."""
    now = event.event_time.ToMicroseconds()
    match event.WhichOneof("payload"):
        case "step_metrics":
            step = event.step_metrics
            job.heard, job.step, job.total_steps = now, step.step, step.total_steps
            job.tokens_per_second, job.processed_tokens = step.tokens_per_second, step.processed_tokens
        case "checkpoint_saved":
            job.heard = job.saved = now
        case "phase_progress" | "eval_metrics" | "serving_changed" | "attempt_started" | "dataset_report":
            job.heard = now
