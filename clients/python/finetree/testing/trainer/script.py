# SPDX-License-Identifier: Apache-2.0
"""The event log of an invented run: the same kinds, in the same order, as a real one."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal, NamedTuple, Protocol

from finetree_api.trainer.v1 import artifact_pb2, dataset_pb2, evaluation_pb2, event_pb2, job_pb2
from finetree_api.types.v1 import training_data_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

Outcome = Literal["SUCCEEDED", "FAILED", "CANCELLED"]
PEAK_BYTES = 600_000_000
ADAPTER = {
    "adapter_config.json": b'{"peft_type": "LORA", "r": 8}',
    "adapter_model.safetensors": random.Random(8).randbytes(300_000),
    "empty.txt": b"",
    "tokenizer/vocab.txt": random.Random(9).randbytes(20_000),
}
"""Files of the adapter that a run makes, unless its script says otherwise."""

_STATE = {
    "QUEUED": ("WAITING_FOR_DEVICE", "Waits for a device."),
    "PREPARING": ("STARTING", "The worker starts."),
    "RUNNING": ("TRAINING", "The model is trained."),
    "SUCCEEDED": ("SUCCEEDED", "The job has succeeded."),
    "CANCELLED": ("CANCELLED", "Cancelled on request."),
}


class Paced(NamedTuple):
    """An event and the microseconds of the suite's clock after the one before it."""

    micros: int
    event: event_pb2.JobEvent


class Course(Protocol):
    """What jobs do: a `Script`, or a `Replay` of a recorded log."""

    @property
    def hold_at(self) -> int | None:
        """Number of the last event that is stored by itself."""

    @property
    def files(self) -> Mapping[str, Mapping[str, bytes]]:
        """Files by artifact and path."""

    @property
    def preview(self) -> tuple[dataset_pb2.PreviewRow, ...]:
        """Rows that a job which prepares keeps."""

    @property
    def recorded(self) -> bool:
        """Whether the events have numbers, times and states already."""

    def begin(self, job: job_pb2.Job) -> int:
        """Time of a job's first event, in microseconds since 1970."""

    def events(self, job: job_pb2.Job, artifacts: list[artifact_pb2.Artifact]) -> Iterator[Paced]:
        """Give the events of a job in order, without what the log adds."""


