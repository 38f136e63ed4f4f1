# SPDX-License-Identifier: Apache-2.0
"""Errors of a file of training rows, and of a single row.

DatasetError         the file as a whole is refused: none of it is used
RowError             one row is wrong; the policy for bad rows decides about the others
  MixedFormatError   it has another format than the rows before it
  EmptyTextError     a question or an answer is empty: a few such rows are in most real files
  MarkedRowError     the file itself marks it as nothing to learn
"""


def encodable(text: str) -> str:
    """Return a text with half characters replaced: JSON may have some, and no message of the contract can."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


class DatasetError(Exception):
    """A file is refused. `reason` is a stable UPPER_SNAKE name, `row` is counted from 1 (0: no single row)."""

    def __init__(self, reason: str, problem: str, *, remedy: str = "", row: int = 0, field: str = "") -> None:
        super().__init__(encodable(problem))
        self.reason = reason
        self.problem = encodable(problem)
        self.remedy = remedy
        self.row = row
        self.field = encodable(field)


class RowError(Exception):
    """One row is wrong: the field ("" for the whole row) and the problem.

    `tolerated` is the share of such rows, 0 to 1, that is skipped where the options say nothing about bad rows.
    """

    reason = "MALFORMED_ROW"
    tolerated = 0.0

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(encodable(problem))
        self.field = encodable(field)
        self.problem = encodable(problem)


class MixedFormatError(RowError):
    """A row has another format than the rows before it."""

    reason = "MIXED_FORMATS"


class EmptyTextError(RowError):
    """A row has an empty text where one is needed.

    Tolerated in one row of a hundred: Stanford's Alpaca has some empty answers (AlpacaDataCleaned's README, "Empty
    outputs"), Code Alpaca two in the 2,017 rows of its smaller file. Many more mean that the wrong column is read.
    """

    tolerated = 0.01


class MarkedRowError(RowError):
    """The file itself marks a row as a bad answer, or as a question without an answer."""

    tolerated = 1.0


def json_type(value: object) -> str:
    """Name the type of a JSON value, for "must be a string, is …"."""
    if isinstance(value, list | dict | tuple) and not value:
        return "empty"
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else "of another type")
