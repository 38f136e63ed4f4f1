# SPDX-License-Identifier: Apache-2.0
"""The summary of an attempt, which its outcome carries."""

from collections import deque
from statistics import fmean, median

from finetree_api.trainer.v1 import event_pb2, job_pb2

from finetree_worker.events.envelope import Payload

FINAL_STEPS = 10
"""Number of last steps whose mean loss is RunSummary.final_loss."""


class Summary:
    """Sums up the payloads of an attempt, in order."""

    def __init__(self) -> None:
        self._summary = event_pb2.RunSummary()
        self._last_losses: deque[float] = deque(maxlen=FINAL_STEPS)
        self._step_seconds: list[float] = []
        self._began: dict[job_pb2.JobPhase.ValueType, float] = {}
        self._ended: dict[job_pb2.JobPhase.ValueType, float] = {}

    def add(self, payload: Payload, elapsed: float) -> None:
        """Note a payload that was reported `elapsed` seconds after the attempt began."""
        match payload:
            case event_pb2.PhaseProgress():
                self._began.setdefault(payload.phase, elapsed)
                self._ended[payload.phase] = elapsed
            case event_pb2.StepMetrics():
                self._add_step(payload)
            case event_pb2.EvalMetrics() if payload.HasField("exact_match"):
                field = "exact_match_before" if payload.step == 0 else "exact_match_after"
                setattr(self._summary, field, payload.exact_match)
            case _:
                pass

    def message(self, total_seconds: float) -> event_pb2.RunSummary:
        """Return the summary of an attempt that took `total_seconds`."""
        summary = event_pb2.RunSummary(total_seconds=total_seconds)
        summary.MergeFrom(self._summary)
        if self._last_losses:
            summary.final_loss = fmean(self._last_losses)
        if self._step_seconds:
            summary.median_step_seconds = median(self._step_seconds)
        for phase, began in self._began.items():
            summary.phases.add(phase=phase, seconds=self._ended[phase] - began)
        return summary

    def _add_step(self, step: event_pb2.StepMetrics) -> None:
        summary = self._summary
        summary.steps += 1
        summary.processed_tokens = step.processed_tokens
        summary.peak_memory_bytes = max(summary.peak_memory_bytes, step.memory_bytes, step.peak_memory_bytes)
        self._step_seconds.append(step.step_seconds)
        if step.HasField("loss"):
            if not summary.HasField("first_loss"):
                summary.first_loss = step.loss
            self._last_losses.append(step.loss)