@dataclass(frozen=True, slots=True)
class Script:
    """What the next jobs do.

    Attributes:
        steps: optimizer steps, one StepMetrics event each.
        step_seconds: seconds of the suite's clock that a step takes; 0: the whole run happens at once.
        outcome: how they end.
        hold_at: number of the last event that is stored by itself; the rest waits for `FakeTrainer.advance`.
        reports: what they find in their datasets.
        files: files by artifact and path; what is there when the job succeeds.
        preview: rows that a job which prepares keeps.
        reason: ErrorReason of a failure.
        problem: message of the failure; empty: one made of the reason.
        remedy: what to do about it.
        category: whose fault it is.
        summary: fields of the Terminal event's RunSummary, beside losses and steps.
        phases: phases before the first step.
        samples: answers before and after training, as they report them at the end.
        evaluation: what a job that evaluates finds.
    """

    steps: int = 10
    step_seconds: float = 0.0
    outcome: Outcome = "SUCCEEDED"
    hold_at: int | None = None
    reports: tuple[event_pb2.DatasetReport, ...] = ()
    files: Mapping[str, Mapping[str, bytes]] = field(default_factory=lambda: {"adapter": ADAPTER})
    preview: tuple[dataset_pb2.PreviewRow, ...] = ()
    reason: str = "OUT_OF_MEMORY"
    problem: str = ""
    remedy: str = ""
    category: job_pb2.FailureCategory.ValueType = job_pb2.FAILURE_CATEGORY_CAPACITY
    summary: event_pb2.RunSummary = field(default_factory=event_pb2.RunSummary)
    phases: tuple[job_pb2.JobPhase.ValueType, ...] = (job_pb2.JOB_PHASE_LOAD_MODEL, job_pb2.JOB_PHASE_TOKENIZE)
    evaluation: evaluation_pb2.EvaluationReport = field(default_factory=evaluation_pb2.EvaluationReport)

    samples: tuple[event_pb2.Sample, ...] = ()

    @property
    def recorded(self) -> bool:
        """Never: the log numbers them."""
        return False

    def begin(self, job: job_pb2.Job) -> int:
        """Begin when the job is created."""
        return job.create_time.ToMicroseconds()

    def events(self, job: job_pb2.Job, artifacts: list[artifact_pb2.Artifact]) -> Iterator[Paced]:
        """Give the events in order, without what the log adds (job, number, time)."""
        for event in self._before(job):
            yield Paced(0, event)
        if job.WhichOneof("task") == "train":
            yield Paced(0, moved(job_pb2.JOB_STATE_PREPARING, job_pb2.JOB_STATE_RUNNING))
            for step in range(1, self.steps + 1):
                yield Paced(round(self.step_seconds * 1e6), _step(step, self.steps))
            if self.outcome == "SUCCEEDED":
                yield from (Paced(0, event) for event in self._end(job, artifacts))
        if job.HasField("evaluate"):
            change = ("EVALUATING", "Evaluating.")
            yield Paced(0, moved(job_pb2.JOB_STATE_PREPARING, job_pb2.JOB_STATE_RUNNING, *change))
            if self.outcome == "SUCCEEDED":
                told = event_pb2.JobEvent(message=self.evaluation.headline, evaluation_report=self.evaluation)
                yield Paced(round(self.step_seconds * 1e6), told)
        prepares = job.HasField("prepare")
        current = job_pb2.JOB_STATE_PREPARING if prepares else job_pb2.JOB_STATE_RUNNING
        yield Paced(0, moved(current, job_pb2.JobState.Value(f"JOB_STATE_{self.outcome}"), *self._failure()))
        yield Paced(0, self._terminal(trained=job.HasField("train")))

    def _before(self, job: job_pb2.Job) -> Iterator[event_pb2.JobEvent]:
        yield moved(job_pb2.JOB_STATE_UNSPECIFIED, job_pb2.JOB_STATE_QUEUED)
        yield moved(job_pb2.JOB_STATE_QUEUED, job_pb2.JOB_STATE_PREPARING)
        if job.WhichOneof("task") == "train":
            yield event_pb2.JobEvent(
                message="attempt 1 starts",
                attempt_started=event_pb2.AttemptStarted(
                    reason=event_pb2.ATTEMPT_REASON_FIRST, placements=job.placements, engine="fake"
                ),
            )
        for phase in self.phases:
            yield event_pb2.JobEvent(
                level=event_pb2.EVENT_LEVEL_DEBUG,
                message=job_pb2.JobPhase.Name(phase).removeprefix("JOB_PHASE_").lower(),
                phase_progress=event_pb2.PhaseProgress(phase=phase, fraction=1.0),
            )
        yield from map(_report, self.reports)

    def _end(self, job: job_pb2.Job, artifacts: list[artifact_pb2.Artifact]) -> Iterator[event_pb2.JobEvent]:
        evaluation = job.train.spec.evaluation
        if evaluation.HasField("dataset") or evaluation.split_fraction > 0:
            yield event_pb2.JobEvent(
                message="evaluated",
                eval_metrics=event_pb2.EvalMetrics(
                    step=self.steps, loss=_loss(self.steps), exact_match=0.9, examples=40, seconds=1.0
                ),
            )
        for sample in self.samples:
            yield event_pb2.JobEvent(message="a sample", sample=sample)
        for artifact in artifacts:
            yield event_pb2.JobEvent(
                message=f"{len(artifact.files)} files are ready",
                artifact_ready=event_pb2.ArtifactReady(artifact=artifact),
            )

    def _failure(self) -> tuple[str, str, str] | tuple[()]:
        if self.outcome != "FAILED":
            return ()
        return self.reason, self._error().message, self.remedy

    def _final_loss(self) -> float:
        """Mean loss of the last steps, up to ten, as the contract has it."""
        return fmean(_loss(step) for step in range(max(1, self.steps - 9), max(1, self.steps) + 1))

    def _terminal(self, *, trained: bool) -> event_pb2.JobEvent:
        end = event_pb2.Terminal(state=job_pb2.JobState.Value(f"JOB_STATE_{self.outcome}"))
        if trained:
            end.summary.MergeFrom(
                event_pb2.RunSummary(
                    first_loss=_loss(1), final_loss=self._final_loss(), steps=self.steps, peak_memory_bytes=PEAK_BYTES
                )
            )
            end.summary.MergeFrom(self.summary)
        if self.outcome == "FAILED":
            end.error.CopyFrom(self._error())
            end.failure_category = self.category
        return ended(end)

    def _error(self) -> status_pb2.Status:
        memory = self.reason == "OUT_OF_MEMORY"
        code = code_pb2.RESOURCE_EXHAUSTED if memory else code_pb2.INVALID_ARGUMENT
        usual = "the device ran out of memory at step 1" if memory else f"the run failed: {self.reason.lower()}"
        status = status_pb2.Status(code=code, message=self.problem or usual)
        metadata = {"remedy": self.remedy} if self.remedy else {}
        info = error_details_pb2.ErrorInfo(reason=self.reason, domain="finetree", metadata=metadata)
        status.details.add().Pack(info)
        return status


