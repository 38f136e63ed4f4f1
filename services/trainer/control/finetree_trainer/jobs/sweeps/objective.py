# SPDX-License-Identifier: Apache-2.0
"""What decides between trials: a metric's value, its interval by the number of held-out rows, and which is better."""

import math
from dataclasses import dataclass

from finetree_api.trainer.v1 import event_pb2, sweep_pb2
from finetree_api.types.v1 import evidence_pb2, run_spec_pb2
from finetree_runtime.errors import InvalidArgument, invalid_field

LOWEST_IS_BEST = {
    "eval_loss": True,
    "eval_perplexity": True,
    "loss": True,
    "eval_exact_match": False,
    "eval_token_accuracy": False,
}
"""Metrics that can decide, and whether the lowest value is the best."""
COVERAGE = 0.95
Z = 1.959964
"""97.5 % quantile of the normal distribution: ends of a two-sided 95 % interval."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A value of the deciding metric, the step that it is of, and its 95 % interval where it has one."""

    step: int
    value: float
    low: float | None = None
    high: float | None = None

    def interval(self) -> evidence_pb2.Interval | None:
        """Return the interval as a message."""
        if self.low is None or self.high is None:
            return None
        return evidence_pb2.Interval(low=self.low, expected=self.value, high=self.high, coverage=COVERAGE)


def metric_of(sweep: sweep_pb2.SweepTemplate) -> str:
    """Return the metric that decides, the default filled in.

    Raises InvalidArgument: INVALID_REQUEST for an unknown one, SWEEP_NEEDS_EVALUATIONS where it is not measured.
    """
    spec = sweep.job.train.spec
    metric = sweep.metric or ("eval_loss" if _holds_out(spec) else "loss")
    if metric not in LOWEST_IS_BEST:
        known = ", ".join(sorted(LOWEST_IS_BEST))
        raise invalid_field("sweep.metric", f"{metric!r} cannot decide; one of {known} can")
    if metric.startswith("eval_") and not _holds_out(spec):
        text = f"{metric} needs held-out rows: set evaluation.split_fraction or evaluation.dataset"
        raise _needs("sweep.metric", text)
    if sweep.HasField("halving") and not (metric.startswith("eval_") and spec.evaluation.every_steps):
        text = "looks at evaluations between steps: set held-out rows and evaluation.every_steps"
        raise _needs("sweep.halving", text)
    return metric


def _holds_out(spec: run_spec_pb2.RunSpec) -> bool:
    return spec.evaluation.HasField("dataset") or spec.evaluation.split_fraction > 0


def _needs(field_path: str, text: str) -> InvalidArgument:
    reason = "SWEEP_NEEDS_EVALUATIONS"
    return InvalidArgument(reason, f"{field_path}: {text}", violations=[(field_path, text, reason)])


def measured(metric: str, evaluation: event_pb2.EvalMetrics) -> Measured | None:
    """Read an evaluation's value of a metric that begins with "eval_"; None where it has none, or no finite one."""
    source = metric.removeprefix("eval_")
    if not evaluation.HasField(source):  # type: ignore[arg-type]  # a name from LOWEST_IS_BEST
        return None
    value = float(getattr(evaluation, source))
    if not math.isfinite(value):
        return None
    low, high = _ends(metric, value, evaluation)
    return Measured(evaluation.step, value, low, high)


def _ends(metric: str, value: float, evaluation: event_pb2.EvalMetrics) -> tuple[float | None, float | None]:
    if metric == "eval_exact_match":
        return wilson(value, evaluation.examples)
    error = evaluation.loss_standard_error if evaluation.HasField("loss_standard_error") else None
    if error is None or metric == "eval_token_accuracy":
        return None, None
    if metric == "eval_perplexity":
        return value * math.exp(-Z * error), value * math.exp(Z * error)
    return value - Z * error, value + Z * error


def wilson(share: float, count: int) -> tuple[float | None, float | None]:
    """Return the ends of the 95 % interval of a share of `count` answers (Wilson 1927); None for no answers."""
    if count <= 0:
        return None, None
    centre = (share + Z * Z / (2 * count)) / (1 + Z * Z / count)
    half = Z / (1 + Z * Z / count) * math.sqrt(share * (1 - share) / count + Z * Z / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def better(metric: str, left: float, right: float) -> bool:
    """Return whether one value is better than another."""
    return left < right if LOWEST_IS_BEST[metric] else left > right
