# SPDX-License-Identifier: Apache-2.0
"""The event log of an invented run: the same kinds, in the same order, as a real one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from finetree_api.trainer.v1 import artifact_pb2, event_pb2, job_pb2
from finetree_api.types.v1 import training_data_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

Outcome = Literal["SUCCEEDED", "FAILED", "CANCELLED"]
PEAK_BYTES = 600_000_000


@dataclass(frozen=True, slots=True)
class Script:
    """What the next jobs do.

    Attributes:
        steps: optimizer steps, one StepMetrics event each.
        outcome: how they end.
        hold_at: number of the last event that is stored by itself; the rest waits for `FakeTrainer.advance`.
        reports: what they find in their datasets.
    """

    steps: int = 10
    outcome: Outcome = "SUCCEEDED"
    hold_at: int | None = None
    reports: tuple[event_pb2.DatasetReport, ...] = ()

    def events(self, artifacts: Callable[[], list[artifact_pb2.Artifact]]) -> Iterator[event_pb2.JobEvent]:
        """The events in order, without what the log adds (job, number, time)."""
        yield changed(job_pb2.JOB_STATE_UNSPECIFIED, job_pb2.JOB_STATE_QUEUED)
        yield changed(job_pb2.JOB_STATE_QUEUED, job_pb2.JOB_STATE_PREPARING)
        yield from _start()
        yield from map(_report, self.reports)
        yield changed(job_pb2.JOB_STATE_PREPARING, job_pb2.JOB_STATE_RUNNING)
        for step in range(1, self.steps + 1):
            yield _step(step, self.steps)
        if self.outcome == "SUCCEEDED":
            yield from _end(self.steps, artifacts())
        yield terminal(self.outcome, self.steps)


def changed(previous: job_pb2.JobState.ValueType, current: job_pb2.JobState.ValueType) -> event_pb2.JobEvent:
    """A StateChanged event."""
    word = job_pb2.JobState.Name(current).removeprefix("JOB_STATE_").lower()
    return event_pb2.JobEvent(
        kind=event_pb2.EVENT_KIND_STATE_CHANGED,
        level=event_pb2.EVENT_LEVEL_INFO,
        message=f"the job is {word}",
        state=current,
        state_changed=event_pb2.StateChanged(previous=previous, current=current),
    )


def terminal(outcome: Outcome, steps: int) -> event_pb2.JobEvent:
    """A Terminal event."""
    state = job_pb2.JobState.Value(f"JOB_STATE_{outcome}")
    summary = event_pb2.RunSummary(
        first_loss=_loss(1), final_loss=_loss(steps), steps=steps, peak_memory_bytes=PEAK_BYTES
    )
    end = event_pb2.Terminal(state=state, summary=summary)
    if outcome == "FAILED":
        end.error.CopyFrom(_out_of_memory())
        end.failure_category = job_pb2.FAILURE_CATEGORY_CAPACITY
    return event_pb2.JobEvent(
        kind=event_pb2.EVENT_KIND_TERMINAL,
        level=event_pb2.EVENT_LEVEL_ERROR if outcome == "FAILED" else event_pb2.EVENT_LEVEL_INFO,
        message=f"the job has {outcome.lower()}",
        state=state,
        terminal=end,
    )


def _start() -> Iterator[event_pb2.JobEvent]:
    yield event_pb2.JobEvent(
        kind=event_pb2.EVENT_KIND_ATTEMPT_STARTED,
        level=event_pb2.EVENT_LEVEL_INFO,
        message="attempt 1 starts",
        attempt_started=event_pb2.AttemptStarted(
            reason=event_pb2.ATTEMPT_REASON_FIRST,
            placements=[job_pb2.Placement(node="fake", device_ids=["cpu"])],
        ),
    )
    for phase in (job_pb2.JOB_PHASE_LOAD_MODEL, job_pb2.JOB_PHASE_TOKENIZE):
        yield event_pb2.JobEvent(
            kind=event_pb2.EVENT_KIND_PHASE_PROGRESS,
            level=event_pb2.EVENT_LEVEL_DEBUG,
            message=job_pb2.JobPhase.Name(phase).removeprefix("JOB_PHASE_").lower(),
            phase_progress=event_pb2.PhaseProgress(phase=phase, fraction=1.0),
        )


def _report(report: event_pb2.DatasetReport) -> event_pb2.JobEvent:
    return event_pb2.JobEvent(
        kind=event_pb2.EVENT_KIND_DATASET_REPORT,
        level=event_pb2.EVENT_LEVEL_INFO,
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
        kind=event_pb2.EVENT_KIND_STEP_METRICS,
        level=event_pb2.EVENT_LEVEL_INFO,
        message=f"step {step} of {total}, loss {metrics.loss:.3f}",
        step_metrics=metrics,
    )


def _end(steps: int, artifacts: list[artifact_pb2.Artifact]) -> Iterator[event_pb2.JobEvent]:
    yield event_pb2.JobEvent(
        kind=event_pb2.EVENT_KIND_EVAL_METRICS,
        level=event_pb2.EVENT_LEVEL_INFO,
        message="evaluated",
        eval_metrics=event_pb2.EvalMetrics(step=steps, loss=_loss(steps), exact_match=0.9, examples=40, seconds=1.0),
    )
    for artifact in artifacts:
        yield event_pb2.JobEvent(
            kind=event_pb2.EVENT_KIND_ARTIFACT_READY,
            level=event_pb2.EVENT_LEVEL_INFO,
            message=f"{len(artifact.files)} files are ready",
            artifact_ready=event_pb2.ArtifactReady(artifact=artifact),
        )


def _loss(step: int) -> float:
    return 3.0 / (1 + 0.1 * step)


def _out_of_memory() -> status_pb2.Status:
    status = status_pb2.Status(code=code_pb2.RESOURCE_EXHAUSTED, message="the device ran out of memory at step 1")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="OUT_OF_MEMORY", domain="finetree"))
    return status
