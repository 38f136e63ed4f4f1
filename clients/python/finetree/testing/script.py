# SPDX-License-Identifier: Apache-2.0
"""The event log of an invented run: the same kinds, in the same order, as a real one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from finetree_api.trainer.v1 import event_pb2 as e
from finetree_api.trainer.v1 import job_pb2 as j
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
    reports: tuple[e.DatasetReport, ...] = ()

    def events(self, artifacts: Callable[[], list[j.Artifact]]) -> Iterator[e.JobEvent]:
        """The events in order, without what the log adds (job, number, time)."""
        yield changed(j.JOB_STATE_UNSPECIFIED, j.JOB_STATE_QUEUED)
        yield changed(j.JOB_STATE_QUEUED, j.JOB_STATE_PREPARING)
        yield from _start()
        yield from map(_report, self.reports)
        yield changed(j.JOB_STATE_PREPARING, j.JOB_STATE_RUNNING)
        for step in range(1, self.steps + 1):
            yield _step(step, self.steps)
        if self.outcome == "SUCCEEDED":
            yield from _end(self.steps, artifacts())
        yield terminal(self.outcome, self.steps)


def changed(previous: j.JobState.ValueType, current: j.JobState.ValueType) -> e.JobEvent:
    """A StateChanged event."""
    word = j.JobState.Name(current).removeprefix("JOB_STATE_").lower()
    return e.JobEvent(
        kind=e.EVENT_KIND_STATE_CHANGED,
        level=e.EVENT_LEVEL_INFO,
        message=f"the job is {word}",
        state=current,
        state_changed=e.StateChanged(previous=previous, current=current),
    )


def terminal(outcome: Outcome, steps: int) -> e.JobEvent:
    """A Terminal event."""
    state = j.JobState.Value(f"JOB_STATE_{outcome}")
    summary = e.RunSummary(first_loss=_loss(1), final_loss=_loss(steps), steps=steps, peak_memory_bytes=PEAK_BYTES)
    end = e.Terminal(state=state, summary=summary)
    if outcome == "FAILED":
        end.error.CopyFrom(_out_of_memory())
        end.failure_category = j.FAILURE_CATEGORY_CAPACITY
    return e.JobEvent(
        kind=e.EVENT_KIND_TERMINAL,
        level=e.EVENT_LEVEL_ERROR if outcome == "FAILED" else e.EVENT_LEVEL_INFO,
        message=f"the job has {outcome.lower()}",
        state=state,
        terminal=end,
    )


def _start() -> Iterator[e.JobEvent]:
    yield e.JobEvent(
        kind=e.EVENT_KIND_ATTEMPT_STARTED,
        level=e.EVENT_LEVEL_INFO,
        message="attempt 1 starts",
        attempt_started=e.AttemptStarted(reason="first", devices=["cpu"]),
    )
    for phase in (j.JOB_PHASE_LOAD_MODEL, j.JOB_PHASE_TOKENIZE):
        yield e.JobEvent(
            kind=e.EVENT_KIND_PHASE_PROGRESS,
            level=e.EVENT_LEVEL_DEBUG,
            message=j.JobPhase.Name(phase).removeprefix("JOB_PHASE_").lower(),
            phase_progress=e.PhaseProgress(phase=phase, fraction=1.0),
        )


def _report(report: e.DatasetReport) -> e.JobEvent:
    return e.JobEvent(
        kind=e.EVENT_KIND_DATASET_REPORT,
        level=e.EVENT_LEVEL_INFO,
        message=f"{report.split}: {report.rows} rows",
        dataset_report=report,
    )


def _step(step: int, total: int) -> e.JobEvent:
    metrics = e.StepMetrics(
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
    return e.JobEvent(
        kind=e.EVENT_KIND_STEP_METRICS,
        level=e.EVENT_LEVEL_INFO,
        message=f"step {step} of {total}, loss {metrics.loss:.3f}",
        step_metrics=metrics,
    )


def _end(steps: int, artifacts: list[j.Artifact]) -> Iterator[e.JobEvent]:
    yield e.JobEvent(
        kind=e.EVENT_KIND_EVAL_METRICS,
        level=e.EVENT_LEVEL_INFO,
        message="evaluated",
        eval_metrics=e.EvalMetrics(step=steps, loss=_loss(steps), exact_match=0.9, examples=40, seconds=1.0),
    )
    for artifact in artifacts:
        yield e.JobEvent(
            kind=e.EVENT_KIND_ARTIFACT_READY,
            level=e.EVENT_LEVEL_INFO,
            message=f"{len(artifact.files)} files are ready",
            artifact_ready=e.ArtifactReady(artifact=artifact),
        )


def _loss(step: int) -> float:
    return 3.0 / (1 + 0.1 * step)


def _out_of_memory() -> status_pb2.Status:
    status = status_pb2.Status(code=code_pb2.RESOURCE_EXHAUSTED, message="the device ran out of memory at step 1")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="OUT_OF_MEMORY", domain="finetree"))
    return status
