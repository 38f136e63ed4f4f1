# SPDX-License-Identifier: Apache-2.0
"""Splits, truncation, the report, the rows that a preview keeps, and the tokens that tasks share."""

import copy
import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from finetree_worker import data, preview, token_cache
from finetree_worker.errors import Cancelled, DataError
from finetree_worker.files import size
from finetree_worker.formats import Row, RowSource
from finetree_worker.plan import BaseModel, EvaluationPlan, LoraMethod, LossOn, Optimization, TrainPlan
from finetree_worker.tokens import content_key


def _plan(file: Path, length: int = 256, packing: bool = True, **evaluation: Any) -> TrainPlan:
    optimization = Optimization(1e-3, 4, 4, length, epochs=1.0, packing=packing)
    return TrainPlan(
        BaseModel(file.parent),
        file,
        LoraMethod(),
        optimization,
        file.parent,
        file.parent / "artifact",
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
    assert [found.reports[name].duplicate_rows for name in ("train", "evaluation")] == [7, 3]
    assert all(number > 10 for number in found.report.duplicate_row_numbers)
    assert (len(found.train), len(found.held_out)) == (14, 6)


def _held(texts: list[str], fraction: float, seed: int) -> set[str]:
    contents = torch.tensor([content_key(Row(i, text=text)) for i, text in enumerate(texts)])
    is_held = data.split(contents, fraction, seed)
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


def test_the_report_is_the_same_with_packing_and_without(write_rows: Callable[..., Path], tokenizer: Any) -> None:
    path = write_rows([{"prompt": "p" * (200 if i % 3 else 5), "completion": "c" * 9} for i in range(9)])
    packed, unpacked = (_load(_plan(path, length=64, packing=packing), tokenizer) for packing in (True, False))
    assert packed.report == unpacked.report
    assert [e.row for e in packed.train] == [e.row for e in unpacked.train]


def test_percentiles_are_by_nearest_rank(write_rows: Callable[..., Path], tokenizer: Any) -> None:
    report = _load(_plan(write_rows([{"text": "t" * n} for n in range(1, 21)])), tokenizer).report
    # The end token makes each row one token longer.
    assert report.percentiles == (11, 19, 20, 21, 21)
    assert report.suggested_sequence_length == 21


def test_repeated_rows_are_named_and_the_first_of_them_is_not(write_rows: Callable[..., Path], tokenizer: Any) -> None:
    report = _load(_plan(write_rows([{"text": t} for t in ("b", "a", "b", "c", "b", "a")])), tokenizer).report
    assert (report.duplicate_rows, report.duplicate_row_numbers) == (3, (3, 5, 6))


def test_counts_are_exact_where_row_numbers_are_cut_short(write_rows: Callable[..., Path], tokenizer: Any) -> None:
    report = _load(_plan(write_rows([{"text": "same"}] * 300)), tokenizer).report
    assert (report.duplicate_rows, len(report.duplicate_row_numbers)) == (299, 100)


def test_held_out_rows_that_training_shows_are_named(write_rows: Callable[..., Path], tokenizer: Any) -> None:
    def row(question: str, answer: str) -> dict[str, str]:
        return {"prompt": question, "completion": answer}

    train = write_rows([row("one", "1"), row("two", "2"), row("three", "3")])
    held = write_rows([row("four", "4"), row("two", "2"), row("three", "drei")], "held.jsonl")
    report = _load(_plan(train, dataset=held), tokenizer).reports["evaluation"]
    assert (report.leaked_rows, report.leaked_row_numbers) == (1, (2,))
    assert (report.leaked_prompts, report.leaked_prompt_numbers) == (2, (2, 3))


def test_texts_that_begin_alike_are_no_leak(write_rows: Callable[..., Path], tokenizer: Any) -> None:
    train, held = write_rows([{"text": "a b"}]), write_rows([{"text": "a c"}, {"text": "d"}], "held.jsonl")
    report = _load(_plan(train, dataset=held), tokenizer).reports["evaluation"]
    assert (report.leaked_rows, report.leaked_prompts) == (0, 0)


def test_every_row_learns_to_end_although_padding_and_end_are_one_token(
    write_rows: Callable[..., Path], tokenizer: Any, chat_rows: list[Any]
) -> None:
    special = _load(_plan(write_rows(chat_rows)), tokenizer).report.special
    assert special is not None
    assert special.pad_is_eos
    assert special.rows_that_learn_to_end == len(chat_rows)
    assert special.rows_without_one_bos == 0


def test_a_row_that_is_cut_does_not_learn_to_end(write_rows: Callable[..., Path], tokenizer: Any) -> None:
    special = _load(_plan(write_rows([{"text": "t" * 90}, {"text": "t"}]), length=64), tokenizer).report.special
    assert special is not None
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
    special = _load(_plan(write_rows(chat_rows)), twice).report.special
    assert special is not None
    assert special.rows_without_one_bos == len(chat_rows)


def _cached(plan: TrainPlan, folder: Path, limit: int = 1 << 30) -> TrainPlan:
    return replace(plan, token_cache=folder / "tokens", token_cache_bytes=limit)


def _entries(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "tokens").iterdir() if not path.name.startswith("."))


