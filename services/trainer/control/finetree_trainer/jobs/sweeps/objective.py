# SPDX-License-Identifier: Apache-2.0
"""What decides between trials: a metric's value, its interval by the number of held-out rows, and which is better."""

import math
from dataclasses import dataclass

from finetree_api.trainer.v1 import event_pb2, sweep_pb2
from finetree_api.types.v1 import evidence_pb2, run_spec_pb2
from finetree_runtime.errors import InvalidArgument, invalid_field

from finetree_trainer.jobs.compare import intervals

LOWEST_IS_BEST = {
    "eval_loss": True,
    "eval_perplexity": True,
    "loss": True,
    "eval_exact_match": False,
    "eval_token_accuracy": False,
}
"""Metrics that can decide, and whether the lowest value is the best."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A value of the deciding metric, the step that it is of, and its 95 % interval where it has one."""

    step: int
    value: float
    ends: tuple[float, float] | None = None

    def interval(self) -> evidence_pb2.Interval | None:
        """Return the interval as a message."""
        if self.ends is None:
            return None
        low, high = self.ends
        return evidence_pb2.Interval(low=low, expected=self.value, high=high, coverage=intervals.COVERAGE)


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
    return Measured(evaluation.step, value, _ends(metric, value, evaluation))


def _ends(metric: str, value: float, evaluation: event_pb2.EvalMetrics) -> tuple[float, float] | None:
    if metric == "eval_exact_match":
        return intervals.share(value, evaluation.examples).ends()
    if metric == "eval_token_accuracy" or not evaluation.HasField("loss_standard_error"):
        return None
    if metric == "eval_loss":
        return intervals.Measured(value, evaluation.loss_standard_error).ends()
    ends = intervals.Measured(math.log(value), evaluation.loss_standard_error).ends()
    return (math.exp(ends[0]), math.exp(ends[1])) if ends is not None else None


def better(metric: str, left: float, right: float) -> bool:
    """Return whether one value is better than another."""
    return left < right if LOWEST_IS_BEST[metric] else left > right
