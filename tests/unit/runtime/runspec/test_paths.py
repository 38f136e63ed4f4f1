# SPDX-License-Identifier: Apache-2.0
"""Paths of what is set in a message, and of what differs."""

from finetree_api.types.v1 import method_pb2, run_spec_pb2, training_pb2
from finetree_runtime.runspec.paths import FieldDifference, difference, set_paths


def test_set_paths_are_the_leaves_in_field_order() -> None:
    spec = run_spec_pb2.RunSpec(full=method_pb2.FullFineTuning(), optimizer=training_pb2.OPTIMIZER_SGD)
    spec.training.seed = 0
    spec.evaluation.metrics.extend([training_pb2.METRIC_LOSS, training_pb2.METRIC_EXACT_MATCH])
    assert set_paths(spec) == ["full", "training.seed", "optimizer", "evaluation.metrics"]


def test_differences_have_the_json_of_both_sides() -> None:
    left, right = (run_spec_pb2.RunSpec(training=training_pb2.Training(seed=seed)) for seed in (1, 2))
    right.optimizer = training_pb2.OPTIMIZER_SGD
    right.evaluation.metrics.append(training_pb2.METRIC_LOSS)
    assert difference(left, right) == [
        FieldDifference("evaluation.metrics", "", '["METRIC_LOSS"]'),
        FieldDifference("optimizer", "", '"OPTIMIZER_SGD"'),
        FieldDifference("training.seed", '"1"', '"2"'),
    ]


def test_an_unset_field_differs_from_an_explicit_zero() -> None:
    zero = run_spec_pb2.RunSpec(training=training_pb2.Training(weight_decay=0.0))
    assert difference(run_spec_pb2.RunSpec(), zero) == [FieldDifference("training.weight_decay", "", "0.0")]
    assert difference(zero, zero) == []
