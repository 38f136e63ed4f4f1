# SPDX-License-Identifier: Apache-2.0
"""Metrics of a job's events made fewer: curves of at most so many points, streams of at most so many a second.

The trainer answers QueryMetrics and WatchJob with it, the fake suite too, and whoever has a job's events may.

    curves = Curves.of(metrics_pb2.QueryMetricsRequest(metrics=["loss"], max_points=100))
    all(curves.add(event) for event in reversed(read_log("run.jsonl").events) if event.kind in KINDS)
    print(curves.series())
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self, cast

from finetree_api.trainer.v1 import event_log_pb2, event_pb2, metrics_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from finetree.errors import Violation

DEFAULT_POINTS = 500
OF_STEPS = {
    "loss": "nats",
    "learning_rate": "",
    "grad_norm": "",
    "tokens_per_second": "tokens/s",
    "step_seconds": "s",
    "memory_bytes": "bytes",
    "peak_memory_bytes": "bytes",
    "padding_fraction": "ratio",
}
"""Fields of StepMetrics with a curve, and their units."""
OF_EVALUATIONS = {
    "eval_loss": "nats",
    "eval_perplexity": "",
    "eval_exact_match": "ratio",
    "eval_token_accuracy": "ratio",
}
"""Fields of EvalMetrics with a curve, behind "eval_", and their units."""
UNITS = OF_STEPS | OF_EVALUATIONS
_OPTIONAL = frozenset({"loss", "grad_norm", *OF_EVALUATIONS})
"""Metrics that a step may lack: they were not finite, or not measured."""
KINDS = (event_pb2.EVENT_KIND_STEP_METRICS, event_pb2.EVENT_KIND_EVAL_METRICS)
"""Kinds of the events that have metrics."""


def query_problem(request: metrics_pb2.QueryMetricsRequest) -> Violation | None:
    """What is wrong with a request beside the rules of the contract; None for a right one."""
    for place, name in enumerate(request.metrics):
        if name not in UNITS:
            return Violation(f"metrics[{place}]", f"is not a metric; the known ones are {', '.join(sorted(UNITS))}")
    if request.last_step and request.last_step < request.first_step:
        return Violation("last_step", "must not be below first_step")
    return None


@dataclass(slots=True)
class _Point:
    """The values of one metric in neighbouring steps, added from the newest on."""

    first_step: int
    last_step: int
    value: float
    time: Timestamp
    low: float
    high: float
    total: float
    count: int = 1

    def add(self, step: int, value: float) -> None:
        self.first_step = step
        self.low, self.high = min(self.low, value), max(self.high, value)
        self.total += value
        self.count += 1

    def to_message(self) -> metrics_pb2.MetricPoint:
        return metrics_pb2.MetricPoint(
            first_step=self.first_step,
            last_step=self.last_step,
            value=self.value,
            min=self.low,
            max=self.high,
            # Rounding must not put the mean of equal values beside them.
            mean=min(max(self.total / self.count, self.low), self.high),
            count=self.count,
            time=self.time,
        )


@dataclass(slots=True)
class Curves:
    """Curves of the metrics `names` from step `first` to `last` (0: the newest), of at most `limit` points each.

    Events are added from the newest to the oldest.
    """

    names: tuple[str, ...]
    first: int
    last: int
    limit: int
    newest: int = 0
    """Newest step with metrics; 0 before it was met."""
    width: int = 1
    """Steps of a point: the smallest power of two with which the range has at most `limit` points."""
    _attempt: int = 0
    _begun: int = 0
    """The attempt whose events are added now, and its first step so far."""
    _known_from: int = 1 << 62
    """Steps from here on were computed by a later attempt."""
    _points: dict[str, dict[int, _Point]] = field(default_factory=dict)

    @classmethod
    def of(cls, request: metrics_pb2.QueryMetricsRequest) -> Self:
        """The curves that a request without a problem asks for, before any event."""
        return cls(
            names=tuple(request.metrics) or tuple(sorted(UNITS)),
            first=request.first_step,
            last=request.last_step,
            limit=request.max_points or DEFAULT_POINTS,
        )

    def add(self, event: event_pb2.JobEvent) -> bool:
        """Add an event; return False once no older one can matter."""
        of_step = event.kind == event_pb2.EVENT_KIND_STEP_METRICS
        metrics = event.step_metrics if of_step else event.eval_metrics
        step = metrics.step
        if event.attempt != self._attempt:
            self._known_from = min(self._known_from, self._begun or self._known_from)
            self._attempt, self._begun = event.attempt, 0
        if of_step:
            self._begun = step
        if not self.newest:
            self._see_newest(step)
        if step >= self._known_from or (self.last and step > self.last):
            return True
        if step < self.first:
            # Evaluations come after the step that they are of.
            return step >= self.first - 1
        for name, value in values_of(metrics, self.names):
            self._put(name, step, value, event.event_time)
        return True

    def _see_newest(self, step: int) -> None:
        self.newest = step
        first, last = max(self.first, 1), max(self.first, 1, min(self.last or step, step))
        while (last - 1) // self.width - (first - 1) // self.width >= self.limit:
            self.width *= 2

    def _put(self, name: str, step: int, value: float, time: Timestamp) -> None:
        points = self._points.setdefault(name, {})
        place = (step - 1) // self.width
        point = points.get(place)
        if point is None:
            points[place] = _Point(step, step, value, time, low=value, high=value, total=value)
        elif step < point.first_step:
            point.add(step, value)

    def series(self) -> list[metrics_pb2.MetricSeries]:
        """Return the curves that have a point."""
        return [
            metrics_pb2.MetricSeries(
                name=name,
                unit=UNITS[name],
                points=[point.to_message() for _, point in sorted(self._points[name].items())],
            )
            for name in self.names
            if name in self._points
        ]


def values_of(
    metrics: event_pb2.StepMetrics | event_pb2.EvalMetrics, names: Iterable[str]
) -> Iterator[tuple[str, float]]:
    """The finite values of those of the named metrics that an event of this kind has."""
    of_step, read = isinstance(metrics, event_pb2.StepMetrics), cast("Any", metrics)
    for name in names:
        if (name in OF_STEPS) is not of_step:
            continue
        source = name.removeprefix("eval_")
        if name in _OPTIONAL and not read.HasField(source):
            continue
        value = float(getattr(read, source))
        if math.isfinite(value):
            yield name, value


class StepSampler:
    """Leaves out step metrics beyond a rate, by the log's own times, so that every watcher and replay sees the same."""

    def __init__(self, per_second: int) -> None:
        """Keep at most so many step metrics of a second; 0 keeps all."""
        self._gap = 1_000_000 / per_second if per_second else 0.0
        self._last = -math.inf
        self._losses: list[float] = []
        self._range: event_log_pb2.SkippedRange | None = None

    def keeps(self, event: event_pb2.JobEvent) -> bool:
        """Return whether an event is sent; the loss of one that is not is kept for the summary."""
        if not self._gap or event.kind != event_pb2.EVENT_KIND_STEP_METRICS:
            return True
        now = event.event_time.ToMicroseconds()
        if now - self._last >= self._gap:
            self._last = now
            return True
        if self._range is None:
            self._range = event_log_pb2.SkippedRange(first_seq=event.seq)
        self._range.last_seq = event.seq
        self._range.count += 1
        if event.step_metrics.HasField("loss"):
            self._losses.append(event.step_metrics.loss)
        return False

    def take(self) -> list[event_log_pb2.SkippedRange]:
        """Return what was left out since the last call."""
        skipped, self._range = self._range, None
        if skipped is None:
            return []
        if self._losses:
            skipped.min_loss, skipped.max_loss = min(self._losses), max(self._losses)
            skipped.mean_loss = math.fsum(self._losses) / len(self._losses)
            self._losses.clear()
        return [skipped]
