# SPDX-License-Identifier: Apache-2.0
"""What a run still has to do besides its steps."""

import pytest
from finetree_api.types.v1 import run_spec_pb2, training_pb2
from finetree_worker.events.eta import Ahead
from finetree_worker.events.types import CheckpointSaved, DatasetReport, EvalMetrics


def report(eval_rows: int = 20) -> DatasetReport:
    return DatasetReport("chat", 120, 100, eval_rows, 0, 0, 0, (), 10_000, 2_000, 300, 512, ((512, 100),))


def spec(**evaluation: object) -> run_spec_pb2.RunSpec:
    return run_spec_pb2.RunSpec(evaluation=training_pb2.Evaluation(**evaluation))


def loss_only(step: int, seconds: float) -> EvalMetrics:
    return EvalMetrics(step, 1.0, 2.7, None, 0, 0, 20, seconds)


def test_a_run_without_evaluation_and_checkpoints_has_nothing_else_to_do():
    ahead = Ahead(run_spec_pb2.RunSpec())
    ahead.rows(report())
    assert ahead.seconds(20, 100, 0.01) == 0.0


def test_evaluations_to_come_cost_what_the_last_one_did():
    ahead = Ahead(spec(every_steps=30))
    ahead.rows(report())
    ahead.evaluation(loss_only(30, 4.0))
    # At 60 and 90; the one at 100 is the last step's, which is not made.
    assert ahead.seconds(35, 100, 0.01) == 8.0
    assert ahead.seconds(95, 100, 0.01) == 0.0


def test_an_evaluation_that_was_not_made_yet_costs_a_forward_pass_over_the_held_out_rows():
    ahead = Ahead(spec(every_steps=50))
    ahead.rows(report())
    # 20 rows of 100 tokens at 0.01 s a token, a third of it forward.
    assert ahead.seconds(20, 100, 0.01) == pytest.approx(20.0 / 3)


def test_without_held_out_rows_nothing_is_evaluated():
    ahead = Ahead(spec(every_steps=10, metrics=[training_pb2.METRIC_LOSS]))
    ahead.rows(report(eval_rows=0))
    assert ahead.seconds(20, 100, 0.01) == 0.0


def test_the_evaluation_after_training_answers_shorter_than_the_one_before():
    metrics = [training_pb2.METRIC_LOSS, training_pb2.METRIC_EXACT_MATCH]
    ahead = Ahead(spec(metrics=metrics, max_new_tokens=62))
    ahead.rows(report())
    ahead.evaluation(loss_only(10, 2.0))
    ahead.evaluation(EvalMetrics(0, 1.0, 2.7, 0.0, 20, 0, 20, 12.0))
    # Answers of 20 tokens on average: the longest of a batch has 31 of the 62 that the untrained model used.
    assert ahead.seconds(99, 100, 0.01) == pytest.approx(2.0 + 10.0 / 2)


def test_checkpoints_and_the_artifact_cost_what_the_last_checkpoint_did():
    ahead = Ahead(run_spec_pb2.RunSpec(checkpoints=training_pb2.Checkpoints(every_steps=25)))
    assert ahead.seconds(20, 100, 0.01) == 0.0
    ahead.checkpoint(CheckpointSaved(25, "step-25", 10, False, 3.0))
    assert ahead.seconds(30, 100, 0.01) == pytest.approx(2 * 3.0 + 1.0)


def test_evaluations_that_answer_cost_what_the_last_one_of_them_did():
    exact = training_pb2.METRIC_EXACT_MATCH
    ahead = Ahead(spec(metrics=[exact], max_new_tokens=62, every_steps=30, best_by=exact))
    ahead.rows(report())
    ahead.evaluation(EvalMetrics(30, 1.0, 2.7, 0.0, 20, 0, 20, 7.0))
    # At 60 and 90, and after the last step.
    assert ahead.seconds(35, 100, 0.01) == 3 * 7.0
