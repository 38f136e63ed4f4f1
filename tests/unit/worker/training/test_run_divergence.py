# SPDX-License-Identifier: Apache-2.0
"""A loss or a gradient that is no finite number."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from finetree_api.trainer.v1 import event_pb2
from finetree_worker.errors import DivergedError
from finetree_worker.plan import CheckpointPlan, OptimizerName, Plan
from finetree_worker.tokenize.example import Example
from finetree_worker.training.gradients import Gradients
from finetree_worker.training.run import train
from worker_harness import Recorder, difference, run, tuned, weights, weights_at


def poisoned(steps: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the loss of these steps (counted from 0) not a number."""
    whole = Gradients.one

    def one(self: Gradients, step: int, documents: Sequence[Example], targets: int) -> Any:
        done = whole(self, step, documents, targets)
        if step in steps:
            for parameter in self.subject.trainable.values():
                if parameter.grad is not None:
                    parameter.grad.fill_(math.nan)
            return replace(done, loss=math.nan)
        return done

    monkeypatch.setattr(Gradients, "one", one)


def test_a_step_that_is_not_a_number_is_skipped_told_and_moves_nothing(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned({2}, monkeypatch)
    plan = replace(plan, checkpoints=CheckpointPlan(every_steps=1, keep=9))
    recorder = run(plan)
    assert recorder.alerts() == ["NON_FINITE_LOSS"]
    assert "step 3 " in recorder.of(event_pb2.Alert)[0].message
    assert [not step.HasField("loss") for step in recorder.of(event_pb2.StepMetrics)] == [
        step.non_finite for step in recorder.of(event_pb2.StepMetrics)
    ]
    assert [step.non_finite for step in recorder.of(event_pb2.StepMetrics)] == [False] * 2 + [True] + [False] * 3
    before, after = (weights_at(plan, step) for step in (2, 3))
    assert difference(before, after) == 0.0
    assert difference(after, weights_at(plan, 4)) > 0.0
    assert all(bool(tensor.isfinite().all()) for tensor in weights(plan.artifact).values())


@pytest.mark.parametrize("limit", [1, 3])
def test_a_run_gives_up_after_as_many_bad_steps_in_a_row_as_it_was_told(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    poisoned({0, 3, 4, 5} if limit == 3 else {3}, monkeypatch)
    recorder = Recorder()
    with pytest.raises(DivergedError) as caught:
        train(tuned(plan, non_finite_limit=limit), recorder, recorder)
    assert caught.value.reason == "DIVERGED"
    assert len(recorder.of(event_pb2.StepMetrics)) == (6 if limit == 3 else 4)
    assert not plan.artifact.exists()


def test_an_exploding_run_ends_as_diverged(plan: Plan) -> None:
    wild = tuned(
        plan, learning_rate=1e30, warmup_ratio=0.0, max_grad_norm=0.0, epochs=10.0, optimizer=OptimizerName.SGD
    )
    recorder = Recorder()
    with pytest.raises(DivergedError):
        train(wild, recorder, recorder)
    assert recorder.alerts() == ["NON_FINITE_LOSS"] * 5
    assert all(not step.HasField("loss") or math.isfinite(step.loss) for step in recorder.of(event_pb2.StepMetrics))
