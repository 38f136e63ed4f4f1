# SPDX-License-Identifier: Apache-2.0
"""Splits, truncation and the report."""

import copy
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


def test_the_histogram_counts_every_row(write_rows: Callable[..., Path], tokenizer: Any) -> None:
    report = dataset_of(data_plan(write_rows([{"text": "t" * n} for n in (3, 31, 32, 200)])), tokenizer).report
    counted = [(bucket.upper_bound, bucket.count) for bucket in report.profile.token_lengths]
    assert counted == [(32, 2), (64, 1), (128, 0), (256, 1)]
    assert report.profile.total_tokens == 3 + 31 + 32 + 200 + 4


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


def test_percentiles_are_by_nearest_rank(write_rows: Callable[..., Path], tokenizer: Any) -> None:
    report = dataset_of(data_plan(write_rows([{"text": "t" * n} for n in range(1, 21)])), tokenizer).report
    # The end token makes each row one token longer.
    ranks = report.percentiles
    assert (ranks.p50, ranks.p90, ranks.p95, ranks.p99, ranks.max) == (11, 19, 20, 21, 21)
    assert report.suggested_sequence_length == 21


def test_repeated_rows_are_named_and_the_first_of_them_is_not(write_rows: Callable[..., Path], tokenizer: Any) -> None:
    report = dataset_of(data_plan(write_rows([{"text": t} for t in ("b", "a", "b", "c", "b", "a")])), tokenizer).report
    assert group(report.duplicates) == (3, [3, 5, 6])


def test_counts_are_exact_where_row_numbers_are_cut_short(write_rows: Callable[..., Path], tokenizer: Any) -> None:
    report = dataset_of(data_plan(write_rows([{"text": "same"}] * 300)), tokenizer).report
    assert (report.duplicates.count, len(report.duplicates.rows)) == (299, 100)


def test_held_out_rows_that_training_shows_are_named(write_rows: Callable[..., Path], tokenizer: Any) -> None:
    def row(question: str, answer: str) -> dict[str, str]:
        return {"prompt": question, "completion": answer}

    train = write_rows([row("one", "1"), row("two", "2"), row("three", "3")])
    held = write_rows([row("four", "4"), row("two", "2"), row("three", "drei")], "held.jsonl")
    report = dataset_of(data_plan(train, held_out=held), tokenizer).reports[SPLIT_EVALUATION]
    assert group(report.leaked) == (1, [2])
    assert group(report.leaked_prompts) == (2, [2, 3])


def test_texts_that_begin_alike_are_no_leak(write_rows: Callable[..., Path], tokenizer: Any) -> None:
    train, held = write_rows([{"text": "a b"}]), write_rows([{"text": "a c"}, {"text": "d"}], "held.jsonl")
    report = dataset_of(data_plan(train, held_out=held), tokenizer).reports[SPLIT_EVALUATION]
    assert (report.leaked.count, report.leaked_prompts.count) == (0, 0)


def test_every_row_learns_to_end_although_padding_and_end_are_one_token(
    write_rows: Callable[..., Path], tokenizer: Any, chat_rows: list[Any]
) -> None:
    special = dataset_of(data_plan(write_rows(chat_rows)), tokenizer).report.special_tokens
    assert special.pad_is_eos
    assert special.rows_that_learn_to_end == len(chat_rows)
    assert special.rows_without_one_bos == 0


def test_a_row_that_is_cut_does_not_learn_to_end(write_rows: Callable[..., Path], tokenizer: Any) -> None:
    special = dataset_of(
        data_plan(write_rows([{"text": "t" * 90}, {"text": "t"}]), length=64), tokenizer
    ).report.special_tokens
    assert special.rows_that_learn_to_end == 1


def test_a_template_that_doubles_the_beginning_is_counted(
    write_rows: Callable[..., Path], tokenizer: Any, chat_rows: list[Any]
) -> None:
    from tokenizers.processors import TemplateProcessing

    twice = copy.deepcopy(tokenizer)
    twice.add_special_tokens({"bos_token": "<s>"})
    twice.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", twice.bos_token_id)]
    )
    twice.chat_template = "<s><s>" + tokenizer.chat_template
    special = dataset_of(data_plan(write_rows(chat_rows)), twice).report.special_tokens
    assert special.rows_without_one_bos == len(chat_rows)
