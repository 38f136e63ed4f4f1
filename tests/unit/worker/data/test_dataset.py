# SPDX-License-Identifier: Apache-2.0
"""Splits, truncation and the report."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from finetree_api.trainer.v1 import event_pb2
from finetree_api.types.v1.training_data_pb2 import SPLIT_EVALUATION, SPLIT_TRAIN
from finetree_worker.data import dataset
from finetree_worker.errors import DataError
from finetree_worker.tokenize.rows import Row
from finetree_worker.tokenize.token_table import row_keys
from worker_harness import data_plan, dataset_of


def test_rows_whose_target_is_cut_off_are_dropped_and_named(write_rows: Callable[..., Path], tokenizer: Any) -> None:
    rows = [{"prompt": "p" * (200 if i in (1, 4) else 5), "completion": "c" * 10} for i in range(6)]
    found = dataset_of(data_plan(write_rows(rows), length=64), tokenizer)
    assert group(found.report.without_target) == (2, [2, 5])
    assert found.report.truncated.count == 2
    assert [example.row for example in found.train] == [1, 3, 4, 6]


def test_a_dataset_that_loses_every_target_is_refused_with_the_length_it_needs(
    write_rows: Callable[..., Path], tokenizer: Any
) -> None:
    rows = [{"prompt": "p" * 100, "completion": "c"}] * 3
    with pytest.raises(DataError) as caught:
        dataset_of(data_plan(write_rows(rows), length=32), tokenizer)
    assert caught.value.reason == "NO_TARGET_LEFT"
    needed = int(caught.value.remedy.split("at least ")[1].split(",")[0])
    assert len(dataset_of(data_plan(write_rows(rows), length=needed), tokenizer).train) == 3


def test_nothing_is_lost_of_a_row_that_fits(write_rows: Callable[..., Path], tokenizer: Any) -> None:
    found = dataset_of(data_plan(write_rows([{"text": "t" * 3000}]), length=4096), tokenizer)
    assert len(found.train[0]) == 3001
    assert found.report.truncated.count == 0


def test_duplicates_are_counted_and_share_their_fate(write_rows: Callable[..., Path], tokenizer: Any) -> None:
    path = write_rows([{"text": f"row {i % 10}"} for i in range(20)])
    found = dataset_of(data_plan(path, split_fraction=0.3), tokenizer)
    assert [found.reports[kind].duplicates.count for kind in (SPLIT_TRAIN, SPLIT_EVALUATION)] == [7, 3]
    assert all(number > 10 for number in found.report.duplicates.rows)
    assert (len(found.train), len(found.held_out)) == (14, 6)


def group(rows: event_pb2.RowGroup) -> tuple[int, list[int]]:
    return rows.count, list(rows.rows)


def _held(texts: list[str], fraction: float, seed: int) -> set[str]:
    contents = torch.tensor([row_keys(Row(i, text=text))[0] for i, text in enumerate(texts)])
    is_held = dataset.split(contents, fraction, seed)
    return {text for text, held in zip(texts, is_held.tolist(), strict=True) if held}


def test_the_split_hangs_on_content_not_on_place() -> None:
    texts = [f"row {i}" for i in range(40)]
    held = _held(texts, 0.25, seed=1)
    assert held == _held(texts[::-1], 0.25, seed=1)
    assert len(held) == 10
    assert held != _held(texts, 0.25, seed=2)


def test_a_split_of_equal_rows_is_refused() -> None:
    with pytest.raises(DataError) as caught:
        _held(["a", "a"], 0.5, seed=0)
    assert caught.value.reason == "EMPTY_SPLIT"
