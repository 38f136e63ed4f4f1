# SPDX-License-Identifier: Apache-2.0
"""Several ranks compute what one device computes: losses, norms of gradients, and weights."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from finetree_api.trainer.v1 import event_pb2
from finetree_worker.models.gguf import base_facts
from finetree_worker.models.load import load_tokenizer
from finetree_worker.plan import BaseModel, Checkpointing, Metric, OptimizerName, Plan
from worker_harness import METHODS, Recorder, difference, elsewhere, held_out, run, tuned, weights

pytestmark = [pytest.mark.slow(40), pytest.mark.timeout(300)]
ROUNDING = 2e-6
"""Largest relative difference of a loss or a norm, in float32: sums are formed in another order."""

GROUPS = {
    "lora": [("replicated", 4), ("full", 2)],
    "int8": [("replicated", 2)],
}
"""Shardings and numbers of ranks by method; others are tried replicated on two and divided over four."""
UNLIKE = {"qwen3.5": "lora", "falcon-h1": "full", "lfm2": "nf4", "gemma4": "lora"}
"""Methods by model whose layers differ: some have a state, or keys and values of another layer."""


def sgd(plan: Plan, kind: str) -> Plan:
    """The plan by plain gradient descent: AdamW divides by the gradients' size, and would hide a wrong factor."""
    return tuned(replace(plan, method=METHODS[kind]), optimizer=OptimizerName.SGD, learning_rate=0.05)


def require_equal(one: Recorder, many: Recorder) -> None:
    steps = [recorder.of(event_pb2.StepMetrics) for recorder in (one, many)]
    for alone, shared in zip(*steps, strict=True):
        assert shared.loss == pytest.approx(alone.loss, rel=ROUNDING)
        assert shared.grad_norm == pytest.approx(alone.grad_norm, rel=ROUNDING)
        assert (shared.processed_tokens, shared.target_tokens) == (alone.processed_tokens, alone.target_tokens)


@pytest.mark.parametrize("kind", ["lora", "full", "full-frozen", "prefix", "houlsby", "nf4", "int8"])
def test_two_and_four_ranks_end_in_the_weights_of_one(
    plan: Plan, together: Callable[..., Recorder], tmp_path: Path, kind: str
) -> None:
    """With four ranks some have a row of three in the last step of an epoch, and one has none."""
    plan = sgd(plan, kind)
    one = run(plan)
    for sharding, count in GROUPS.get(kind, [("replicated", 2), ("full", 4)]):
        other = elsewhere(plan, tmp_path / f"{sharding}-{count}")
        many = together(other, count, sharding)
        require_equal(one, many)
        assert difference(weights(plan.artifact), weights(other.artifact)) < ROUNDING
        assert sorted(file.name for file in other.artifact.iterdir()) == sorted(
            file.name for file in plan.artifact.iterdir()
        )
        assert (other.artifact / "README.md").read_bytes() == (plan.artifact / "README.md").read_bytes()
        ranks = many.of(event_pb2.StepMetrics)[-1].ranks
        assert [rank.rank for rank in ranks] == list(range(count))
        assert all(rank.memory_bytes > 1 << 20 for rank in ranks)
        assert all(rank.peak_memory_bytes >= rank.memory_bytes for rank in ranks)
        checks = many.of(event_pb2.PreflightReport)[0].checks
        assert [f"of rank {rank}," in check.message for rank, check in enumerate(checks)] == [True] * count


@pytest.mark.parametrize("model", UNLIKE)
def test_ranks_of_a_model_of_unlike_layers_end_in_the_weights_of_one(
    plan: Plan, together: Callable[..., Recorder], tmp_path: Path, tiny: Callable[..., Any], model: str
) -> None:
    """Linear attention, Mamba 2 and convolutions read each document alone, on any rank, and layers share keys there."""
    folder = tmp_path / model
    tiny(model).save_pretrained(folder)
    load_tokenizer(plan.base.folder).save_pretrained(folder)
    plan = sgd(replace(plan, base=base_facts(BaseModel(folder, f"example/{model}", "main"))), UNLIKE[model])
    one = run(plan)
    for sharding in ("replicated", "full"):
        other = elsewhere(plan, tmp_path / sharding)
        require_equal(one, together(other, 2, sharding))
        assert difference(weights(plan.artifact), weights(other.artifact)) < ROUNDING


@pytest.mark.parametrize("sharding", ["replicated", "full"])
def test_what_a_run_measures_and_how_it_computes_makes_no_difference(
    plan: Plan, together: Callable[..., Recorder], tmp_path: Path, sharding: str
) -> None:
    """Evaluations before, between and after, answers, early stopping, AdamW, small micro-batches, recomputation."""
    plan = tuned(plan, micro_batch_size=1, gradient_checkpointing=Checkpointing.FULL, packing=False)
    plan = held_out(
        plan,
        fraction=0.3,
        metrics=(Metric.LOSS, Metric.TOKEN_ACCURACY, Metric.EXACT_MATCH),
        max_new_tokens=4,
        samples=2,
        before_training=True,
        every_steps=2,
        early_stopping_patience=9,
    )
    other = elsewhere(plan, tmp_path / "b")
    one, many = run(plan), together(other, 2, sharding)
    require_equal(one, many)
    for alone, shared in zip(*(r.of(event_pb2.EvalMetrics) for r in (one, many)), strict=True):
        assert shared.loss == pytest.approx(alone.loss, rel=ROUNDING)
        assert shared.loss_standard_error == pytest.approx(alone.loss_standard_error, rel=1e-4)
        assert (shared.step, shared.rows, shared.examples) == (alone.step, alone.rows, alone.examples)
        assert (shared.token_accuracy, shared.exact_match) == (alone.token_accuracy, alone.exact_match)
    assert [sample.after for sample in one.of(event_pb2.Sample)] == [s.after for s in many.of(event_pb2.Sample)]
    assert difference(weights(plan.artifact), weights(other.artifact)) < 1e-4
    assert one.outcome.best_step == many.outcome.best_step
