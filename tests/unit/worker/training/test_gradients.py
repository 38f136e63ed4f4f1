# SPDX-License-Identifier: Apache-2.0
"""How a batch is split changes nothing but rounding."""

from collections.abc import Sequence
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
from finetree_worker.training.attention import by_document
from finetree_worker.training.gradients import Gradients
from finetree_worker.training.loop import Loop
from worker_harness import Recorder, difference, loop_of, run, tuned, weights


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
