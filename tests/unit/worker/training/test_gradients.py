# SPDX-License-Identifier: Apache-2.0
"""How a batch is split changes nothing but rounding."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from finetree_api.trainer.v1 import event_pb2
from finetree_worker.control import Steering
from finetree_worker.methods.full import Full
from finetree_worker.methods.lora import Lora
from finetree_worker.plan import OptimizerName, Plan
from finetree_worker.tokenize.example import Example
from finetree_worker.training import gradients
from finetree_worker.training.attention import by_document
from finetree_worker.training.gradients import Gradients
from finetree_worker.training.loop import Loop
from finetree_worker.training.loss import target_loss
from worker_harness import Recorder, difference, elsewhere, loop_of, run, tuned, weights


@pytest.mark.parametrize("method", [Lora(rank=4, dropout=0.2), Full()], ids=["lora", "full"])
@pytest.mark.parametrize("packing", [True, False])
def test_gradients_do_not_hang_on_how_a_batch_is_split(plan: Plan, method: Any, packing: bool) -> None:
    """8 x 1, 2 x 4 and 1 x 8 rows of unequal lengths, and a last window of three: per token, not a mean of means."""
    plan = replace(tuned(plan, packing=packing, batch_size=8, micro_batch_size=8), method=method)
    loop = loop_of(plan)
    rows = loop.batches.examples
    assert len({row.targets for row in rows}) > 5
    for window in (rows[:8], rows[8:]):
        found = [_gradients(loop, replace(loop.plan), window, micro) for micro in (8, 2, 1)]
        for split in found[1:]:
            largest = max(float(gradient.abs().max()) for gradient in found[0].values())
            assert difference(found[0], split) < 1e-6 * max(1.0, largest)


def _gradients(loop: Loop, plan: Plan, rows: Sequence[Example], micro: int) -> dict[str, torch.Tensor]:

    # With packing tokens bound a micro-batch: so many that about `micro` rows share it.
    longest = max(map(len, rows))
    split = tuned(plan, micro_batch_size=micro, sequence_length=longest)
    recorder = Recorder()
    loop.subject.model.train()
    made = Gradients(split, loop.subject, reporter=recorder, steering=Steering(recorder))
    with by_document(loop.subject.model):
        made.add(3, rows)
    found = {name: p.grad.clone() for name, p in loop.subject.trainable.items() if p.grad is not None}
    made.forget()
    return found


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("micro", [1, 2])
def test_splitting_a_batch_changes_nothing_but_rounding(plan: Plan, tmp_path: Path, micro: int, packing: bool) -> None:
    """Rows of unequal lengths, dropout on, and a last batch of three rows."""
    whole = tuned(plan, packing=packing, optimizer=OptimizerName.SGD, learning_rate=0.5)
    split = replace(whole, artifact=tmp_path / "split", work=tmp_path / "split-work")
    # Packing bounds tokens, not rows: a bound of the longest row makes one or two rows a micro-batch.
    split = tuned(split, packing=packing, micro_batch_size=micro, sequence_length=100 if packing else 128)
    recorder = run(whole)
    split_recorder = run(split)
    assert difference(weights(whole.artifact), weights(split.artifact)) < 1e-5
    for left, right in zip(recorder.of(event_pb2.StepMetrics), split_recorder.of(event_pb2.StepMetrics), strict=True):
        assert left.loss == pytest.approx(right.loss, abs=1e-5)
        assert left.grad_norm == pytest.approx(right.grad_norm, rel=1e-4)


def test_dropout_does_act(plan: Plan, tmp_path: Path) -> None:
    """Equality above would be cheap if there were no dropout."""
    without = replace(plan, method=Lora(rank=4, alpha=8.0, dropout=0.0), artifact=tmp_path / "b")
    run(plan)
    run(without)
    left, right = weights(plan.artifact), weights(without.artifact)
    assert max(float((left[name] - right[name]).abs().max()) for name in left) > 1e-3


CPU_FULL = "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory:"


def limited(tokens: int, from_call: int, error: BaseException) -> Callable[..., torch.Tensor]:
    """A target_loss that runs out of memory above so many tokens, once it was called so many times."""
    calls = 0

    def loss(model: Any, batch: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls > from_call and batch.tokens > tokens:
            raise error
        return target_loss(model, batch)

    return loss


@pytest.mark.parametrize(
    ("packing", "error", "from_call"),
    [
        pytest.param(True, torch.OutOfMemoryError("refused"), 0, id="packed, before the first step"),
        pytest.param(False, RuntimeError(CPU_FULL), 0, id="rows, before the first step"),
        pytest.param(True, MemoryError(), 3, id="packed, third step"),
        pytest.param(False, torch.OutOfMemoryError("refused"), 3, id="rows, third step"),
    ],
)
def test_running_out_of_memory_cuts_the_micro_batch_and_changes_nothing(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, packing: bool, error: BaseException, from_call: int
) -> None:
    """One call is the preflight's; dropout is on. Without packing rows must be cut, not tokens."""
    plan = tuned(plan, packing=packing, optimizer=OptimizerName.SGD, learning_rate=0.5)
    run(plan)
    monkeypatch.setattr(gradients, "target_loss", limited(128, from_call, error))
    split = elsewhere(plan, plan.work.parent / "split")
    recorder = run(split)
    changes = recorder.of(event_pb2.BatchSizeChanged)
    assert changes[0].step == (0 if from_call == 0 else 3)
    assert all(change.current < change.previous for change in changes)
    assert all((change.current_rows < change.previous_rows) is not packing for change in changes)
    assert [step.step for step in recorder.of(event_pb2.StepMetrics)] == [1, 2, 3, 4, 5, 6]
    assert difference(weights(plan.artifact), weights(split.artifact)) < 1e-5


def test_gradients_of_a_backward_pass_that_ran_out_of_memory_are_forgotten(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = tuned(plan, optimizer=OptimizerName.SGD, learning_rate=0.5, micro_batch_size=2)
    run(plan)
    whole, calls = Gradients.one, 0

    def halfway(self: Gradients, step: int, documents: Sequence[Example], targets: int) -> Any:
        nonlocal calls
        done = whole(self, step, documents, targets)
        calls += step == 2
        if step == 2 and calls == 1:
            raise torch.OutOfMemoryError("after its gradients were added")
        return done

    monkeypatch.setattr(Gradients, "one", halfway)
    split = elsewhere(plan, tmp_path / "split")
    assert len(run(split).of(event_pb2.BatchSizeChanged)) == 1
    assert difference(weights(plan.artifact), weights(split.artifact)) < 1e-5


def test_an_error_that_is_not_of_memory_is_not_taken_for_one(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> torch.Tensor:
        message = "mat1 and mat2 shapes cannot be multiplied"
        raise RuntimeError(message)

    monkeypatch.setattr(gradients, "target_loss", failing)
    with pytest.raises(RuntimeError, match="mat1"):
        run(plan)
