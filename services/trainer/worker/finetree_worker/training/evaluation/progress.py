# SPDX-License-Identifier: Apache-2.0
"""Progress of an evaluation over its models, and the time that remains by what was measured so far."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from finetree_api.trainer.v1 import event_pb2, job_pb2
from finetree_api.types.v1 import evidence_pb2

from finetree_worker.events.envelope import Reporter

EVENTS = 100
"""Progress events of a whole evaluation at most."""
FORECASTS = 10
"""Forecasts of a whole evaluation at most."""
SPREAD = 2.0
"""The forecast's interval reaches from the expected time divided by this to that times this."""
STAGE_UNITS = {"load": 2000.0, "losses": 1.0, "answers": 4.0, "general": 1.0}
"""Work of a stage before any was timed, for each token: a generated one is computed alone, and takes longer than one
that is read. Loading counts as a number of tokens."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the work on one model: what is done, and its tokens."""

    model: str
    kind: str
    tokens: float

    @property
    def units(self) -> float:
        """Work in units of a token that is read."""
        return STAGE_UNITS[self.kind] * self.tokens


class Progress:
    """Reports how far an evaluation is. Stages are done in the order in which they were given."""

    def __init__(
        self,
        stages: Sequence[Stage],
        reporter: Reporter,
        stop_here: Callable[[], None],
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`stop_here` is called often, and may raise."""
        self._stages, self._reporter, self._stop_here, self._clock = list(stages), reporter, stop_here, clock
        self._began = self._stage_began = clock()
        self._at, self._within = 0, 0.0
        self._measured: dict[str, tuple[float, float]] = {}
        self._told, self._forecast = -1, 0
        self._tell(force=True)

    def within(self, fraction: float) -> None:
        """Report the share of the stage at hand that is done, 0 to 1."""
        self._stop_here()
        self._within = fraction
        self._tell()

    def stage_done(self) -> None:
        """Report that the stage at hand is over."""
        stage, now = self._stages[self._at], self._clock()
        units, seconds = self._measured.get(stage.kind, (0.0, 0.0))
        self._measured[stage.kind] = units + stage.units, seconds + now - self._stage_began
        self._at, self._within, self._stage_began = self._at + 1, 0.0, now
        self._stop_here()
        self._tell(force=self._at == len(self._stages))

    def remaining(self) -> float:
        """Return the seconds that the stages ahead should take, by those of their kind that were timed."""
        return sum(self._seconds(stage) for stage in self._stages[self._at :]) - self._within * self._current()

    def _current(self) -> float:
        return self._seconds(self._stages[self._at]) if self._at < len(self._stages) else 0.0

    def _seconds(self, stage: Stage) -> float:
        units, seconds = self._measured.get(stage.kind, (0.0, 0.0))
        if not units:
            units = sum(units for units, _ in self._measured.values())
            seconds = sum(seconds for _, seconds in self._measured.values())
        return stage.units * seconds / units if units else 0.0

    @property
    def fraction(self) -> float:
        """Share of the work that is done, 0 to 1."""
        total = sum(stage.units for stage in self._stages)
        done = sum(stage.units for stage in self._stages[: self._at])
        if self._at < len(self._stages):
            done += self._within * self._stages[self._at].units
            # 1 says that the phase is over.
            return min(done / total, 1 - 1 / EVENTS)
        return 1.0

    def _tell(self, *, force: bool = False) -> None:
        fraction = self.fraction
        if not force and int(fraction * EVENTS) == self._told:
            return
        self._told = int(fraction * EVENTS)
        report = event_pb2.PhaseProgress(phase=job_pb2.JOB_PHASE_EVALUATE, fraction=fraction)
        line = ""
        if self._at < len(self._stages):
            stage = self._stages[self._at]
            line = f"evaluate {fraction:.0%}: {stage.kind} of {stage.model}"
        self._reporter.emit(report, message=line)
        if self._measured and int(fraction * FORECASTS) > self._forecast and fraction < 1:
            self._forecast = int(fraction * FORECASTS)
            self._emit_forecast()

    def _emit_forecast(self) -> None:
        ahead, elapsed = max(0.0, self.remaining()), self._clock() - self._began
        eta, total = (
            evidence_pb2.Interval(low=past + ahead / SPREAD, expected=past + ahead, high=past + ahead * SPREAD)
            for past in (0.0, elapsed)
        )
        self._reporter.emit(event_pb2.Forecast(eta_seconds=eta, total_seconds=total))