def moved(
    previous: job_pb2.JobState.ValueType,
    current: job_pb2.JobState.ValueType,
    code: str = "",
    text: str = "",
    remedy: str = "",
) -> event_pb2.JobEvent:
    """Make a StateChanged event."""
    word = job_pb2.JobState.Name(current).removeprefix("JOB_STATE_")
    usual = _STATE.get(word, (word, f"The job is {word.lower()}."))
    reason = job_pb2.StateReason(code=code or usual[0], text=text or usual[1], remedy=remedy)
    change = event_pb2.StateChanged(previous=previous, current=current, reason=reason)
    return event_pb2.JobEvent(message=reason.text, state_changed=change)


def ended(terminal: event_pb2.Terminal) -> event_pb2.JobEvent:
    """Make the event of a Terminal."""
    failed = terminal.state == job_pb2.JOB_STATE_FAILED
    word = job_pb2.JobState.Name(terminal.state).removeprefix("JOB_STATE_").lower()
    return event_pb2.JobEvent(
        level=event_pb2.EVENT_LEVEL_ERROR if failed else event_pb2.EVENT_LEVEL_INFO,
        message=terminal.error.message or f"the job has {word}",
        terminal=terminal,
    )


def _report(report: event_pb2.DatasetReport) -> event_pb2.JobEvent:
    return event_pb2.JobEvent(
        message=f"{training_data_pb2.Split.Name(report.split).removeprefix('SPLIT_').lower()}: {report.rows} rows",
        dataset_report=report,
    )


def _step(step: int, total: int) -> event_pb2.JobEvent:
    metrics = event_pb2.StepMetrics(
        step=step,
        total_steps=total,
        loss=_loss(step),
        learning_rate=2e-4,
        tokens_per_second=1000.0,
        grad_norm=1.0,
        memory_bytes=PEAK_BYTES,
        peak_memory_bytes=PEAK_BYTES,
        processed_tokens=512 * step,
        step_seconds=0.512,
    )
    return event_pb2.JobEvent(
        message=f"step {step} of {total}, loss {metrics.loss:.3f}",
        step_metrics=metrics,
    )


def _loss(step: int) -> float:
    return 3.0 / (1 + 0.1 * step)
