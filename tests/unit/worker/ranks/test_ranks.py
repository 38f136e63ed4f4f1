# SPDX-License-Identifier: Apache-2.0
"""What each rank holds, and what happens where ranks differ in memory, weights or work."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from finetree_api.trainer.v1 import event_pb2
from finetree_worker.errors import Interrupted, MemoryExhaustedError, RankError
from finetree_worker.models.gguf import base_facts
from finetree_worker.models.load import load_tokenizer
from finetree_worker.plan import BaseModel, CheckpointPlan, OptimizerName, Plan
from worker_harness import METHODS, Recorder, difference, elsewhere, run, tuned, weights

pytestmark = [pytest.mark.slow(20), pytest.mark.timeout(300)]


@pytest.mark.parametrize("kind", ["full", "nf4"])
def test_each_rank_holds_its_share_of_the_bytes(pool: Any, plan: Plan, tmp_path: Path, kind: str) -> None:
    plan = replace(plan, method=METHODS[kind])
    held = pool.run("held", plan, None, count=4, sharding="full", folder=tmp_path / "groups")
    whole = pool.run("held", plan, None, count=2, sharding="replicated", folder=tmp_path / "groups")
    assert all(divided == everything > 0 for _, _, divided, everything in held)
    assert whole[0] == whole[1]
    parameters, states = whole[0][:2]
    # Rows of a matrix are divided as evenly as they go: 272 rows by 4, and norms of 32.
    assert sum(share[0] for share in held) == parameters
    assert all(share[0] == pytest.approx(parameters / 4, rel=0.02) for share in held)
    # A step's number is beside each state.
    assert all(share[1] == pytest.approx(states / 4, rel=0.05) for share in held)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_divided_ranks_never_gather_a_vision_tower(
    pool: Any, plan: Plan, tmp_path: Path, tiny: Callable[..., Any], kind: str
) -> None:
    folder = tmp_path / "mistral3"
    tiny("mistral3").save_pretrained(folder)
    load_tokenizer(plan.base.folder).save_pretrained(folder)
    base = base_facts(BaseModel(folder, "example/mistral3", "main"))
    plan = tuned(replace(plan, base=base, method=METHODS[kind]), optimizer=OptimizerName.SGD, learning_rate=0.05)
    run(plan)
    other = elsewhere(plan, tmp_path / "b")
    for units, gathered in pool.run(
        "gathered", other, Recorder(), count=2, sharding="full", folder=tmp_path / "groups"
    ):
        never = set(units) - set(gathered)
        assert {name.rpartition(".")[2] for name in never} == {"vision_tower", "multi_modal_projector"}
        assert len(gathered) == 3  # two layers and the root
    assert difference(weights(plan.artifact), weights(other.artifact)) < 2e-6


def test_memory_that_runs_out_on_one_rank_halves_the_micro_batch_of_all(pool: Any, plan: Plan, tmp_path: Path) -> None:
    recorder = Recorder()
    other = elsewhere(plan, tmp_path / "b")
    pool.run("short_of_memory", other, recorder, count=2, sharding="replicated", folder=tmp_path / "groups")
    assert [change.reason for change in recorder.of(event_pb2.BatchSizeChanged)] == ["OUT_OF_MEMORY"]
    one = run(plan)
    losses = [[step.loss for step in r.of(event_pb2.StepMetrics)] for r in (one, recorder)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert difference(weights(plan.artifact), weights(other.artifact)) < 1e-4


@pytest.mark.parametrize("packing", [True, False], ids=["packed", "padded"])
def test_divided_ranks_that_lack_memory_go_on_in_the_next_attempt_with_half_the_micro_batch(
    pool: Any, plan: Plan, tmp_path: Path, *, packing: bool
) -> None:
    """From the checkpoint of the first step, whose micro-batches were larger."""
    plan = replace(tuned(plan, packing=packing), checkpoints=CheckpointPlan(every_steps=1))
    first, second, other = Recorder(), Recorder(), elsewhere(plan, tmp_path / "b")
    where: dict[str, Any] = {"count": 2, "sharding": "full", "folder": tmp_path / "groups"}
    with pytest.raises(Interrupted, match="Memory ran out in a micro-batch of step 2"):
        pool.run("short_of_memory_everywhere", other, first, **where)
    (change,) = first.of(event_pb2.BatchSizeChanged)
    assert (change.step, change.reason, change.previous) == (2, "OUT_OF_MEMORY", 4 * 128)
    assert (change.previous_rows, change.current_rows) == ((0, 0) if packing else (4, 1))
    assert 0 < change.current <= 128
    pool.run("short_of_memory_everywhere", other, second, **where)
    assert second.of(event_pb2.AttemptStarted)[0].restored_step == 1
    assert not second.of(event_pb2.BatchSizeChanged)
    one = run(plan)
    losses = [[step.loss for r in each for step in r.of(event_pb2.StepMetrics)] for each in ([one], [first, second])]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert difference(weights(plan.artifact), weights(other.artifact)) < 1e-4


def test_a_rank_without_memory_for_one_row_is_named(pool: Any, plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(MemoryExhaustedError) as refused:
        pool.run("out_of_memory", plan, Recorder(), count=2, sharding="replicated", folder=tmp_path / "groups")
    assert "device's memory of rank 1" in str(refused.value.__cause__ or refused.value)


@pytest.mark.parametrize("sharding", ["replicated", "full"])
def test_a_slow_rank_is_named(pool: Any, plan: Plan, tmp_path: Path, sharding: str) -> None:
    """Divided ranks wait in every layer: what a rank computes is what it does between its messages."""
    recorder = Recorder()
    pool.run("slow", plan, recorder, count=2, sharding=sharding, folder=tmp_path / "groups")
    (told,) = (alert.message for alert in recorder.of(event_pb2.Alert) if alert.code == "STRAGGLER")
    assert told.startswith("Rank 1 computes ")
    ranks = [step.ranks for step in recorder.of(event_pb2.StepMetrics)]
    assert all(each[1].compute_seconds >= 0.3 for each in ranks if each[1].tokens)


def test_a_rank_whose_weights_differ_is_named(pool: Any, plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(RankError) as refused:
        pool.run("differing", plan, Recorder(), count=4, sharding="replicated", folder=tmp_path / "groups")
    assert refused.value.reason == "RANK_WEIGHTS_DIFFER"
    assert "the weights of rank 2 differ" in refused.value.message
    assert refused.value.retryable


def test_steps_with_less_work_than_ranks_are_whole_steps(
    plan: Plan, together: Callable[..., Recorder], tmp_path: Path
) -> None:
    """Batches of two rows on four ranks: two of them have nothing to do, and take part in every message."""
    plan = replace(plan, optimization=replace(plan.optimization, batch_size=2, micro_batch_size=1, epochs=1.0))
    other = elsewhere(plan, tmp_path / "b")
    one, many = run(plan), together(other, 4, "full")
    losses = [[step.loss for step in r.of(event_pb2.StepMetrics)] for r in (one, many)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    last = many.of(event_pb2.StepMetrics)[-1]
    assert sorted(rank.tokens > 0 for rank in last.ranks) == [False, False, False, True]
