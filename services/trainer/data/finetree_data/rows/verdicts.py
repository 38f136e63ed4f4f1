# SPDX-License-Identifier: Apache-2.0
"""Labels that say whether an answer is a good one, as preference data and sampled answers write them."""

from collections.abc import Collection
from typing import Any

from finetree_data.columns.mapping import Mapping, by_lower, first_of, optional, quoted_mapping
from finetree_data.columns.names import CERTAIN_VERDICTS, CHOSEN, VERDICTS
from finetree_data.errors import MarkedRowError, RowError
from finetree_data.options import RowFormat

_GOOD = frozenset(
    (
        *("true", "t", "yes", "y", "1", "1.0", "+1", "good", "desirable", "desired", "chosen", "correct", "right"),
        *("accept", "accepted", "positive", "pos", "like", "liked", "thumbs_up", "thumbs-up", "thumbsup", "thumbs up"),
        *("up", "preferred", "helpful", "win", "pass", "passed", "👍"),
    )
)
_BAD = frozenset(
    (
        *("false", "f", "no", "n", "0", "0.0", "-1", "bad", "undesirable", "undesired", "rejected", "reject"),
        *("incorrect", "wrong", "not correct", "negative", "neg", "dislike", "disliked", "thumbs_down", "thumbs-down"),
        *("thumbsdown", "thumbs down", "down", "dispreferred", "unhelpful", "not helpful", "lose", "loss", "fail"),
        *("failed", "👎"),
    )
)
_OF_CLASSES = frozenset(
    (
        *("1", "0", "1.0", "0.0", "-1", "+1", "yes", "no", "y", "n", "t", "f", "positive", "negative", "pos", "neg"),
        *("pass", "fail", "up", "down", "win", "lose"),
    )
)
"""Writings that are classes as often: beside a short answer they may be what is asked for."""
SHORT_ANSWER = 30
"""Length in characters up to which an answer may be a class that a label repeats."""


def says(value: Any) -> bool | None:
    """Return what a label says of an answer; None where it is none of the usual writings."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return True if value == 1 else False if value in (0, -1) else None
    word = value.strip().lower() if isinstance(value, str) else ""
    return True if word in _GOOD else False if word in _BAD else None


class Verdicts:
    """The column of a file that says which answers are good.

    `column` is the one that may; "" where there is none. A column whose values are of something else, as far as rows
    were read, is none either; that is decided before the first row is left out for it.
    """

    def __init__(self, mapping: Mapping, ignored: Collection[str]) -> None:
        self._stated = mapping.parts.get("verdict", "")
        # Of a preference pair, the better answer is known already.
        pairs = "chosen" in mapping.parts or any(path.partition(".")[0].lower() in CHOSEN for path in mapping.main)
        self._may_be = mapping.row_format is not RowFormat.TEXT and not pairs
        self._not = {*ignored, *(path.partition(".")[0] for path in mapping.parts.values())}
        self.column = self._stated
        self.known = bool(self._stated)
        self.left_out = 0
        self._names: Collection[str] = ()

    def meet(self, names: Collection[str]) -> None:
        """Look for the column among those of the rows so far."""
        self._names = names
        if not self.column and self._may_be:
            self.column = first_of(by_lower({name: None for name in names if name not in self._not}), VERDICTS)

    def require_good(self, value: dict[str, Any], mapping: Mapping) -> None:
        """Raise MarkedRowError for a row whose answer is a bad one, RowError where the label may mean two things."""
        column = self.column
        found = optional(value, column)
        if found is None or found == "":
            return
        verdict = says(found)
        if verdict is None:
            self._no_verdict(column, found)
            return
        self.known = True
        certain = column == self._stated or column.lower() in CERTAIN_VERDICTS
        if not verdict and not certain and _may_be_class(found, _answer(value, mapping)):
            raise _unclear(column, found, mapping)
        if not verdict:
            self.left_out += 1
            raise MarkedRowError(column, f"is {_shown(found)}: the file marks this as a bad answer")

    def _no_verdict(self, column: str, found: Any) -> None:
        """Take a column for something else, unless rows were left out for it."""
        if column == self._stated or self.left_out:
            text = f"must say whether the answer is good, as true or false; is {_shown(found)}"
            raise RowError(column, f"{text}; if it says something else, name it in ignored_columns")
        self._not.add(column)
        self.column, self.known = "", False
        self.meet(self._names)


def _may_be_class(found: Any, answer: str) -> bool:
    """Return whether a label may be what is asked for, written another way: "no" and false, spam and 0."""
    if len(answer) > SHORT_ANSWER:
        return False
    return says(answer) is False or (not isinstance(found, bool) and str(found).strip().lower() in _OF_CLASSES)


def _answer(value: dict[str, Any], mapping: Mapping) -> str:
    """Return a row's answer, as far as it is a text or a number; of others something long."""
    found = optional(value, mapping.parts.get("completion", mapping.parts.get("turns", "")))
    if isinstance(found, list) and found and isinstance(found[-1], dict):
        found = found[-1].get("content", found[-1].get("value"))
    return str(found) if isinstance(found, str | int | float) else " " * (SHORT_ANSWER + 1)


def _shown(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text[:40]


def _unclear(column: str, found: Any, mapping: Mapping) -> RowError:
    named = {part: path for part, path in mapping.parts.items() if part in ("prompt", "completion")}
    named = named or ({"messages": mapping.parts["turns"]} if "turns" in mapping.parts else {})
    stated = quoted_mapping({**named, "verdict": column})
    text = (
        f"is {_shown(found)}, which may mark a bad answer, or be a class; map columns {stated} to leave such rows out, "
        f"or name it in ignored_columns to learn them"
    )
    return RowError(column, text)
