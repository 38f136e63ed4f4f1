# SPDX-License-Identifier: Apache-2.0
"""The report of an evaluation: metrics with intervals, paired differences, verdicts, and what to make of them."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from finetree_api.trainer.v1 import evaluation_pb2
from finetree_api.types.v1 import check_pb2

from finetree_worker.training.evaluation.bootstrap import CONFIDENCE, Bootstrap, Interval, Ratio
from finetree_worker.training.evaluation.metrics import (
    DIFFERING_ROWS,
    GENERAL_LOSS,
    LOWER_IS_BETTER,
    Expected,
    MetricKind,
    RowScore,
    ratio,
)

FEW_ROWS = 30
"""Rows below which a report says that its intervals may be too narrow: from so few rows the bootstrap does not see the
tails (Efron and Tibshirani 1993, section 14.3)."""
SHORT = 1000
"""Longest text of a sample in characters."""
_BASE = evaluation_pb2.EVALUATED_KIND_BASE
_PROMPTED = evaluation_pb2.EVALUATED_KIND_PROMPTED_BASE
_SUBJECT = evaluation_pb2.EVALUATED_KIND_SUBJECT
_BETTER = evaluation_pb2.EVALUATION_VERDICT_BETTER
_WORSE = evaluation_pb2.EVALUATION_VERDICT_WORSE
_NOT_TOLD = evaluation_pb2.EVALUATION_VERDICT_NOT_TOLD_APART


@dataclass(frozen=True, slots=True)
class Measured:
    """A model with what was measured of it: `scores` of the held-out rows, `general` of the general texts."""

    label: str
    kind: evaluation_pb2.EvaluatedKind.ValueType
    scores: Sequence[RowScore]
    general: Sequence[RowScore] = ()
    weights: str = ""
    method: str = ""
    examples: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What a report rests on: the metrics in the order of the enum, the one that decides, and the bootstrap's seed."""

    metrics: Sequence[MetricKind]
    decide_by: MetricKind
    seed: int
    resamples: int
    stop_here: Callable[[], None] = field(default=lambda: None)


def metric_name(metric: MetricKind) -> str:
    """Return a metric's name for people, such as "token accuracy"."""
    name = evaluation_pb2.EvaluationMetric.Name(metric).removeprefix("EVALUATION_METRIC_")
    return name if name == "F1" else name.lower().replace("_", " ")


class Comparer:
    """The statistics of models that were measured on the same rows."""

    def __init__(self, models: Sequence[Measured], expected: Sequence[Expected], settings: Settings) -> None:
        self._models, self._settings = models, settings
        held_out = [metric for metric in settings.metrics if metric != GENERAL_LOSS]
        self._ratios: dict[tuple[str, MetricKind], Ratio] = {
            (model.label, metric): ratio(metric, model.scores, expected) for model in models for metric in held_out
        }
        self._drawn = self._bootstrap(self._ratios)
        general = {
            (model.label, GENERAL_LOSS): ratio(GENERAL_LOSS, model.general, [Expected()] * len(model.general))
            for model in models
            if model.general and GENERAL_LOSS in settings.metrics
        }
        self._general = self._bootstrap(general)
        self._ratios |= general

    def _bootstrap(self, ratios: dict[tuple[str, MetricKind], Ratio]) -> Bootstrap | None:
        if not ratios:
            return None
        named = {_key(*key): found for key, found in ratios.items()}
        settings = self._settings
        return Bootstrap(named, seed=settings.seed, resamples=settings.resamples, stop_here=settings.stop_here)

    def metrics(self, model: Measured) -> Iterator[evaluation_pb2.EvaluatedMetric]:
        """Yield what was measured of a model."""
        for metric in self._settings.metrics:
            if (model.label, metric) in self._ratios:
                found = evaluation_pb2.EvaluatedMetric(metric=metric, rows=self._rows(model.label, metric))
                _fill(found, "value", self._interval(metric, model.label))
                yield found

    def compare(self, one: str, other: str) -> Iterator[evaluation_pb2.EvaluationComparison]:
        """Yield the comparisons of two models by label, one for each metric that both have."""
        for metric in self._settings.metrics:
            if (one, metric) in self._ratios and (other, metric) in self._ratios:
                yield self._comparison(one, other, metric)

    def _comparison(self, one: str, other: str, metric: MetricKind) -> evaluation_pb2.EvaluationComparison:
        interval = self._interval(metric, one, other)
        found = evaluation_pb2.EvaluationComparison(
            label=one,
            against=other,
            metric=metric,
            rows=self._rows(one, metric),
            differing_rows=int((self._ratios[one, metric].over != self._ratios[other, metric].over).sum()),
        )
        _fill(found, "difference", interval)
        found.verdict = verdict(interval, metric, differing=found.differing_rows)
        return found

    def _interval(self, metric: MetricKind, label: str, less: str = "") -> Interval:
        drawn = self._general if metric == GENERAL_LOSS else self._drawn
        assert drawn is not None  # noqa: S101 - the metric's ratios were drawn from
        return drawn.interval(_key(label, metric), _key(less, metric) if less else "")

    def _rows(self, label: str, metric: MetricKind) -> int:
        return int(np.count_nonzero(self._ratios[label, metric].under))


def _key(label: str, metric: MetricKind) -> str:
    return f"{metric} {label}"


def _fill(
    message: evaluation_pb2.EvaluatedMetric | evaluation_pb2.EvaluationComparison, name: str, found: Interval
) -> None:
    """Set a number and the ends of its interval, as far as they are finite."""
    for field_name, value in ((name, found.value), ("low", found.low), ("high", found.high)):
        if value is not None and math.isfinite(value):
            setattr(message, field_name, value)


