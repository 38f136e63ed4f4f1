# SPDX-License-Identifier: Apache-2.0
"""Splits, truncation and the report."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from finetree_worker import data
from finetree_worker.errors import DataError
from finetree_worker.formats import Row
from finetree_worker.plan import BaseModel, EvaluationPlan, LoraMethod, Optimization, TrainPlan


def _plan(dataset: Path, length: int = 256, packing: bool = True, **evaluation: Any) -> TrainPlan:
    optimization = Optimization(1e-3, 4, 4, length, epochs=1.0, packing=packing)
    return TrainPlan(
        BaseModel(dataset.parent),
        dataset,
        LoraMethod(),
        optimization,
        dataset.parent,
        dataset.parent / "artifact",
        EvaluationPlan(**evaluation),
    )


def _load(plan: TrainPlan, tokenizer: Any) -> data.Dataset:
    return data.load(plan, tokenizer, lambda _: None)


@pytest.mark.parametrize("packing", [True, False])
def test_rows_whose_target_is_cut_off_are_dropped_and_named(
    write_rows: Callable[..., Path], tokenizer: Any, packing: bool
) -> None:
    rows = [{"prompt": "p" * (200 if i in (1, 4) else 5), "completion": "c" * 10} for i in range(6)]
    found = _load(_plan(write_rows(rows), length=64, packing=packing), tokenizer)
    assert (found.report.dropped_rows, found.report.dropped_row_numbers) == (2, (2, 5))
    assert found.report.truncated_rows == 2
    assert [example.row for example in found.train] == [1, 3, 4, 6]


def test_a_dataset_that_loses_every_target_is_refused_with_the_length_it_needs(
    write_rows: Callable[..., Path], tokenizer: Any
) -> None:
    rows = [{"prompt": "p" * 100, "completion": "c"}] * 3
    with pytest.raises(DataError) as caught:
        _load(_plan(write_rows(rows), length=32), tokenizer)
    assert caught.value.reason == "NO_TARGET_LEFT"
    needed = int(caught.value.remedy.split("at least ")[1].split(",")[0])
    assert len(_load(_plan(write_rows(rows), length=needed), tokenizer).train) == 3


def test_nothing_is_lost_of_a_row_that_fits(write_rows: Callable[..., Path], tokenizer: Any) -> None:
    found = _load(_plan(write_rows([{"text": "t" * 3000}]), length=4096), tokenizer)
    assert len(found.train[0]) == 3001
    assert found.report.truncated_rows == 0


def test_the_histogram_counts_every_row(write_rows: Callable[..., Path], tokenizer: Any) -> None:
    report = _load(_plan(write_rows([{"text": "t" * n} for n in (3, 31, 32, 200)])), tokenizer).report
    assert report.histogram == ((32, 2), (64, 1), (128, 0), (256, 1))
    assert report.total_tokens == 3 + 31 + 32 + 200 + 4


def test_duplicates_are_counted_and_share_their_fate(write_rows: Callable[..., Path], tokenizer: Any) -> None:
    path = write_rows([{"text": f"row {i % 10}"} for i in range(20)])
    found = _load(_plan(path, split_fraction=0.3), tokenizer)
    assert found.report.duplicate_rows == 10
    assert (len(found.train), len(found.held_out)) == (14, 6)


def test_the_split_hangs_on_content_not_on_place() -> None:
    rows = [Row(i, text=f"row {i}") for i in range(40)]
    moved = list(reversed(rows))
    held = {row.text for row in data.split(rows, 0.25, seed=1)[1]}
    assert held == {row.text for row in data.split(moved, 0.25, seed=1)[1]}
    assert len(held) == 10
    assert held != {row.text for row in data.split(rows, 0.25, seed=2)[1]}


def test_a_split_of_equal_rows_is_refused() -> None:
    with pytest.raises(DataError) as caught:
        data.split([Row(1, text="a"), Row(2, text="a")], 0.5, seed=0)
    assert caught.value.reason == "EMPTY_SPLIT"
