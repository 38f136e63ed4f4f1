# SPDX-License-Identifier: Apache-2.0
"""Which rows a step sees: each once an epoch, of like length without packing, the same after a resume."""

from pathlib import Path

import pytest
from finetree_worker.data.batches import BUCKET_BATCHES, Batches
from finetree_worker.errors import Cancelled
from finetree_worker.plan import Plan
from finetree_worker.training import gradients
from finetree_worker.training.loss import target_loss
from finetree_worker.training.preflight import micro_batch
from worker_harness import difference, elsewhere, optimization, pausing, rows_of, run, tuned, weights


@pytest.mark.parametrize("packing", [True, False])
def test_an_epoch_visits_every_row_once_whatever_the_order(packing: bool) -> None:
    batches = Batches(optimization(packing=packing, epochs=3.0), rows_of([1 + i * 7 % 50 for i in range(43)]))
    for epoch in range(3):
        seen = [row.row for step in range(11) for row in batches.of(epoch * 11 + step)]
        assert sorted(seen) == list(range(43))
    assert [r.row for r in batches.of(0)] != [r.row for r in batches.of(11)]
    assert len(batches.of(10)) == 3


def test_without_packing_the_rows_of_a_batch_are_of_like_length_and_the_batches_in_random_order() -> None:
    rows = rows_of([1 + i * 37 % 101 for i in range(4 * BUCKET_BATCHES * 2)])

    def spread(packing: bool) -> float:
        batches = Batches(optimization(packing=packing), rows)
        lengths = [[len(row) for row in batches.of(step)] for step in range(batches.total)]
        return sum(max(held) - min(held) for held in lengths) / len(lengths)

    assert spread(packing=False) < 0.1 * spread(packing=True)
    batches = Batches(optimization(packing=False), rows)
    longest = [max(map(len, batches.of(step))) for step in range(BUCKET_BATCHES)]
    assert longest not in (sorted(longest), sorted(longest, reverse=True))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("length", [{"epochs": 3.0}, {"epochs": 1.4}, {"epochs": None, "max_steps": 3}], ids=str)
def test_the_largest_batch_has_the_tokens_of_the_fullest_step_and_the_longest_row(length, seed) -> None:
    batches = Batches(optimization(seed=seed, **length), rows_of([1 + i * 37 % 101 for i in range(43)]))
    steps = [batches.of(step) for step in range(batches.total)]
    fullest = max(sum(map(len, rows)) for rows in steps)
    longest = max(len(row) for rows in steps for row in rows)

    largest = [len(row) for row in batches.largest()]
    assert largest == sorted(largest, reverse=True)
    assert largest[0] == longest
    assert fullest <= sum(largest) <= fullest + longest
    assert len(largest) <= 4


def test_without_packing_the_largest_batch_has_the_longest_rows_that_the_run_visits() -> None:
    rows = rows_of([*range(1, 40), 90])
    assert [len(row) for row in Batches(optimization(packing=False), rows).largest()] == [90, 39, 38, 37]
    seed = next(
        s for s in range(50) if 39 not in [r.row for r in Batches(optimization(packing=False, seed=s), rows).of(0)]
    )
    short = Batches(optimization(packing=False, epochs=None, max_steps=1, seed=seed), rows)
    assert sorted(row.row for row in short.largest()) == sorted(row.row for row in short.of(0))


@pytest.mark.parametrize("packing", [True, False])
def test_a_run_with_three_interruptions_sees_the_rows_of_a_straight_one(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packing: bool
) -> None:
    """Reshuffling after a resume would show rows twice, and never."""
    seen: list[tuple[int, ...]] = []
    plan = tuned(plan, packing=packing, micro_batch_size=2)
    monkeypatch.setattr(micro_batch, "check", lambda *_, **__: None)
    monkeypatch.setattr(
        gradients,
        "target_loss",
        lambda model, batch: (seen.append(batch.rows), target_loss(model, batch))[1],
    )
    run(plan)
    straight, broken = list(seen), elsewhere(plan, tmp_path / "b")
    seen.clear()
    for stop in (1, 3, 4):
        with pytest.raises(Cancelled):
            run(broken, pausing(stop))
    run(broken)
    assert seen == straight
    assert difference(weights(plan.artifact), weights(broken.artifact)) == 0.0
