# SPDX-License-Identifier: Apache-2.0
"""What the log of a job says about its course, read once, from the newest event back.

Read backwards, the newest attempt's value of a step is met first, and what an earlier attempt said of it is left out.
"""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

from finetree.joblog.metrics import OF_EVALUATIONS, OF_STEPS, values_of
from finetree_api.trainer.v1 import comparison_pb2, event_pb2
from finetree_api.types.v1 import training_data_pb2
from sqlalchemy import Connection

from finetree_trainer.joblog.log import job_not_found
from finetree_trainer.jobs.compare.curves import FINEST, Curve
from finetree_trainer.store import events, jobs

READ_BLOCKS = 64
"""Blocks of events of one read from the database."""
MASK = events.kinds_mask(
    [
        event_pb2.EVENT_KIND_STEP_METRICS,
        event_pb2.EVENT_KIND_EVAL_METRICS,
        event_pb2.EVENT_KIND_SAMPLE,
        event_pb2.EVENT_KIND_ATTEMPT_STARTED,
        event_pb2.EVENT_KIND_DATASET_REPORT,
        event_pb2.EVENT_KIND_TERMINAL,
    ]
)
MAX_SAMPLES = 1000
"""Samples of a job that are looked at: as many as Evaluation.samples can ask for."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is read: metrics with a curve, the axis, points of a curve, steps of the training loss."""

    metrics: tuple[str, ...]
    axis: comparison_pb2.CurveAxis.ValueType
    points: int
    last_steps: int


@dataclass(slots=True)
class History:
    """The course of a job. `losses` are those of its newest steps, the newest first."""

    wanted: Wanted
    curves: dict[str, Curve] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    newest: event_pb2.StepMetrics = field(default_factory=event_pb2.StepMetrics)
    step_seconds: "array[float]" = field(default_factory=lambda: array("d"))
    tokens_per_second: "array[float]" = field(default_factory=lambda: array("d"))
    evaluations: list[event_pb2.EvalMetrics] = field(default_factory=list)
    """The newest first."""
    samples: list[event_pb2.Sample] = field(default_factory=list)
    """In the order in which they were asked."""
    environment: dict[str, str] = field(default_factory=dict)
    """Of the newest attempt."""
    summary: event_pb2.RunSummary = field(default_factory=event_pb2.RunSummary)
    leaked: int = 0
    """Held-out rows that are training rows too."""
    events_removed: bool = False
    _attempt: int = 0
    _begun: int = 0
    _known_from: int = 1 << 62
    """Steps from here on were computed by a later attempt."""
    _unplaced: list[event_pb2.EvalMetrics] = field(default_factory=list)
    """Evaluations whose step is not met yet: it alone says where on the axis they are."""

    def add(self, event: event_pb2.JobEvent) -> None:
        """Add the next older event."""
        if event.attempt != self._attempt:
            self._known_from = min(self._known_from, self._begun or self._known_from)
            self._attempt, self._begun = event.attempt, 0
        match event.WhichOneof("payload"):
            case "step_metrics":
                self._begun = event.step_metrics.step
                if event.step_metrics.step < self._known_from:
                    self._add_step(event.step_metrics)
            case "eval_metrics" if event.eval_metrics.step < self._known_from:
                self.evaluations.append(event.eval_metrics)
                self._unplaced.append(event.eval_metrics)
            case "sample" if len(self.samples) < MAX_SAMPLES:
                self.samples.insert(0, event.sample)
            case "attempt_started" if not self.environment:
                self.environment = dict(event.attempt_started.environment)
            case "dataset_report" if event.dataset_report.split == training_data_pb2.SPLIT_EVALUATION:
                self.leaked = max(self.leaked, event.dataset_report.leaked.count)
            case "terminal":
                self.summary = event.terminal.summary

    def finish(self) -> None:
        """Place what no step was met for: evaluations of the base model."""
        for metrics in self._unplaced:
            if metrics.step == 0:
                self._add_values(metrics, 0.0, names=OF_EVALUATIONS)
        self._unplaced.clear()

    @property
    def spacing(self) -> float:
        """Units of the axis between two steps, on average; 0 before the first."""
        return self._position(self.newest) / len(self.step_seconds) if self.step_seconds else 0.0

    def _add_step(self, metrics: event_pb2.StepMetrics) -> None:
        if not self.step_seconds:
            self.newest = metrics
        if metrics.HasField("loss") and len(self.losses) < self.wanted.last_steps:
            self.losses.append(metrics.loss)
        self.step_seconds.append(metrics.step_seconds)
        self.tokens_per_second.append(metrics.tokens_per_second)
        position = self._position(metrics)
        for evaluation in [each for each in self._unplaced if each.step >= metrics.step]:
            self._add_values(evaluation, position, names=OF_EVALUATIONS)
            self._unplaced.remove(evaluation)
        self._add_values(metrics, position, names=OF_STEPS)

    def _add_values(
        self, metrics: event_pb2.StepMetrics | event_pb2.EvalMetrics, position: float, *, names: Iterable[str]
    ) -> None:
        for name, value in values_of(metrics, [name for name in self.wanted.metrics if name in names]):
            curve = self.curves.get(name)
            if curve is None:
                curve = self.curves[name] = Curve(FINEST[self.wanted.axis], self.wanted.points)
            curve.add(position, metrics.step, value)

    def _position(self, metrics: event_pb2.StepMetrics) -> float:
        match self.wanted.axis:
            case comparison_pb2.CURVE_AXIS_EPOCH:
                return metrics.epoch
            case comparison_pb2.CURVE_AXIS_TOKENS:
                return float(metrics.processed_tokens)
            case _:
                return float(metrics.step)


def read(connection: Connection, uid: str, wanted: Wanted) -> History:
    """Read the course of a job. Raises NotFound JOB_NOT_FOUND, FailedPrecondition EVENTS_DAMAGED."""
    reach = jobs.span(connection, uid)
    if reach is None:
        raise job_not_found(uid)
    history = History(wanted, events_removed=reach.oldest_seq > 1)
    before = reach.last_seq + 1
    while before > reach.oldest_seq:
        found, before = events.read_before(
            connection, uid, before, after=reach.oldest_seq - 1, mask=MASK, blocks=READ_BLOCKS
        )
        for event in found:
            history.add(event)
    history.finish()
    return history
