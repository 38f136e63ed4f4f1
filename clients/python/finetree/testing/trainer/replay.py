# SPDX-License-Identifier: Apache-2.0
"""A recorded log as the course of jobs: what a real run said, at any speed of the suite's clock."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from finetree_api.trainer.v1 import artifact_pb2, dataset_pb2, event_pb2, job_pb2

from finetree.errors import InvalidArgument
from finetree.joblog import JobLog, read_log
from finetree.testing.clock import to_timestamp
from finetree.testing.trainer.script import Paced


@dataclass(frozen=True, slots=True)
class Replay:
    """Events of a recorded job, given to jobs instead of a script's.

    Events keep every byte but the job's name and uid and, in a job that starts at another time, their times.

    Attributes:
        log: the record.
        at_once: move the suite's clock to the end of the run when a job is created, so that all events are there;
            False: each comes when the clock has moved on so far.
        hold_at: number of the last event that is stored by itself.
    """

    log: JobLog
    at_once: bool = True
    hold_at: int | None = None

    @classmethod
    def of(cls, file: str | Path, *, at_once: bool = True) -> Replay:
        """Read a record.

        Raises:
            InvalidArgument: JOB_LOG_INVALID.
        """
        log = read_log(file)
        if not log.events or log.events[0].seq != 1:
            text = "a replay begins with a job's first event; export the log before retention removes it"
            raise InvalidArgument(f"{Path(file).name}: {text}", reason="JOB_LOG_INVALID")
        return cls(log, at_once=at_once)

    @property
    def files(self) -> Mapping[str, Mapping[str, bytes]]:
        """None: a record has the hashes of an artifact's files, not their content."""
        return {}

    @property
    def preview(self) -> tuple[dataset_pb2.PreviewRow, ...]:
        """None: a record has no rows."""
        return ()

    @property
    def starts(self) -> int:
        """Time of the first event, in microseconds since 1970."""
        return self.log.events[0].event_time.ToMicroseconds()

    @property
    def seconds(self) -> float:
        """Seconds from the first event to the last."""
        return (self.log.events[-1].event_time.ToMicroseconds() - self.starts) / 1e6

    @property
    def recorded(self) -> bool:
        """Always: the events have numbers, times and states."""
        return True

    def begin(self, job: job_pb2.Job) -> int:
        """Time of a job's first event: of the recorded one as it was, else when the job is created."""
        return self.starts if job.uid == self.log.job.uid else job.create_time.ToMicroseconds()

    def job(self) -> job_pb2.Job:
        """The recorded job as it was before its first event."""
        job = job_pb2.Job()
        job.CopyFrom(self.log.job)
        for name in _FOLLOWS:
            job.ClearField(name)  # type: ignore[arg-type]  # names from the tuple
        job.oldest_seq = 1
        return job

    def events(self, job: job_pb2.Job, artifacts: list[artifact_pb2.Artifact]) -> Iterator[Paced]:  # noqa: ARG002 - a Course's
        """Give the recorded events, under the name of a job."""
        before = self.starts
        shift = self.begin(job) - self.starts
        for recorded in self.log.events:
            now = recorded.event_time.ToMicroseconds()
            yield Paced(now - before, self._renamed(recorded, job, shift))
            before = now

    def _renamed(self, recorded: event_pb2.JobEvent, job: job_pb2.Job, shift: int) -> event_pb2.JobEvent:
        event = event_pb2.JobEvent()
        event.CopyFrom(recorded)
        old = self.log.job.name
        event.job, event.job_uid = job.name, job.uid
        if event.HasField("artifact_ready") and event.artifact_ready.artifact.name.startswith(f"{old}/"):
            event.artifact_ready.artifact.name = job.name + event.artifact_ready.artifact.name[len(old) :]
        if shift and event.HasField("worker_time"):
            event.worker_time.CopyFrom(to_timestamp(event.worker_time.ToMicroseconds() + shift))
        return event


_FOLLOWS = (
    "state",
    "state_reason",
    "allowed_actions",
    "progress",
    "metrics",
    "best_checkpoint_step",
    "queue_position",
    "blocked_by",
    "cost",
    "attempt",
    "last_seq",
    "error",
    "failure_category",
    "start_time",
    "end_time",
    "update_time",
)
"""What of a job its events say."""
