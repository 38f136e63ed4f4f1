# SPDX-License-Identifier: Apache-2.0
"""The dataset of a task: tokenized examples, held-out questions and reports from files of rows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from finetree_api.trainer.v1 import event_pb2
from finetree_api.types.v1 import check_pb2
from finetree_api.types.v1.training_data_pb2 import SPLIT_EVALUATION, SPLIT_TRAIN
from finetree_api.types.v1.training_data_pb2 import Split as SplitKind
from finetree_data.report.build import Progress
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from finetree_worker.data.report import add_leaks, split_report
from finetree_worker.errors import DataError
from finetree_worker.plan import DataPlan
from finetree_worker.randomness import key, splitmix64
from finetree_worker.tokenize.cache import TableInput, TokenCache, Tokenized, tokenized
from finetree_worker.tokenize.example import Example
from finetree_worker.tokenize.rows import Reading, Row, RowFormat, RowSource, rows_of
from finetree_worker.tokenize.token_table import Split


@dataclass(frozen=True, slots=True)
class Dataset:
    """Examples for training and evaluation; `questions` are held-out rows that end in an answer, if the plan has any.

    `splits` are all rows, also those that are skipped; `splits` and `reports` have held-out rows only where there are
    any.
    """

    row_format: RowFormat
    train: Sequence[Example]
    held_out: Sequence[Example]
    questions: list[Row]
    splits: dict[SplitKind.ValueType, Split]
    reports: dict[SplitKind.ValueType, event_pb2.DatasetReport]

    @property
    def report(self) -> event_pb2.DatasetReport:
        """Report on the training rows."""
        return self.reports[SPLIT_TRAIN]


def load_dataset(plan: DataPlan, tokenizer: PreTrainedTokenizerBase, on_progress: Progress) -> Dataset:
    """Read, tokenize unless that is done already, split, truncate and report.

    `on_progress` is called with 0..1 and the rows so far, and may raise to stop. Raises DataError: those of `rows_of`,
    and NO_TARGET_LEFT where no row has target tokens after truncation; StorageError.
    """
    share = 1.0 if plan.held_out is None else _share(plan.train, plan.held_out)
    wanted = TableInput(RowSource(plan.train, plan.reading), tokenizer, plan.loss_on, plan.append_eos)
    main = _table(plan, wanted, lambda f, rows: on_progress(f * share, rows))
    held = main
    if plan.held_out is not None:
        source = RowSource(plan.held_out, plan.held_out_reading, "evaluation.dataset")
        wanted = replace(wanted, source=source)
        before = len(main.table.rows)
        held = _table(plan, wanted, lambda f, rows: on_progress(share + f * (1 - share), before + rows))
    splits = _splits(plan, main, held)
    train = splits[SPLIT_TRAIN]
    if not len(train.kept):
        raise _no_target(train)
    return Dataset(
        row_format=main.table.row_format,
        train=train.kept,
        held_out=splits[SPLIT_EVALUATION].kept if SPLIT_EVALUATION in splits else [],
        questions=_questions(plan, splits.get(SPLIT_EVALUATION)),
        splits=splits,
        reports=_reports(plan, splits, tokenizer, from_cache=main.from_cache and held.from_cache),
    )


def _share(train: Path, held: Path) -> float:
    """Return the training file's share of the bytes; missing files are refused when they are read."""
    sizes = [path.stat().st_size if path.exists() else 0 for path in (train, held)]
    return sizes[0] / max(1, sum(sizes))


def _table(plan: DataPlan, wanted: TableInput, on_progress: Progress) -> Tokenized:
    if not wanted.source.path.is_file():
        raise DataError("DATASET_NOT_FOUND", "The dataset's file cannot be read.", field=wanted.source.place)
    if plan.token_cache is None:
        return tokenized(wanted, plan.scratch, on_progress)
    return TokenCache(plan.token_cache, plan.token_cache_bytes).table(wanted, on_progress)


def _splits(plan: DataPlan, main: Tokenized, held: Tokenized) -> dict[SplitKind.ValueType, Split]:
    everything, length = torch.arange(len(main.table.rows)), plan.sequence_length
    if plan.held_out is not None:
        return {
            SPLIT_TRAIN: Split(SPLIT_TRAIN, main.table, everything, length),
            SPLIT_EVALUATION: Split(SPLIT_EVALUATION, held.table, torch.arange(len(held.table.rows)), length),
        }
    if plan.split_fraction == 0:
        return {SPLIT_TRAIN: Split(SPLIT_TRAIN, main.table, everything, length)}
    is_held = split(main.table.contents, plan.split_fraction, plan.split_seed)
    return {
        SPLIT_TRAIN: Split(SPLIT_TRAIN, main.table, everything[~is_held], length),
        SPLIT_EVALUATION: Split(SPLIT_EVALUATION, main.table, everything[is_held], length),
    }


def _reports(
    plan: DataPlan,
    splits: dict[SplitKind.ValueType, Split],
    tokenizer: PreTrainedTokenizerBase,
    *,
    from_cache: bool,
) -> dict[SplitKind.ValueType, event_pb2.DatasetReport]:
    # An empty split has no lengths to report.
    reports = {
        kind: split_report(part, tokenizer, reading=_reading(plan, kind), from_cache=from_cache)
        for kind, part in splits.items()
        if len(part.index)
    }
    if SPLIT_EVALUATION in reports:
        for report in reports.values():
            add_leaks(report, splits[SPLIT_TRAIN], splits[SPLIT_EVALUATION])
    return reports


def _reading(plan: DataPlan, kind: SplitKind.ValueType) -> Reading:
    own = kind == SPLIT_EVALUATION and plan.held_out is not None
    return plan.held_out_reading if own else plan.reading


def require_accepted(reports: Iterable[event_pb2.DatasetReport]) -> None:
    """Raise DataError with a finding's code where the rows may teach the wrong thing, and no reading accepts that."""
    for report in reports:
        place = "dataset" if report.split == SPLIT_TRAIN else "evaluation.dataset"
        for found in report.findings:
            if found.severity == check_pb2.SEVERITY_ERROR and not found.accepted:
                remedy = "Or accept it in reading.accepted_findings."
                raise DataError(found.code, found.message, field=f"{place}.reading", remedy=remedy)


def _questions(plan: DataPlan, held: Split | None) -> list[Row]:
    """Return the held-out rows that end in an answer; plain text has no question, so only its loss is measured."""
    if held is None or not plan.questions:
        return []
    numbers = set(held.column("rows").tolist())
    train, own = RowSource(plan.train, plan.reading), plan.held_out
    source = train if own is None else RowSource(own, plan.held_out_reading)
    return [row for row in rows_of(source.open()) if row.number in numbers and _is_question(row)]


def _is_question(row: Row) -> bool:
    # A call of a tool has no words that an answer could equal.
    return bool(row.messages) and row.messages[-1].role == "assistant" and bool(row.messages[-1].content)


def split(contents: Tensor, fraction: float, seed: int) -> Tensor:
    """Return whether each row is held out, bool (rows,); it depends on content and seed, not on the position.

    `contents` int64 (rows,) are hashes of the rows. Equal rows are in the same split, so no held-out row is trained on.
    Each split gets at least one row; raises DataError EMPTY_SPLIT where all rows are equal.
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
        f"None of the {len(firsts)} rows has target tokens after truncation to {train.limit} tokens.",
        field="training.sequence_length",
        remedy=f"Raise sequence_length to at least {needed}, or shorten the prompts.",
    )
