# SPDX-License-Identifier: Apache-2.0
"""The held-out rows of an evaluation: read and reported as training rows are, chosen, tokenized as they are asked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from finetree_api.trainer.v1 import event_pb2
from finetree_api.types.v1 import training_data_pb2
from transformers import PreTrainedTokenizerBase

from finetree_worker.data.dataset import load_dataset
from finetree_worker.errors import DataError
from finetree_worker.plan import DataPlan
from finetree_worker.randomness import key, splitmix64
from finetree_worker.tokenize.rows import Row, RowFormat, RowSource, rows_of
from finetree_worker.training.evaluate import prompt_tokens
from finetree_worker.training.evaluation.few_shot import Examples, is_question
from finetree_worker.training.evaluation.general_set import general_rows
from finetree_worker.training.evaluation.measure import ChoiceExamples, MeasuredRows, choice_examples, tokenized
from finetree_worker.training.evaluation.metrics import Expected

_NOT_OF_EVALUATIONS = ("FEW_ROWS_LEARN_TO_END",)
"""Remarks of a report that speak of training on the rows."""


@dataclass(frozen=True, slots=True)
class Room:
    """The longest sequence in tokens, and how many of them an answer may take; 0 where no answers are asked for."""

    limit: int
    answer: int

    def holds(self, row: Row, choices: ChoiceExamples | None, tokenizer: PreTrainedTokenizerBase) -> bool:
        """Return whether a row's question and answer, or every choice, are within the limit."""
        if choices is not None and any(len(one) > self.limit for one in choices.examples):
            return False
        return not (self.answer and is_question(row)) or (
            len(prompt_tokens(row, tokenizer)) + self.answer <= self.limit
        )


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The rows that are measured, with their answers; `in_file` counts those of the file that have a target."""

    asked: MeasuredRows
    row_format: RowFormat
    expected: Sequence[Expected]
    in_file: int
    too_long: int
    """Rows that were left out since question and answer exceed the longest sequence."""

    @property
    def has_choices(self) -> bool:
        """Whether the rows are questions with choices."""
        return bool(self.asked.choices)


def load_held_out(
    plan: DataPlan,
    tokenizer: PreTrainedTokenizerBase,
    *,
    room: Room,
    most: int,
    on_progress: Callable[[float, int], None],
) -> tuple[HeldOut, event_pb2.DatasetReport]:
    """Read, tokenize and choose the held-out rows of `plan.train`, at most `most` (0: all), by content and split seed.

    Raises DataError as `load_dataset`, or where no row is left.
    """
    dataset = load_dataset(plan, tokenizer, on_progress)
    split, report = dataset.splits[training_data_pb2.SPLIT_TRAIN], dataset.report
    report.split = training_data_pb2.SPLIT_EVALUATION
    kept = [remark for remark in report.remarks if remark.code not in _NOT_OF_EVALUATIONS]
    del report.remarks[:]
    report.remarks.extend(kept)
    usable = (~split.dropped).nonzero().squeeze(1)
    chosen = _chosen(split.column("contents")[usable], usable, most=most, seed=plan.split_seed)
    wanted, rows = set(chosen.tolist()), list[Row]()
    examples = [split.table.example(i, plan.sequence_length) for i in chosen.tolist()]
    # The table has the rows of the file in their order, without those that are skipped.
    for place, row in enumerate(rows_of(RowSource(plan.train, plan.reading).open())):
        if place in wanted:
            rows.append(row)
    choices: Sequence[ChoiceExamples | None] = [None] * len(rows)
    if rows[0].choices:
        choices = choice_examples(rows, tokenizer)
    fitting = [i for i, row in enumerate(rows) if room.holds(row, choices[i], tokenizer)]
    if not fitting:
        raise DataError(
            "NO_TARGET_LEFT",
            f"None of the {len(rows)} rows fits into {room.limit} tokens with its answer.",
            field="sequence_length",
            remedy="Raise sequence_length, lower max_new_tokens, or shorten the prompts.",
        )
    asked = MeasuredRows(
        rows=[rows[i] for i in fitting],
        examples=[replace(examples[i], row=place) for place, i in enumerate(fitting)],
        choices=[found for i in fitting if (found := choices[i]) is not None],
    )
    expected = [_expected(row) for row in asked.rows]
    return HeldOut(asked, dataset.row_format, expected, len(usable), len(rows) - len(fitting)), report


def _chosen(contents: torch.Tensor, index: torch.Tensor, *, most: int, seed: int) -> torch.Tensor:
    """Return `index`, or the `most` of it whose contents rank first, in the order of the file."""
    if not most or len(index) <= most:
        return index
    ranks = splitmix64(contents ^ key("evaluated rows", seed))
    return index[torch.argsort(ranks, stable=True)[:most].sort().values]


def _expected(row: Row) -> Expected:
    answer = row.messages[-1].content if is_question(row) else ""
    return Expected(answer, row.choices.index(answer) if answer in row.choices else -1)


def with_questions(asked: MeasuredRows) -> MeasuredRows:
    """Return rows that are also answered, as far as they end in an answer."""
    return replace(asked, questions=[i for i, row in enumerate(asked.rows) if is_question(row)])


def prompted(
    held_out: HeldOut, examples: Examples, *, tokenizer: PreTrainedTokenizerBase, room: Room
) -> tuple[MeasuredRows, int]:
    """Return the rows with the examples before them, and the number of rows that have fewer than all of them.

    A row gets half as many, and again half, until it fits.
    """
    asked, count = held_out.asked, len(examples.rows)
    rows, found, choices = list(asked.rows), list(asked.examples), list(asked.choices)
    left, shorter = list(range(len(rows))), 0
    while left and count:
        longer = [examples.before(asked.rows[i], count) for i in left]
        tokens = tokenized(longer, held_out.row_format, tokenizer=tokenizer)
        options: Sequence[ChoiceExamples | None] = [None] * len(longer)
        if choices:
            options = choice_examples(longer, tokenizer)
        again = []
        for i, row, ids, option in zip(left, longer, tokens, options, strict=True):
            if len(ids) > room.limit or not room.holds(row, option, tokenizer):
                again.append(i)
                continue
            rows[i], found[i] = row, replace(ids, row=i)
            if option is not None:
                choices[i] = option
        left, count = again, count // 2
        shorter = shorter or len(left)
    return MeasuredRows(rows, found, choices, asked.questions), shorter


def general(tokenizer: PreTrainedTokenizerBase, limit: int) -> MeasuredRows:
    """Return the general texts, tokenized as plain text that does not end."""
    rows = general_rows()
    made = tokenized(rows, RowFormat.TEXT, tokenizer=tokenizer, append_eos=False)
    return MeasuredRows(
        rows, [replace(one, tokens=one.tokens[:limit], is_target=one.is_target[:limit]) for one in made]
    )