def verdict(interval: Interval, metric: MetricKind, *, differing: int) -> evaluation_pb2.EvaluationVerdict.ValueType:
    """Return whether a difference with this interval says better, worse, or nothing."""
    low, high = interval.low, interval.high
    if differing < DIFFERING_ROWS or low is None or high is None or low <= 0 <= high:
        return _NOT_TOLD
    return _BETTER if (high < 0) == (metric in LOWER_IS_BETTER) else _WORSE


def build(
    models: Sequence[Measured], expected: Sequence[Expected], settings: Settings
) -> evaluation_pb2.EvaluationReport:
    """Return the report on models: the base first, then the base with examples if any, then the subjects."""
    comparer = Comparer(models, expected, settings)
    subjects = [model for model in models if model.kind == _SUBJECT]
    others = [model for model in models if model.kind != _SUBJECT]
    report = evaluation_pb2.EvaluationReport(
        decided_by=settings.decide_by,
        rows=len(expected),
        seed=settings.seed,
        resamples=settings.resamples,
        confidence=CONFIDENCE,
    )
    for model in models:
        described = evaluation_pb2.EvaluatedModel(
            label=model.label,
            kind=model.kind,
            weights=model.weights,
            method=model.method,
            examples=model.examples,
            seconds=model.seconds,
            metrics=comparer.metrics(model),
        )
        report.models.append(described)
    pairs = [(subject, other) for subject in subjects for other in others]
    for one, other in (*pairs, *combinations(subjects, 2)):
        report.comparisons.extend(comparer.compare(one.label, other.label))
    report.conclusions.extend(conclusion(report, subject.label) for subject in subjects)
    report.headline = headline(report)
    report.cautions.extend(_cautions(report))
    return report


def conclusion(report: evaluation_pb2.EvaluationReport, label: str) -> evaluation_pb2.SubjectConclusion:
    """Return what to make of a subject: against the base, then against the base with examples in the prompt.

    A subject that is worse than the base is called so; one that a prompt replaces is not worth it, whether or not it is
    better than the base. A prompt replaces it unless the whole interval of their difference speaks for it; where it
    does and too few rows differ for a verdict, nothing is told.
    """
    kinds = {model.label: model.kind for model in report.models}
    found = {
        kinds[one.against]: one
        for one in report.comparisons
        if one.label == label and one.metric == report.decided_by and kinds[one.against] != _SUBJECT
    }
    base, prompted = found[_BASE], found.get(_PROMPTED)
    names = evaluation_pb2.EvaluationVerdict
    kind = names.Name(base.verdict).removeprefix("EVALUATION_VERDICT_")
    text = f"{_value(report, label)}, {base.against} {_value(report, base.against)}, difference {_difference(base)}"
    if prompted is not None:
        rival = f"{prompted.against} {_value(report, prompted.against)}, difference {_difference(prompted)}"
        if base.verdict != _WORSE and prompted.verdict != _BETTER:
            kind = "NOT_TOLD_APART" if _leads(prompted) else "NOT_WORTH_IT"
            text = f"{_value(report, label)}, {rival}"
        else:
            text = f"{text}; {rival}"
    value = evaluation_pb2.EvaluationConclusion.Value(f"EVALUATION_CONCLUSION_{kind}")
    told = f"{metric_name(report.decided_by)} {text}"
    return evaluation_pb2.SubjectConclusion(label=label, conclusion=value, text=told)


def _leads(one: evaluation_pb2.EvaluationComparison) -> bool:
    """Whether the whole interval of a difference speaks for the subject."""
    return bool(one.HasField("low") and (one.high < 0 if one.metric in LOWER_IS_BETTER else one.low > 0))


def headline(report: evaluation_pb2.EvaluationReport) -> str:
    """Return the first line of a report."""
    names = evaluation_pb2.EvaluationConclusion
    found = [(names.Name(one.conclusion).removeprefix("EVALUATION_CONCLUSION_"), one) for one in report.conclusions]
    if len(found) == 1:
        kind, only = found[0]
        return f"{kind}: {only.label}: {only.text}"
    kinds = {kind: [one.label for name, one in found if name == kind] for kind, _ in found}
    told = "; ".join(f"{kind}: {', '.join(labels)}" for kind, labels in kinds.items())
    return f"{told} (by {metric_name(report.decided_by)})"


def _value(report: evaluation_pb2.EvaluationReport, label: str) -> str:
    model = next(model for model in report.models if model.label == label)
    found = next((one for one in model.metrics if one.metric == report.decided_by), None)
    return f"{found.value:.3f}" if found is not None and found.HasField("value") else "not finite"


def _difference(one: evaluation_pb2.EvaluationComparison) -> str:
    if not one.HasField("difference"):
        return "unknown"
    interval = f" [{one.low:+.3f}, {one.high:+.3f}]" if one.HasField("low") else ""
    return f"{one.difference:+.3f}{interval}"


def _cautions(report: evaluation_pb2.EvaluationReport) -> Iterator[check_pb2.Remark]:
    if report.rows < FEW_ROWS:
        text = f"Only {report.rows} rows were measured: intervals from so few may be too narrow. Hold out more rows."
        yield check_pb2.Remark(code="FEW_ROWS", message=text)
    base = next(model.label for model in report.models if model.kind == _BASE)
    for one in report.comparisons:
        if one.metric == GENERAL_LOSS and one.against == base and one.verdict == _WORSE:
            text = (
                f"{one.label}: the loss on general texts grew by {_difference(one)} nats a token: it has forgotten "
                "some of what the base can do. Train for fewer steps, lower the learning rate, or mix general rows in."
            )
            yield check_pb2.Remark(code="GENERAL_LOSS_GREW", message=text)


def shortened(text: str) -> str:
    """Return a text of at most SHORT characters."""
    return text if len(text) <= SHORT else text[: SHORT - 1] + "…"
