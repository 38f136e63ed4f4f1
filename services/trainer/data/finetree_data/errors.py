# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with a file of training rows.

DatasetError    the file as a whole cannot be read, or may not be: nothing of it is used
RowError        one row is wrong; whether the others are used is for the reader's policy
  MixedError    it is sound, but not of the layout that the rows before it have
  EmptyError    something is empty that is learned, or asked: a few such rows are in most real files
  MarkedError   the file itself marks it as nothing to learn
"""


class DatasetError(Exception):
    """A file that cannot be used. `reason` is a stable UPPER_SNAKE name, `row` counted from 1 (0: no single row)."""

    def __init__(self, reason: str, problem: str, *, remedy: str = "", row: int = 0, field: str = "") -> None:
        super().__init__(problem)
        self.reason = reason
        self.problem = problem
        self.remedy = remedy
        self.row = row
        self.field = field


class RowError(Exception):
    """One row is wrong: at which field ("" for the whole row), and what.

    `tolerated` is the share of such rows, 0 to 1, that is left out of a file whose reader said nothing about bad rows.
    """

    reason = "MALFORMED_ROW"
    tolerated = 0.0

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(problem)
        self.field = field
        self.problem = problem


class MixedError(RowError):
    """A row of another layout than the rows before it."""

    reason = "MIXED_FORMATS"


class EmptyError(RowError):
    """A row without a text that it should have.

    Tolerated in one row of a hundred: Stanford's Alpaca has some empty answers (AlpacaDataCleaned's README, "Empty
    outputs"), Code Alpaca two in the 2,017 rows of its smaller file. Many of them are a wrong column.
    """

    tolerated = 0.01


class MarkedError(RowError):
    """A row that the file itself marks as a bad answer, or as one without an answer."""

    tolerated = 1.0


def kind(value: object) -> str:
    """A JSON value in words, for "must be a string, is …"."""
    if isinstance(value, list | dict | tuple) and not value:
        return "empty"
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else "of another type")
