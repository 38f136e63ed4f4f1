# SPDX-License-Identifier: Apache-2.0
"""The dataset of a run: rows in, tokenised examples, held-out questions and a report out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from finetree_worker.data.packing import Example
from finetree_worker.data.report import split_report, with_leaks
from finetree_worker.errors import DataError
from finetree_worker.events.types import DatasetReport
from finetree_worker.plan import Metric, TrainPlan
from finetree_worker.randomness import key, splitmix64
from finetree_worker.tokenize.cache import TokenCache, Tokenized, tokenized
from finetree_worker.tokenize.rows import Format, Row, RowSource, rows_of
from finetree_worker.tokenize.token_table import Split


@dataclass(frozen=True, slots=True)
class Dataset:
    """What training and evaluation work on. `questions` are the held-out rows that can be asked, where any are to be.

    `splits` are the rows before anything is left out: "train", and "evaluation" where there is any; so are `reports`.
    """

    format: Format
    train: Sequence[Example]
    held_out: Sequence[Example]
    questions: list[Row]
    splits: dict[str, Split]
    reports: dict[str, DatasetReport]

    @property
    def report(self) -> DatasetReport:
        """What became of the training rows."""
        return self.reports["train"]


def load_dataset(plan: TrainPlan, tokenizer: PreTrainedTokenizerBase, on_fraction: Callable[[float], None]) -> Dataset:
    """Read, tokenise unless that is done already, split, truncate and report.

    `on_fraction` hears 0..1 and may raise to stop. Raises DataError: those of `rows_of`, and NO_TARGET_LEFT when
    truncation leaves no row anything to learn; StorageError.
    """
    length, own_file = plan.optimization.sequence_length, plan.evaluation.dataset
    share = 1.0 if own_file is None else _share(plan.dataset, own_file)
    main = _table(plan, RowSource(plan.dataset, plan.reading), tokenizer, lambda f: on_fraction(f * share))
    everything = torch.arange(len(main.table.rows))
    splits = {"train": Split(main.table, everything, length)}
    held = main
    if own_file is not None:
        source = RowSource(own_file, plan.evaluation.reading, "evaluation.dataset")
        held = _table(plan, source, tokenizer, lambda f: on_fraction(share + f * (1 - share)))
        splits["evaluation"] = Split(held.table, torch.arange(len(held.table.rows)), length)
    elif plan.evaluation.split_fraction > 0:
        is_held = split(main.table.contents, plan.evaluation.split_fraction, plan.optimization.seed)
        splits = {
            "train": Split(main.table, everything[~is_held], length),
            "evaluation": Split(main.table, everything[is_held], length),
        }
    if not len(splits["train"].kept):
        raise _no_target(splits["train"])
    reports = _reports(splits, tokenizer, from_cache=main.kept and held.kept)
    held_out = splits["evaluation"].kept if "evaluation" in splits else []
    questions = _questions(plan, splits.get("evaluation"))
    return Dataset(main.table.format, splits["train"].kept, held_out, questions, splits, reports)


def _share(train: Path, held: Path) -> float:
    """The training file's share of the bytes; files that are not there are refused by whoever reads them."""
    sizes = [path.stat().st_size if path.exists() else 0 for path in (train, held)]
    return sizes[0] / max(1, sum(sizes))


def _table(
    plan: TrainPlan, source: RowSource, tokenizer: PreTrainedTokenizerBase, on_fraction: Callable[[float], None]
) -> Tokenized:
    if not source.path.is_file():
        raise DataError("DATASET_NOT_FOUND", "The dataset's file cannot be read.", field=source.place)
    loss_on = plan.optimization.loss_on
    if plan.token_cache is None:
        return tokenized(source, tokenizer, loss_on, on_fraction, plan.work)
    return TokenCache(plan.token_cache, plan.token_cache_bytes).table(source, tokenizer, loss_on, on_fraction)


def _reports(
    splits: dict[str, Split], tokenizer: PreTrainedTokenizerBase, *, from_cache: bool
) -> dict[str, DatasetReport]:
    held = len(splits["evaluation"].index) if "evaluation" in splits else 0
    # An empty split has no lengths to report.
    found = {
        name: split_report(part, tokenizer, held=held, from_cache=from_cache)
        for name, part in splits.items()
        if len(part.index)
    }
    if not held:
        return found
    return {name: with_leaks(report, splits["train"], splits["evaluation"]) for name, report in found.items()}


def _questions(plan: TrainPlan, held: Split | None) -> list[Row]:
    """Held-out rows that end in an answer; a plain text has no question in it, so it can be scored but not asked."""
    if held is None or Metric.EXACT_MATCH not in plan.evaluation.metrics:
        return []
    numbers = set(held.column("rows").tolist())
    own_file = plan.evaluation.dataset
    source = RowSource(plan.dataset, plan.reading) if own_file is None else RowSource(own_file, plan.evaluation.reading)
    return [row for row in rows_of(source.open()) if row.number in numbers and _is_question(row)]


def _is_question(row: Row) -> bool:
    # A call of a tool has no words that an answer could equal.
    return bool(row.messages) and row.messages[-1].role == "assistant" and bool(row.messages[-1].content)


def split(contents: Tensor, fraction: float, seed: int) -> Tensor:
    """Hold out a share of the rows: a row's fate hangs on its content and the seed, not on its place in the file.

    `contents` int64 (rows,) are hashes of the rows; bool (rows,): whether each is held out. Equal rows share their
    fate, so no held-out row is trained on. At least one row goes to either side; raises DataError EMPTY_SPLIT where
    that cannot be.
    """
    different = torch.unique(contents)
    count = min(max(1, round(fraction * len(different))), len(different) - 1)
    if count < 1:
        raise DataError(
            "EMPTY_SPLIT",
            "All rows of the dataset are the same, so none can be held out.",
            field="evaluation.split_fraction",
            remedy="Give more rows, or a file of held-out rows in evaluation.dataset.",
        )
    ranks = splitmix64(different ^ key("split", seed))
    return torch.isin(contents, different[torch.argsort(ranks)[:count]])


def _no_target(train: Split) -> DataError:
    firsts = train.column("firsts")
    learnable = firsts[firsts > 0]
    needed = int(learnable.min()) + 1 if len(learnable) else train.limit
    return DataError(
        "NO_TARGET_LEFT",
        f"After truncation to {train.limit} tokens none of the {len(firsts)} rows has anything left to learn.",
        field="training.sequence_length",
        remedy=f"Raise sequence_length to at least {needed}, or shorten the prompts.",
    )
