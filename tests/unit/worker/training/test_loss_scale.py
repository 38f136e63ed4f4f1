# SPDX-License-Identifier: Apache-2.0
"""Training in float16: the factor on the loss, what an overflow does, and that a checkpoint has it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from finetree_api.trainer.v1 import event_pb2
from finetree_worker.errors import Cancelled
from finetree_worker.plan import CheckpointPlan, Plan, Precision
from finetree_worker.tokenize.example import Example
from finetree_worker.training import loss_scale
from finetree_worker.training.gradients import Gradients
from finetree_worker.training.loss_scale import LossScale
from finetree_worker.training.run import train
from worker_harness import METHODS, difference, elsewhere, pausing, run, tuned, weights

FP16 = Precision.FP16_MIXED


@pytest.mark.parametrize("name", ["full", "lora", "nf4", "int8", "prefix", "pfeiffer"])
def test_every_method_learns_in_float16(plan: Plan, name: str) -> None:
    recorder = run(replace(tuned(plan, precision=FP16, epochs=6.0), method=METHODS[name]))
    steps = recorder.of(event_pb2.StepMetrics)
    assert recorder.outcome.final_loss < steps[0].loss
    assert not recorder.alerts()
    dtypes = {tensor.dtype for tensor in weights(plan.artifact).values()}
    assert dtypes == ({torch.float16} if name == "full" else {torch.float32})


def overflowing(above: float, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Make gradients infinite where the factor is above a bound; the steps that were computed, in order."""
    whole, computed = Gradients.one, []

    def one(self: Gradients, step: int, documents: Sequence[Example], targets: int) -> Any:
        done = whole(self, step, documents, targets)
        if step >= 0:
            computed.append(step)
        if self.scale.factor > above:
            for parameter in self.subject.trainable.values():
                if parameter.grad is not None:
                    parameter.grad.fill_(float("inf"))
        return done

    monkeypatch.setattr(Gradients, "one", one)
    return computed


def test_a_step_that_overflows_is_computed_again_and_changes_nothing(
    plan: Plan, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = tuned(plan, precision=FP16, micro_batch_size=4)
    monkeypatch.setattr(loss_scale, "FIRST", 2.0**12)
    run(plan)
    monkeypatch.setattr(loss_scale, "FIRST", 2.0**20)
    other = elsewhere(plan, tmp_path / "other")
    computed = overflowing(2.0**12, monkeypatch)
    recorder = run(other)
    assert not recorder.alerts()
    assert computed[:3] == [0, 0, 0]  # 2^20, 2^16, 2^12
    assert computed[3:] == list(range(1, computed[-1] + 1))
    assert difference(weights(plan.artifact), weights(other.artifact)) == 0.0


def test_gradients_that_are_infinite_at_any_factor_skip_the_step(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    overflowing(0.5, monkeypatch)
    limited = tuned(plan, precision=FP16, non_finite_limit=99)
    recorder = run(limited)
    assert set(recorder.alerts()) == {"NON_FINITE_LOSS"}
    assert all(not step.HasField("grad_norm") for step in recorder.of(event_pb2.StepMetrics))


def test_a_resumed_run_goes_on_with_the_factor_that_it_had(
    plan: Plan, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    overflowing(2.0**10, monkeypatch)
    plan = replace(tuned(plan, precision=FP16), checkpoints=CheckpointPlan(every_steps=2))
    run(plan)
    other, recorder = elsewhere(plan, tmp_path / "other"), pausing(3)
    with pytest.raises(Cancelled):
        train(other, recorder, recorder)
    computed = overflowing(2.0**10, monkeypatch)
    run(other)
    assert len(computed) == len(set(computed)), "no step overflows again"
    assert difference(weights(plan.artifact), weights(other.artifact)) == 0.0


def test_the_factor_grows_after_a_long_calm_and_never_where_it_is_off() -> None:
    scale, off = LossScale(enabled=True), LossScale(enabled=False)
    for _ in range(loss_scale.LARGER_AFTER):
        scale.passed()
        off.passed()
    assert (scale.factor, off.factor) == (2 * loss_scale.FIRST, 1.0)
    assert not off.lower()
    while scale.lower():
        pass
    assert scale.factor == 1.0


def test_the_factor_leaves_gradients_as_they_are() -> None:
    parameter = torch.nn.Parameter(torch.tensor([1.0, -3.0e-5, 7.0]))
    scale = LossScale(enabled=True)
    (parameter.square().sum() * scale.factor).backward()  # type: ignore[no-untyped-call]
    scale.unscale([parameter])
    assert parameter.grad is not None
    assert torch.equal(parameter.grad, 2 * parameter.detach())
