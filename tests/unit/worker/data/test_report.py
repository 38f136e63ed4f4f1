# SPDX-License-Identifier: Apache-2.0
"""What a report counts and names."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from finetree_api.trainer.v1 import event_pb2
from finetree_api.types.v1.check_pb2 import SEVERITY_ERROR
from finetree_api.types.v1.training_data_pb2 import SPLIT_EVALUATION
from finetree_data.options import Reading
from finetree_worker.data.dataset import require_accepted
from finetree_worker.errors import DataError
from worker_harness import data_plan, dataset_of


def group(rows: event_pb2.RowGroup) -> tuple[int, list[int]]:
    return rows.count, list(rows.rows)


def test_the_histogram_counts_every_row(write_rows: Callable[..., Path], tokenizer: Any) -> None:
    report = dataset_of(data_plan(write_rows([{"text": "t" * n} for n in (3, 31, 32, 200)])), tokenizer).report
    counted = [(bucket.upper_bound, bucket.count) for bucket in report.profile.token_lengths]
    assert counted == [(32, 2), (64, 1), (128, 0), (256, 1)]
    assert report.profile.total_tokens == 3 + 31 + 32 + 200 + 4


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


LEFT_OUT = [
    {"question": f"{n}?", "answer": "a", "body": f"The body of question {n}, without which it says nothing."}
    for n in range(3)
]


def test_findings_are_in_the_report_of_new_and_of_cached_tokens_alike(
    write_rows: Callable[..., Path], tokenizer: Any, tmp_path: Path
) -> None:
    plan = data_plan(write_rows(LEFT_OUT), token_cache=tmp_path / "cache", token_cache_bytes=1 << 20)
    (tmp_path / "cache").mkdir()
    first, again = (dataset_of(plan, tokenizer).report for _ in range(2))
    assert (first.tokens_from_cache, again.tokens_from_cache) == (False, True)
    assert first.findings == again.findings
    (found,) = first.findings
    assert (found.code, found.severity, found.columns[0].name) == ("UNREAD_COLUMNS", SEVERITY_ERROR, "body")


def test_what_the_reading_accepts_takes_the_same_tokens_and_stops_nothing(
    write_rows: Callable[..., Path], tokenizer: Any, tmp_path: Path
) -> None:
    plan = data_plan(write_rows(LEFT_OUT), token_cache=tmp_path / "cache", token_cache_bytes=1 << 20)
    (tmp_path / "cache").mkdir()
    with pytest.raises(DataError) as refused:
        require_accepted(dataset_of(plan, tokenizer).reports.values())
    assert (refused.value.reason, refused.value.field) == ("UNREAD_COLUMNS", "dataset.reading")
    accepted = dataset_of(replace(plan, reading=Reading(accepted_findings=("UNREAD_COLUMNS",))), tokenizer)
    require_accepted(accepted.reports.values())
    assert accepted.report.tokens_from_cache
    assert accepted.report.findings[0].accepted


def test_every_row_learns_to_end_although_padding_and_end_are_one_token(
    write_rows: Callable[..., Path], tokenizer: Any, chat_rows: list[Any]
) -> None:
    special = dataset_of(data_plan(write_rows(chat_rows)), tokenizer).report.special_tokens
    assert special.pad_is_eos
    assert special.rows_that_learn_to_end == len(chat_rows)
    assert special.rows_without_one_bos == 0


def test_a_row_that_is_cut_does_not_learn_to_end(write_rows: Callable[..., Path], tokenizer: Any) -> None:
    report = dataset_of(data_plan(write_rows([{"text": "t" * 90}, {"text": "t"}]), length=64), tokenizer).report
    assert report.special_tokens.rows_that_learn_to_end == 1
    assert [(r.message, r.field_path) for r in report.remarks if r.code == "FEW_ROWS_LEARN_TO_END"] == [
        (
            "1 of 2 rows learn to end; 1 are cut at 64 tokens: the trained model may not stop.",
            "training.sequence_length",
        )
    ]


@pytest.mark.parametrize("append_eos", [True, False])
def test_texts_without_an_end_are_warned_of(
    write_rows: Callable[..., Path], tokenizer: Any, *, append_eos: bool
) -> None:
    plan = replace(data_plan(write_rows([{"text": "one "}, {"text": "two\n"}])), append_eos=append_eos)
    report = dataset_of(plan, tokenizer).report
    assert report.special_tokens.rows_that_learn_to_end == 2 * append_eos
    warned = [r.field_path for r in report.remarks if r.code == "FEW_ROWS_LEARN_TO_END"]
    assert warned == ([] if append_eos else ["training.append_eos"])


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
