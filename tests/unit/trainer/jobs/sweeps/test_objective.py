# SPDX-License-Identifier: Apache-2.0
from typing import Any

import pytest
from finetree_api.trainer.v1 import event_pb2, sweep_pb2
from finetree_runtime.errors import InvalidArgument
from finetree_trainer.jobs.compare import intervals
from finetree_trainer.jobs.sweeps import objective
from google.protobuf import json_format


def sweep_of(evaluation: dict[str, Any] | None = None, **fields: Any) -> sweep_pb2.SweepTemplate:
    spec = {"lora": {}, **({"evaluation": evaluation} if evaluation else {})}
    return json_format.ParseDict({"job": {"train": {"spec": spec}}, **fields}, sweep_pb2.SweepTemplate())


def test_held_out_rows_decide_where_there_are_some():
    assert objective.metric_of(sweep_of()) == "loss"
    assert objective.metric_of(sweep_of({"split_fraction": 0.1})) == "eval_loss"
    assert objective.metric_of(sweep_of({"dataset": {"path": "x"}}, metric="loss")) == "loss"


@pytest.mark.parametrize(
    ("sweep", "reason"),
    [
        (sweep_of(metric="accuracy"), "INVALID_REQUEST"),
        (sweep_of(metric="eval_loss"), "SWEEP_NEEDS_EVALUATIONS"),
        (sweep_of({"split_fraction": 0.1}, halving={}), "SWEEP_NEEDS_EVALUATIONS"),
        (sweep_of({"split_fraction": 0.1, "every_steps": 5}, metric="loss", halving={}), "SWEEP_NEEDS_EVALUATIONS"),
    ],
    ids=["unknown", "no held-out rows", "no evaluation between steps", "halving by the training loss"],
)
def test_what_is_not_measured_cannot_decide(sweep, reason):
    with pytest.raises(InvalidArgument) as refused:
        objective.metric_of(sweep)
    assert refused.value.reason == reason


def test_intervals_come_from_the_held_out_rows():
    evaluation = event_pb2.EvalMetrics(
        step=9,
        loss=2.0,
        perplexity=7.389056,
        exact_match=0.5,
        examples=100,
        token_accuracy=0.4,
        loss_standard_error=0.1,
    )
    loss = objective.measured("eval_loss", evaluation)
    assert loss is not None
    assert (loss.step, loss.value) == (9, 2.0)
    assert loss.ends == (pytest.approx(2 - 0.1959964), pytest.approx(2 + 0.1959964))
    exact = objective.measured("eval_exact_match", evaluation)
    assert exact is not None
    # Wilson's interval for 50 of 100, as published in tables: 0.4038 to 0.5962.
    assert exact.ends == (pytest.approx(0.4038, abs=1e-4), pytest.approx(0.5962, abs=1e-4))
    accuracy = objective.measured("eval_token_accuracy", evaluation)
    assert accuracy is not None
    assert accuracy.interval() is None
    assert objective.measured("eval_loss", event_pb2.EvalMetrics(step=9)) is None


def test_the_interval_of_none_right_or_all_right_stays_inside():
    low, high = intervals.share(0.0, 20).ends()
    assert low == 0.0
    assert high == pytest.approx(0.1611, abs=1e-4)
    assert intervals.share(1.0, 20).ends()[1] == 1.0
    assert intervals.share(0.5, 0).ends() is None


def test_better_depends_on_the_metric():
    assert objective.better("eval_loss", 1.0, 2.0)
    assert objective.better("eval_exact_match", 0.9, 0.1)
