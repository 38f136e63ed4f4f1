# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with a file of training rows.

DatasetError    the file as a whole cannot be read, or may not be: nothing of it is used
RowError        one row is wrong; whether the others are used is for the reader's policy
  MixedError    it is sound, but not of the layout that the rows before it have
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
    """One row is wrong: at which field ("" for the whole row), and what."""

    reason = "MALFORMED_ROW"

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(problem)
        self.field = field
        self.problem = problem


class MixedError(RowError):
    """A row of another layout than the rows before it."""

    reason = "MIXED_FORMATS"


def kind(value: object) -> str:
    """A JSON value in words, for "must be a string, is …"."""
    if isinstance(value, list | dict | tuple) and not value:
        return "empty"
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else "of another type")
