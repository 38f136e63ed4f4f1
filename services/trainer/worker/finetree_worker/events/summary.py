# SPDX-License-Identifier: Apache-2.0
"""What a run has shown so far: its summary at the end, and what remains of it while it runs."""

from collections import deque
from statistics import fmean, median, quantiles

from finetree_api.trainer.v1 import event_pb2
from finetree_api.types.v1 import evidence_pb2, run_spec_pb2

from finetree_worker.events.eta import Ahead
from finetree_worker.events.types import BestRestored, EvalMetrics, PhaseProgress, StepMetrics

FINAL_STEPS = 10
"""Steps whose mean is the final loss (RunSummary.final_loss)."""
RECENT_STEPS = 64
"""Steps that the forecast looks back on."""
MIN_STEPS = 3
"""Steps before anything is forecast: the first ones pay for allocations and caches."""
COVERAGE = 0.8
"""Share of steps between the first and the last decile, which span the forecast's interval."""


class RunRecord:
    """Gathers step, evaluation and phase events in order."""

    def __init__(self, spec: run_spec_pb2.RunSpec | None = None) -> None:
        self.ahead = Ahead(spec or run_spec_pb2.RunSpec())
        self._first_loss: float | None = None
        self._last_losses: deque[float] = deque(maxlen=FINAL_STEPS)
        self._recent: deque[float] = deque(maxlen=RECENT_STEPS)
        self._all_seconds: list[float] = []
        self._exact_match: dict[str, float] = {}
        self._phases: dict[str, float] = {}
        self._began: dict[str, float] = {}
        self._peak_memory = self._tokens = self._steps = 0
        self._best: BestRestored | None = None

    @property
    def peak_memory_bytes(self) -> int:
        """Highest memory that any step has shown."""
        return self._peak_memory

    def phase(self, event: PhaseProgress, elapsed: float) -> None:
        """Note how long a phase has taken so far; `elapsed` is seconds since the attempt began."""
        began = self._began.setdefault(event.phase.value, elapsed - event.seconds)
        self._phases[event.phase.value] = elapsed - began

    def step(self, event: StepMetrics) -> None:
        """Note an optimizer step."""
        self._steps += 1
        self._recent.append(event.step_seconds)
        self._all_seconds.append(event.step_seconds)
        self._peak_memory = max(self._peak_memory, event.memory_bytes, event.peak_memory_bytes)
        self._tokens = event.tokens
        if event.loss is not None:
            self._first_loss = event.loss if self._first_loss is None else self._first_loss
            self._last_losses.append(event.loss)

    def evaluation(self, event: EvalMetrics) -> None:
        """Note an evaluation; step 0 is the model before training."""
        self.ahead.evaluation(event)
        if event.exact_match is not None:
            self._exact_match["before" if event.step == 0 else "after"] = event.exact_match

    def best_restored(self, event: BestRestored) -> None:
        """Note that another step's weights are published than the last one's."""
        self._best = event

    def remaining(self, event: StepMetrics) -> evidence_pb2.Interval | None:
        """Seconds that remain after a step, to the end of the attempt; None before there are enough steps.

        Steps are spread as the recent ones are; what else remains may take half or twice what is expected.
        """
        if len(self._recent) < MIN_STEPS:
            return None
        deciles, middle = quantiles(self._recent, n=10, method="inclusive"), median(self._recent)
        steps = event.remaining_seconds
        per_token = 1 / event.tokens_per_second if event.tokens_per_second > 0 else 0.0
        others = self.ahead.seconds(event.step, event.total_steps, per_token)
        scale = steps / middle if middle > 0 else 0.0
        source = {"source": "this run", "locator": "deciles of recent step times"}
        return evidence_pb2.Interval(
            low=min(deciles[0] * scale, steps) + others / 2,
            expected=steps + others,
            high=max(deciles[-1] * scale, steps) + others * 2,
            coverage=COVERAGE,
            provenance=[evidence_pb2.Provenance(kind=evidence_pb2.PROVENANCE_KIND_MEASURED, **source)],
        )

    def summary(self, total_seconds: float) -> event_pb2.RunSummary:
        """Numbers at the end of the attempt."""
        return event_pb2.RunSummary(
            first_loss=self._first_loss,
            final_loss=fmean(self._last_losses) if self._last_losses else None,
            exact_match_before=self._exact_match.get("before"),
            exact_match_after=self._exact_match.get("after"),
            peak_memory_bytes=self._peak_memory,
            phase_seconds=self._phases,
            total_seconds=total_seconds,
            processed_tokens=self._tokens,
            steps=self._steps,
            median_step_seconds=median(self._all_seconds) if self._all_seconds else 0.0,
            stopped_early=self._best is not None and self._best.early,
            best_step=self._best.best_step if self._best is not None else 0,
        )
