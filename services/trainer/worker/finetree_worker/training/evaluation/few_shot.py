# SPDX-License-Identifier: Apache-2.0
"""Examples in the prompt of the base model: what can be had without training (Brown et al. 2020, arXiv:2005.14165).

Examples are chosen by content and seed, not by their place in the file, and none of them is a row that is evaluated on.
They stand before the question as earlier turns, rendered by the same chat template.
"""

import heapq
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

import torch
from finetree_data.report.keys import row_keys

from finetree_worker.errors import DataError
from finetree_worker.randomness import key, splitmix64
from finetree_worker.tokenize.rows import Row, RowSource, rows_of

SEPARATOR = "\n\n"
"""What stands between turns where no chat template does (`render`)."""


@dataclass(frozen=True, slots=True)
class Examples:
    """The examples in their order, each a row that ends in an answer."""

    rows: tuple[Row, ...]

    def before(self, row: Row, count: int) -> Row:
        """Return a row with the first `count` examples before it, of which nothing is learned.

        A system message stays first; those of the examples are left out.
        """
        shown = [
            replace(message, learned=False)
            for example in self.rows[:count]
            for message in example.messages
            if message.role not in ("system", "developer")
        ]
        system = sum(message.role in ("system", "developer") for message in row.messages[:1])
        return replace(row, messages=(*row.messages[:system], *shown, *row.messages[system:]))

    def own_answer(self, answer: str) -> str:
        """Return what of an answer belongs to its question, of a model without a chat template.

        Such a model sees turns with an empty line between them, and goes on with a next question of its own making
        until its tokens are used up. Where no answer of the examples has an empty line, the first one ends the answer.
        """
        if any(SEPARATOR in example.messages[-1].content for example in self.rows):
            return answer
        return answer.partition(SEPARATOR)[0].strip()


def choose(source: RowSource, count: int, *, without: AbstractSet[int], seed: int) -> Examples:
    """Choose examples from a file; `without` are the hashes of contents and prompts that may not be among them.

    Raises DataError: those of `rows_of`, and TOO_FEW_EXAMPLES.
    """
    drawn = key("examples", seed)
    best = heapq.nsmallest(count, _ranked(rows_of(source.open(), source.place), without, drawn), key=lambda one: one[0])
    different = dict(best)
    if len(different) < count:
        raise DataError(
            "TOO_FEW_EXAMPLES",
            f"{len(different)} different rows of {source.reading.name or 'the file'} can be examples, and {count} are "
            "asked for: those that are evaluated on, and those without an answer, are left out.",
            field="few_shot.dataset",
            remedy="Name other rows in few_shot.dataset, or lower few_shot.examples.",
        )
    return Examples(tuple(different[rank] for rank in sorted(different)))


def _ranked(rows: Iterable[Row], without: AbstractSet[int], drawn: int) -> Iterable[tuple[int, Row]]:
    """Yield the rows that can be examples with their ranks; of equal rows the first."""
    seen: set[int] = set()
    for row in rows:
        content, prompt = row_keys(row)
        if not is_question(row) or content in seen or {content, prompt} & without:
            continue
        seen.add(content)
        yield int(splitmix64(torch.tensor([content ^ drawn]))[0]), row


def is_question(row: Row) -> bool:
    """Return whether a row ends in an answer in words: plain text does not, nor does a call of a tool."""
    return bool(row.messages) and row.messages[-1].role == "assistant" and bool(row.messages[-1].content)


def keys_of(rows: Sequence[Row]) -> set[int]:
    """Return the hashes of the rows' contents and prompts."""
    return {found for row in rows for found in row_keys(row) if found}
