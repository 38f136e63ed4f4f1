# SPDX-License-Identifier: Apache-2.0
"""The dataset of a run: rows in, tokenised examples, held-out questions and a report out."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from finetree_worker.errors import DataError
from finetree_worker.events import DatasetReport
from finetree_worker.formats import Format, Row, read_rows
from finetree_worker.packing import Example
from finetree_worker.plan import TrainPlan
from finetree_worker.tokenization import tokenize

LISTED_ROWS = 100
"""Row numbers that a report lists at most."""
BUCKETS = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
"""Upper bounds of the token-length histogram; longer rows extend it by doubling."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """What training and evaluation work on."""

    format: Format
    train: list[Example]
    held_out: list[Example]
    questions: list[Row]
    report: DatasetReport


def load(plan: TrainPlan, tokenizer: PreTrainedTokenizerBase, on_fraction: Callable[[float], None]) -> Dataset:
    """Read, split, tokenise, truncate and report. `on_fraction` hears 0..1 and may raise to stop.

    Raises DataError: those of `read_rows`, and NO_TARGET_LEFT when truncation leaves no row anything to learn.
    """
    shape, rows = read_rows(plan.dataset)
    train_rows, held_shape = rows, shape
    held_rows: list[Row] = []
    if plan.evaluation.dataset is not None:
        held_shape, held_rows = read_rows(plan.evaluation.dataset)
    elif plan.evaluation.split_fraction > 0:
        train_rows, held_rows = split(rows, plan.evaluation.split_fraction, plan.optimization.seed)
    total = len(train_rows) + len(held_rows)
    loss_on, length = plan.optimization.loss_on, plan.optimization.sequence_length
    whole = tokenize(train_rows, shape, tokenizer, loss_on, lambda n: on_fraction(n / total))
    held = tokenize(held_rows, held_shape, tokenizer, loss_on, lambda n: on_fraction((len(train_rows) + n) / total))
    kept = truncate(whole, length)
    if not kept:
        raise _no_target(whole, length)
    report = _report(shape, rows, whole, kept, held=len(held_rows), length=length)
    held_out = truncate(held, length)
    # A plain text has no question in it, so it can be scored but not asked.
    questions = [row for row in held_rows if row.messages and row.messages[-1].role == "assistant"]
    return Dataset(shape, kept, held_out, questions, report)


def split(rows: Sequence[Row], fraction: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Hold out a share of the rows: a row's fate hangs on its content and the seed, not on its place in the file.

    Equal rows share their fate, so no held-out row is trained on. At least one row goes to either side; raises
    DataError EMPTY_SPLIT where that cannot be.
    """
    ranked = sorted({_digest(row, seed) for row in rows})
    count = min(max(1, round(fraction * len(ranked))), len(ranked) - 1)
    if count < 1:
        raise DataError(
            "EMPTY_SPLIT",
            "All rows of the dataset are the same, so none can be held out.",
            field="evaluation.split_fraction",
            remedy="Give more rows, or a file of held-out rows in evaluation.dataset.",
        )
    held = set(ranked[:count])
    train = [row for row in rows if _digest(row, seed) not in held]
    return train, [row for row in rows if _digest(row, seed) in held]


def _digest(row: Row, seed: int) -> bytes:
    content = repr((seed, row.messages, row.text)).encode()
    return hashlib.blake2b(content, digest_size=16).digest()


def truncate(examples: Sequence[Example], length: int) -> list[Example]:
    """Cut examples at `length` tokens, keeping their beginning, and leave out those with nothing left to learn."""
    cut = (replace(e, tokens=e.tokens[:length], is_target=e.is_target[:length]) for e in examples)
    return [example for example in cut if example.targets > 0]


def _no_target(whole: Sequence[Example], length: int) -> DataError:
    # The first token cannot be learned: nothing stands before it.
    learned = [e.is_target[1:].nonzero() for e in whole]
    needed = min((int(found[0]) + 2 for found in learned if len(found)), default=length)
    return DataError(
        "NO_TARGET_LEFT",
        f"After truncation to {length} tokens none of the {len(whole)} rows has anything left to learn.",
        field="training.sequence_length",
        remedy=f"Raise sequence_length to at least {needed}, or shorten the prompts.",
    )


def _report(
    shape: Format, rows: Sequence[Row], whole: Sequence[Example], kept: Sequence[Example], *, held: int, length: int
) -> DatasetReport:
    kept_rows = {example.row for example in kept}
    dropped = [example.row for example in whole if example.row not in kept_rows]
    return DatasetReport(
        format=shape.value,
        rows=len(rows),
        train_rows=len(kept),
        eval_rows=held,
        duplicate_rows=len(rows) - len({_digest(row, 0) for row in rows}),
        truncated_rows=sum(len(example) > length for example in whole),
        dropped_rows=len(dropped),
        dropped_row_numbers=tuple(dropped[:LISTED_ROWS]),
        total_tokens=sum(len(example) for example in kept),
        target_tokens=sum(example.targets for example in kept),
        longest_row_tokens=max(len(example) for example in whole),
        sequence_length=length,
        histogram=histogram([len(example) for example in whole]),
    )


def histogram(lengths: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """(upper bound, rows) for each bound of `BUCKETS` up to the longest row."""
    longest, bounds = max(lengths), list(BUCKETS)
    while bounds[-1] < longest:
        bounds.append(bounds[-1] * 2)
    lower = [0, *bounds[:-1]]
    counted = [(high, sum(low < n <= high for n in lengths)) for low, high in zip(lower, bounds, strict=True)]
    last = max(i for i, (_, count) in enumerate(counted) if count)
    return tuple(counted[: last + 1])
