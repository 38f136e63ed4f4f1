# SPDX-License-Identifier: Apache-2.0
"""The prompts that a model is asked before and after an export."""

from dataclasses import replace
from itertools import islice

from finetree_worker.export.plan import ExportPlan
from finetree_worker.tokenize.rows import Message, Row, rows_of

BUILT_IN = (
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "List three prime numbers between 10 and 40, then say why 1 isn't one of them.",
    "Translate into German: The train leaves at 7:45 from platform 12.",
    "Explain in two lines what a hash function does, and give an example in Python:\n\n    def",
    'Continue the JSON: {"name": "Zoë", "langs": ["français", "русский", "日本語"], "n": 1234567,',
    "  Leading spaces,\ttabs and trailing ones stay as they are.  ",
    "Résumé: 我想在 Apple 工作 3 年 🙂 …",
)
"""Plain questions, and the texts that tokenizers are told apart by: digits, spaces, contractions, scripts, emoji."""


def prompts(plan: ExportPlan) -> list[Row]:
    """Return rows that end in an answer, empty where none is known; the model is asked what stands before it.

    Raises DataError of the rows' file.
    """
    if plan.rows is None:
        return [_asked(number, text) for number, text in enumerate(BUILT_IN[: plan.max_prompts], start=1)]
    found = islice(rows_of(plan.rows.open(), plan.rows.place), plan.max_prompts)
    return [_question(row) for row in found]


def _asked(number: int, text: str) -> Row:
    return Row(number, (Message("user", text), Message("assistant", "")))


def _question(row: Row) -> Row:
    """Return a row as a question, without what follows the last answer; of a plain text its first half."""
    if not row.messages:
        middle = max(1, len(row.text) // 2)
        return Row(row.number, (Message("user", row.text[:middle]), Message("assistant", "")))
    last = max((i for i, message in enumerate(row.messages) if message.role == "assistant"), default=-1)
    if last < 1:
        return replace(row, messages=(*row.messages, Message("assistant", "")))
    return replace(row, messages=row.messages[: last + 1])


def expected(row: Row) -> str:
    """Return the known answer to a prompt; empty where none is known."""
    return row.messages[-1].content.strip()
