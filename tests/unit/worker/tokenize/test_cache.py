# SPDX-License-Identifier: Apache-2.0
"""The tokens that tasks share: used for the same alone, whatever becomes of the tasks."""

import copy
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from finetree_worker.atomic_files import size
from finetree_worker.data.dataset import load_dataset
from finetree_worker.errors import Cancelled
from finetree_worker.plan import DataPlan, LossOn
from finetree_worker.tokenize import cache
from finetree_worker.tokenize.rows import RowSource
from worker_harness import data_plan, dataset_of


def _cached(plan: DataPlan, folder: Path, limit: int = 1 << 30) -> DataPlan:
    return replace(plan, token_cache=folder / "tokens", token_cache_bytes=limit)


def _entries(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "tokens").iterdir() if not path.name.startswith("."))


def _refuse_to_tokenize(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("something was tokenized")

    monkeypatch.setattr(cache.RowTokenizer, "block", refuse)


def test_the_second_task_on_the_same_data_tokenizes_nothing(
    write_rows: Callable[..., Path],
    tokenizer: Any,
    chat_rows: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = _cached(data_plan(write_rows(chat_rows), length=48), tmp_path)
    first = dataset_of(plan, tokenizer)
    assert not first.report.tokens_from_cache
    _refuse_to_tokenize(monkeypatch)
    again = dataset_of(plan, tokenizer)
    first.report.tokens_from_cache = True
    assert again.report == first.report
    for one, other in zip(first.train, again.train, strict=True):
        assert one.row == other.row
        assert torch.equal(one.tokens, other.tokens)
        assert torch.equal(one.is_target, other.is_target)


def test_another_length_or_split_uses_the_same_tokens(
    write_rows: Callable[..., Path],
    tokenizer: Any,
    chat_rows: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write_rows(chat_rows)
    dataset_of(_cached(data_plan(path), tmp_path), tokenizer)
    _refuse_to_tokenize(monkeypatch)
    changed = _cached(data_plan(path, length=48, split_fraction=0.3), tmp_path)
    kept, fresh = dataset_of(changed, tokenizer), [e.row for e in dataset_of(changed, tokenizer).train]
    assert [e.row for e in kept.train] == fresh
    assert max(len(e) for e in kept.train) == 48


@pytest.mark.parametrize("changed", ["content", "template", "vocabulary", "end token", "loss"])
def test_tokens_are_not_reused_for_anything_else(
    write_rows: Callable[..., Path], tokenizer: Any, chat_rows: list[Any], changed: str
) -> None:
    other, loss, path = copy.deepcopy(tokenizer), LossOn.COMPLETIONS, write_rows(chat_rows)
    copied = RowSource(write_rows(chat_rows, "copy.jsonl"))
    before = cache.TableInput(RowSource(path), other, loss).digest()
    assert before == cache.TableInput(copied, tokenizer, loss).digest()
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
    assert cache.TableInput(RowSource(path), other, loss).digest() != before


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "no manifest"])
def test_damaged_tokens_are_made_anew(
    write_rows: Callable[..., Path], tokenizer: Any, chat_rows: list[Any], tmp_path: Path, damage: str
) -> None:
    plan = _cached(data_plan(write_rows(chat_rows)), tmp_path)
    first = [e.tokens.tolist() for e in dataset_of(plan, tokenizer).train]
    file = _entries(tmp_path)[0] / "tokens.safetensors"
    whole = file.read_bytes()
    if damage == "no manifest":
        file.with_name("manifest.json").unlink()
    else:
        file.unlink()  # what is mapped must not change under the reader above
        file.write_bytes({"cut": whole[:-40], "flipped": whole[:-1] + bytes([whole[-1] ^ 1]), "empty": b""}[damage])
    again = dataset_of(plan, tokenizer)
    assert not again.report.tokens_from_cache
    assert [e.tokens.tolist() for e in again.train] == first
    assert dataset_of(plan, tokenizer).report.tokens_from_cache


def test_what_was_used_longest_ago_is_deleted_first(
    write_rows: Callable[..., Path], tokenizer: Any, tmp_path: Path
) -> None:
    plans = [_cached(data_plan(write_rows([{"text": f"{i} " * 50}], f"{i}.jsonl")), tmp_path) for i in range(3)]
    for age, plan in enumerate(plans[:2]):
        dataset_of(plan, tokenizer)
        for entry in _entries(tmp_path):
            moment = entry.joinpath("manifest.json").stat().st_mtime - 100 * (2 - age)
            os.utime(entry / "manifest.json", (moment, moment))
    dataset_of(plans[0], tokenizer)  # used again, so the second is now the oldest
    room = 2 * max(size(entry) for entry in _entries(tmp_path)) + 100
    dataset_of(replace(plans[2], token_cache_bytes=room), tokenizer)
    assert len(_entries(tmp_path)) == 2
    assert [dataset_of(plan, tokenizer).report.tokens_from_cache for plan in (plans[0], plans[2], plans[1])] == [
        True,
        True,
        False,
    ]


def test_a_dataset_larger_than_the_cache_is_trained_on_and_not_kept(
    write_rows: Callable[..., Path], tokenizer: Any, chat_rows: list[Any], tmp_path: Path
) -> None:
    found = dataset_of(_cached(data_plan(write_rows(chat_rows)), tmp_path, limit=10), tokenizer)
    assert not _entries(tmp_path)
    assert sum(len(example) for example in found.train) == found.report.profile.total_tokens


def test_what_a_killed_task_left_is_deleted_once_it_is_silent(
    write_rows: Callable[..., Path], tokenizer: Any, chat_rows: list[Any], tmp_path: Path
) -> None:
    old, busy = tmp_path / "tokens" / ".old.7.tmp", tmp_path / "tokens" / ".busy.8.tmp"
    for draft in (old, busy):
        draft.mkdir(parents=True)
        (draft / "tokens.part").write_bytes(b"half")
    for path in (old / "tokens.part", old):
        os.utime(path, (1.0, 1.0))
    dataset_of(_cached(data_plan(write_rows(chat_rows)), tmp_path), tokenizer)
    assert (old.exists(), busy.exists()) == (False, True)


def test_a_task_that_is_killed_while_it_tokenizes_spoils_nothing(
    write_rows: Callable[..., Path], tokenizer: Any, chat_rows: list[Any], tmp_path: Path
) -> None:
    plan = _cached(data_plan(write_rows(chat_rows)), tmp_path)

    def die(*_: float) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        signal.alarm(20)
        try:
            load_dataset(plan, tokenizer, die)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert [path.suffix for path in (tmp_path / "tokens").iterdir()] == [".tmp"]
    found = dataset_of(plan, tokenizer)
    assert (found.report.tokens_from_cache, found.report.profile.examples) == (False, len(chat_rows))
    assert dataset_of(plan, tokenizer).report.tokens_from_cache


def test_two_tasks_that_tokenize_the_same_at_once_both_get_it(
    write_rows: Callable[..., Path], tokenizer: Any, chat_rows: list[Any], tmp_path: Path
) -> None:
    wanted = cache.TableInput(RowSource(write_rows(chat_rows)), tokenizer, LossOn.COMPLETIONS)
    tokens = cache.TokenCache(tmp_path / "tokens", 1 << 30)
    inner = cache.TokenCache(tokens.folder, tokens.limit)
    found: list[cache.Tokenized] = []

    def overtaken(*_: float) -> None:
        # The other task begins and ends while this one is still at it, in a process of its own.
        if not found:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("finetree_worker.atomic_files.os.getpid", lambda: 1)
                found.append(inner.table(wanted, lambda *_: None))

    mine = tokens.table(wanted, overtaken)
    assert torch.equal(mine.table.tokens, found[0].table.tokens)
    assert len(_entries(tmp_path)) == 1


def test_a_stop_leaves_nothing_behind(
    write_rows: Callable[..., Path], tokenizer: Any, chat_rows: list[Any], tmp_path: Path
) -> None:
    def stop(*_: float) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        load_dataset(_cached(data_plan(write_rows(chat_rows)), tmp_path), tokenizer, stop)
    assert not list((tmp_path / "tokens").iterdir())