def _refuse_to_tokenize(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("something was tokenised")

    monkeypatch.setattr(token_cache, "tokenize", refuse)


def test_the_second_task_on_the_same_data_tokenises_nothing(
    write_rows: Callable[..., Path],
    tokenizer: Any,
    chat_rows: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = _cached(_plan(write_rows(chat_rows), length=48), tmp_path)
    first = _load(plan, tokenizer)
    assert not first.report.from_cache
    _refuse_to_tokenize(monkeypatch)
    again = _load(plan, tokenizer)
    assert again.report == replace(first.report, from_cache=True)
    for one, other in zip(first.train, again.train, strict=True):
        assert one.row == other.row
        assert torch.equal(one.tokens, other.tokens)
        assert torch.equal(one.is_target, other.is_target)


def test_another_length_split_or_packing_uses_the_same_tokens(
    write_rows: Callable[..., Path],
    tokenizer: Any,
    chat_rows: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write_rows(chat_rows)
    _load(_cached(_plan(path), tmp_path), tokenizer)
    _refuse_to_tokenize(monkeypatch)
    changed = _cached(_plan(path, length=48, packing=False, split_fraction=0.3), tmp_path)
    kept, fresh = _load(changed, tokenizer), [e.row for e in _load(changed, tokenizer).train]
    assert [e.row for e in kept.train] == fresh
    assert max(len(e) for e in kept.train) == 48


@pytest.mark.parametrize("changed", ["content", "template", "vocabulary", "end token", "loss"])
def test_tokens_are_not_reused_for_anything_else(
    write_rows: Callable[..., Path], tokenizer: Any, chat_rows: list[Any], changed: str
) -> None:
    other, loss, path = copy.deepcopy(tokenizer), LossOn.COMPLETIONS, write_rows(chat_rows)
    before = token_cache.key(RowSource(path), other, loss)
    assert before == token_cache.key(RowSource(write_rows(chat_rows, "copy.jsonl")), tokenizer, loss)
    if changed == "content":
        write_rows([*chat_rows, chat_rows[0]])
    elif changed == "template":
        other.chat_template += " "
    elif changed == "vocabulary":
        other.add_tokens(["word"])
    elif changed == "end token":
        other.eos_token = "<|im_start|>"
    else:
        loss = LossOn.ALL
    assert token_cache.key(RowSource(path), other, loss) != before


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "no manifest"])
def test_damaged_tokens_are_made_anew(
    write_rows: Callable[..., Path], tokenizer: Any, chat_rows: list[Any], tmp_path: Path, damage: str
) -> None:
    plan = _cached(_plan(write_rows(chat_rows)), tmp_path)
    first = [e.tokens.tolist() for e in _load(plan, tokenizer).train]
    file = _entries(tmp_path)[0] / "tokens.safetensors"
    whole = file.read_bytes()
    if damage == "no manifest":
        file.with_name("manifest.json").unlink()
    else:
        file.unlink()  # what is mapped must not change under the reader above
        file.write_bytes({"cut": whole[:-40], "flipped": whole[:-1] + bytes([whole[-1] ^ 1]), "empty": b""}[damage])
    again = _load(plan, tokenizer)
    assert not again.report.from_cache
    assert [e.tokens.tolist() for e in again.train] == first
    assert _load(plan, tokenizer).report.from_cache


def test_what_was_used_longest_ago_is_deleted_first(
    write_rows: Callable[..., Path], tokenizer: Any, tmp_path: Path
) -> None:
    plans = [_cached(_plan(write_rows([{"text": f"{i} " * 50}], f"{i}.jsonl")), tmp_path) for i in range(3)]
    for age, plan in enumerate(plans[:2]):
        _load(plan, tokenizer)
        for entry in _entries(tmp_path):
            moment = entry.joinpath("manifest.json").stat().st_mtime - 100 * (2 - age)
            os.utime(entry / "manifest.json", (moment, moment))
    _load(plans[0], tokenizer)  # used again, so the second is now the oldest
    room = 2 * max(size(entry) for entry in _entries(tmp_path)) + 100
    _load(replace(plans[2], token_cache_bytes=room), tokenizer)
    assert len(_entries(tmp_path)) == 2
    assert [_load(plan, tokenizer).report.from_cache for plan in (plans[0], plans[2], plans[1])] == [True, True, False]


def test_a_dataset_larger_than_the_cache_is_trained_on_and_not_kept(
    write_rows: Callable[..., Path], tokenizer: Any, chat_rows: list[Any], tmp_path: Path
) -> None:
    found = _load(_cached(_plan(write_rows(chat_rows)), tmp_path, limit=10), tokenizer)
    assert not _entries(tmp_path)
    assert sum(len(example) for example in found.train) == found.report.total_tokens


def test_what_a_killed_task_left_is_deleted_once_it_is_silent(
    write_rows: Callable[..., Path], tokenizer: Any, chat_rows: list[Any], tmp_path: Path
) -> None:
    old, busy = tmp_path / "tokens" / ".old.7.tmp", tmp_path / "tokens" / ".busy.8.tmp"
    for draft in (old, busy):
        draft.mkdir(parents=True)
        (draft / "tokens.part").write_bytes(b"half")
    for path in (old / "tokens.part", old):
        os.utime(path, (1.0, 1.0))
    _load(_cached(_plan(write_rows(chat_rows)), tmp_path), tokenizer)
    assert (old.exists(), busy.exists()) == (False, True)


def test_a_task_that_is_killed_while_it_tokenises_spoils_nothing(
    write_rows: Callable[..., Path], tokenizer: Any, chat_rows: list[Any], tmp_path: Path
) -> None:
    plan = _cached(_plan(write_rows(chat_rows)), tmp_path)

    def die(_: float) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        signal.alarm(20)
        try:
            data.load(plan, tokenizer, die)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert [path.suffix for path in (tmp_path / "tokens").iterdir()] == [".tmp"]
    found = _load(plan, tokenizer)
    assert (found.report.from_cache, found.report.train_rows) == (False, len(chat_rows))
    assert _load(plan, tokenizer).report.from_cache


def test_two_tasks_that_tokenise_the_same_at_once_both_get_it(
    write_rows: Callable[..., Path], tokenizer: Any, chat_rows: list[Any], tmp_path: Path
) -> None:
    path = write_rows(chat_rows)
    cache = token_cache.TokenCache(tmp_path / "tokens", 1 << 30)
    inner = token_cache.TokenCache(cache.folder, cache.limit)
    found: list[token_cache.Tokenized] = []

    def overtaken(fraction: float) -> None:
        # The other task begins and ends while this one is still at it, in a process of its own.
        if not found:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("finetree_worker.files.os.getpid", lambda: 1)
                found.append(inner.table(RowSource(path), tokenizer, LossOn.COMPLETIONS, lambda _: None))

    mine = cache.table(RowSource(path), tokenizer, LossOn.COMPLETIONS, overtaken)
    assert torch.equal(mine.table.tokens, found[0].table.tokens)
    assert len(_entries(tmp_path)) == 1


def test_a_stop_leaves_nothing_behind(
    write_rows: Callable[..., Path], tokenizer: Any, chat_rows: list[Any], tmp_path: Path
) -> None:
    def stop(_: float) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        data.load(_cached(_plan(write_rows(chat_rows)), tmp_path), tokenizer, stop)
    assert not list((tmp_path / "tokens").iterdir())


def test_a_preview_keeps_the_first_rows_and_the_findings_beyond_them(
    write_rows: Callable[..., Path], tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preview, "FIRST_ROWS", 2)
    rows = [{"prompt": "p" * (200 if i == 4 else 5), "completion": "c" * (100 if i == 3 else 3)} for i in range(6)]
    found = _load(_plan(write_rows(rows), length=64), tokenizer)
    preview.write(tmp_path, found.splits, tokenizer)
    lines = [json.loads(line) for line in (tmp_path / preview.FILE).read_text().splitlines()]
    assert [int(line["row"]) for line in lines] == [1, 2, 4, 5]
    assert [(line.get("truncated", False), line.get("dropped", False)) for line in lines] == [
        (False, False),
        (False, False),
        (True, False),
        (True, True),
    ]


def test_the_spans_of_a_row_are_its_whole_text_with_what_is_learned(
    write_rows: Callable[..., Path], tokenizer: Any
) -> None:
    row = {"messages": [{"role": "user", "content": "über"}, {"role": "assistant", "content": "ja, für"}]}
    found = _load(_plan(write_rows([row]), length=60), tokenizer)
    example = found.train[0]
    spans = list(preview.spans(example, len(example), tokenizer))
    assert "".join(span.text for span in spans) == tokenizer.decode(example.tokens.tolist())
    assert [span.text for span in spans if span.trained] == ["ja, für<|im_end|>"]
    assert sum(span.tokens for span in spans) == len(example)
    assert sum(span.tokens for span in spans if span.trained) == example.targets


def test_what_is_cut_off_is_marked_and_not_learned(write_rows: Callable[..., Path], tokenizer: Any) -> None:
    found = _load(_plan(write_rows([{"text": "t" * 50}]), length=20), tokenizer)
    row = preview.preview_row("train", found.splits["train"], 0, tokenizer)
    assert [(span.tokens, span.trained, span.cut) for span in row.spans] == [
        (1, False, False),
        (19, True, False),
        (31, False, True),
    ]
    assert (row.tokens, row.target_tokens) == (51, 19)
