# SPDX-License-Identifier: Apache-2.0
"""Steps that are not finite, and updates that run out of memory."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from finetree_api.trainer.v1 import event_pb2
from finetree_worker.errors import DivergedError, Interrupted, MemoryExhaustedError
from finetree_worker.plan import CheckpointPlan, OptimizerName, Plan
from finetree_worker.tokenize.example import Example
from finetree_worker.training.gradients import Gradients
from finetree_worker.training.loop import Loop
from finetree_worker.training.run import train
from worker_harness import Recorder, difference, elsewhere, run, tuned, weights, weights_at


def half_writing(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let memory run out in the update of a step (counted from 1), after the first weight was written."""
    whole = Loop._update

    def update(self: Loop, rate: float) -> None:
        if self.position.step + 1 == step:
            next(iter(self.subject.trainable.values())).data.fill_(7.0)
            monkeypatch.setattr(self.optimizer, "step", raising(torch.OutOfMemoryError("in the update")))
        whole(self, rate)

    monkeypatch.setattr(Loop, "_update", update)


def raising(error: BaseException) -> Callable[[], None]:
    def step() -> None:
        raise error

    return step


def test_an_update_that_ran_out_of_memory_is_undone_by_the_next_attempt(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights are half written: a checkpoint of them, or an artifact, would be of no step at all."""
    run(plan)
    broken = replace(elsewhere(plan, tmp_path / "b"), checkpoints=CheckpointPlan(every_steps=2))
    recorder = Recorder()
    with monkeypatch.context() as patch:
        half_writing(4, patch)
        with pytest.raises(Interrupted):
            run(broken, recorder)
    (alert,) = recorder.of(event_pb2.Alert)
    assert alert.code == "UPDATE_OUT_OF_MEMORY"
    assert "update of step 4; the run restarts from step 2" in alert.message
    assert [saved.step for saved in recorder.of(event_pb2.CheckpointSaved)] == [2]
    resumed = run(broken)
    assert resumed.of(event_pb2.AttemptStarted)[0].restored_step == 2
    assert difference(weights(plan.artifact), weights(broken.artifact)) == 0.0


@pytest.mark.parametrize("every", [0, 2])
def test_an_update_that_runs_out_of_memory_without_progress_ends_the_run(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    plan = replace(plan, checkpoints=CheckpointPlan(every_steps=every))
    half_writing(4, monkeypatch)
    if every:
        with pytest.raises(Interrupted):
            run(plan)
    with pytest.raises(MemoryExhaustedError) as refused:
        run(plan)
    assert (refused.value.reason, refused.value.field) == ("OUT_OF_MEMORY_UPDATE", "optimizer")
    assert not plan.artifact.exists()


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
