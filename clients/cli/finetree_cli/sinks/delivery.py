# SPDX-License-Identifier: Apache-2.0
"""What a sink is, and how it says that something could not be delivered."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from finetree_api.trainer.v1 import event_pb2, job_pb2


class SinkError(Exception):
    """Something could not be delivered; it is tried again."""


class UnreachableError(SinkError):
    """The target does not answer, or answers for everybody alike: nothing more is sent to it for a while.

    Attributes:
        seconds: how long it asked to be left alone; 0: it did not say.
    """

    def __init__(self, message: str, *, seconds: float = 0.0) -> None:
        super().__init__(message)
        self.seconds = seconds


class RefusedError(SinkError):
    """The target does not take what one job sent; other jobs go on."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """How far a job is."""

    seq: int
    """Number of the event up to which the target has confirmed everything."""
    remote: str = ""
    """What the target calls the job, such as a run's id; empty: unchanged."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a target holds of a job, beside the job's log."""

    expected: int
    """Values that the log has for this target, up to the cursor."""
    missing: int
    """Of these the target lacks, or holds with another value."""
    surplus: int
    """Values that the target has and the log has not."""


class Sink(Protocol):
    """A target of events."""

    @property
    def kinds(self) -> Sequence[str]:
        """Kinds of event that it takes, such as "step_metrics"; empty: all."""
        ...

    @property
    def whole(self) -> bool:
        """Whether it takes a job only after its end, from its first event on, in one piece."""
        ...

    def reached(self, job: job_pb2.Job, seq: int) -> int:
        """Return up to which event the target has everything by its own account; `seq` where it keeps none."""
        ...

    def deliver(self, job: job_pb2.Job, events: Sequence[event_pb2.JobEvent], remote: str) -> Iterator[Delivered]:
        """Send events of one job, in their order, and yield each time that the target has confirmed some.

        What was confirmed may be sent again after a crash: a target must know an event by its number.

        Args:
            job: as it is now, at or after the last of the events.
            events: the next ones, oldest first; with `whole` all of them.
            remote: what the target calls the job; empty: not known.

        Raises:
            UnreachableError: The target as a whole does not take anything now.
            RefusedError: It does not take this job's events.
        """
        ...

    def compare(self, job: job_pb2.Job, events: Sequence[event_pb2.JobEvent], remote: str) -> Comparison | None:
        """Compare what the target holds with the log; None: the target cannot be asked.

        Raises:
            UnreachableError: The target does not answer.
            RefusedError: It has nothing of this job.
        """
        ...
