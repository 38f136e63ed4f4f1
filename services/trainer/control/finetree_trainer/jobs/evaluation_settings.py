# SPDX-License-Identifier: Apache-2.0
"""Settings that act on evaluations while training: without any evaluations they would silently never act."""

from finetree_api.types.v1 import run_spec_pb2, training_pb2
from finetree_runtime.errors import invalid_field

_SPEC = "job.train.spec"
_NEEDS_STEPS = "needs evaluation.every_steps: set after how many optimizer steps to evaluate"
_NEEDS_ROWS = "needs held-out rows: set evaluation.dataset or evaluation.split_fraction"


def require_evaluations(spec: run_spec_pb2.RunSpec) -> None:
    """Raise InvalidArgument for early stopping, keep_best, best_by or samples without the evaluations they need.

    The reason is INVALID_REQUEST; for checkpoints.keep_best, which the worker refuses too, it is
    KEEP_BEST_WITHOUT_EVALUATION.
    """
    evaluation = spec.evaluation
    if spec.checkpoints.keep_best:
        _require_held_out(evaluation, "checkpoints.keep_best", "KEEP_BEST_WITHOUT_EVALUATION")
    if evaluation.best_by:
        _require_measured(spec)
    held_out = evaluation.HasField("dataset") or evaluation.split_fraction
    if evaluation.samples and held_out and training_pb2.METRIC_EXACT_MATCH not in evaluation.metrics:
        text = "are answers that METRIC_EXACT_MATCH is measured on, which is not among evaluation.metrics; add it there"
        raise invalid_field(f"{_SPEC}.evaluation.samples", text)
    if evaluation.early_stopping_patience:
        _require_held_out(evaluation, "evaluation.early_stopping_patience", "INVALID_REQUEST")
    elif evaluation.early_stopping_min_delta:
        text = "has no effect without evaluation.early_stopping_patience; set how many evaluations to wait"
        raise invalid_field(f"{_SPEC}.evaluation.early_stopping_min_delta", text)


def _require_held_out(evaluation: training_pb2.Evaluation, path: str, reason: str) -> None:
    if not evaluation.every_steps:
        raise invalid_field(f"{_SPEC}.{path}", _NEEDS_STEPS, reason)
    if not (evaluation.HasField("dataset") or evaluation.split_fraction):
        raise invalid_field(f"{_SPEC}.{path}", _NEEDS_ROWS, reason)


def _require_measured(spec: run_spec_pb2.RunSpec) -> None:
    """Raise unless the metric that chooses the best evaluation is measured, and a setting asks for the best."""
    evaluation, path = spec.evaluation, f"{_SPEC}.evaluation.best_by"
    if not (evaluation.early_stopping_patience or spec.checkpoints.keep_best):
        text = "has no effect without evaluation.early_stopping_patience or checkpoints.keep_best; set one of them"
        raise invalid_field(path, text)
    if not evaluation.every_steps:
        raise invalid_field(path, _NEEDS_STEPS)
    exact = training_pb2.METRIC_EXACT_MATCH
    if evaluation.best_by == exact and exact not in evaluation.metrics:
        raise invalid_field(path, "is METRIC_EXACT_MATCH, which is not among evaluation.metrics; add it there")
