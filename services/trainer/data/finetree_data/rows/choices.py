# SPDX-License-Identifier: Apache-2.0
"""The choices of a question, and which of them is right, in the ways that public datasets write it."""

from typing import Any

from finetree_data.columns.mapping import has, lookup, parse_list
from finetree_data.errors import RowError
from finetree_data.rows.text import require_text

MAX_CHOICES = 64
"""Most choices of a question: the alphabets of benchmarks end at ten (MMLU-Pro)."""


def choices_of(value: dict[str, Any], path: str, *, answer: Any, answered: str) -> tuple[tuple[str, ...], str]:
    """Return the choices at `path`, and the text of the right one.

    `answer`, from the column `answered`, is the text of a choice, its number from 0 (MMLU), or its letter or label
    (ARC, whose labels stand beside the texts). Raises RowError.
    """
    found = lookup(value, path)
    found = parse_list(found) if isinstance(found, str) else found
    if isinstance(found, dict) and isinstance(found.get("text"), list):  # ARC, named without its ".text"
        path, found = f"{path}.text", found["text"]
    if not isinstance(found, list) or not 2 <= len(found) <= MAX_CHOICES:
        raise RowError(path, f"is not a list of 2 to {MAX_CHOICES} choices")
    choices = tuple(require_text(str(item) if _is_number(item) else item, path) for item in found)
    return choices, choices[_right(choices, _labels(value, path, len(choices)), answer, answered=answered)]


def _right(choices: tuple[str, ...], labels: tuple[str, ...], answer: Any, *, answered: str) -> int:
    if _is_number(answer) and float(answer).is_integer() and 0 <= answer < len(choices):
        return int(answer)
    text = answer.strip() if isinstance(answer, str) else ""
    plain = [choice.strip() for choice in choices]
    if text and text in plain:
        return plain.index(text)
    label = text.strip("().: ").upper()
    if label in labels:
        return labels.index(label)
    if label.isdecimal() and len(label) < 3 and int(label) < len(choices):
        return int(label)
    raise RowError(answered, "is neither the text of a choice nor its number from 0 nor its letter")


def _labels(value: dict[str, Any], path: str, count: int) -> tuple[str, ...]:
    """Return the labels of choices: those that stand beside their texts, else the letters from A."""
    parent, _, last = path.rpartition(".")
    if last == "text" and has(value, f"{parent}.label"):
        beside = lookup(value, f"{parent}.label")
        if isinstance(beside, list) and len(beside) == count:
            return tuple(str(label).strip().upper() for label in beside)
    return tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"[:count])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
