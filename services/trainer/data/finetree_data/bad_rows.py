# SPDX-License-Identifier: Apache-2.0
"""Which bad rows are left out of a file, and when they are too many.

Three kinds of rows are told apart by what they tolerate (faults.RowError): wrong ones are left out only where the user
said so; rows in which something is empty also where nobody said anything, if they are few; and rows that the file
itself marks as nothing to learn always.
"""

from dataclasses import dataclass, field

from finetree_data.errors import DatasetError, EmptyError, MarkedError, RowError
from finetree_data.options import Reading

LISTED_FAULTS = 32
"""Bad rows that are told one by one; the rest are counted."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A row that is wrong: reason, place and problem; the share of such rows that is tolerated, 0 to 1."""

    number: int
    field: str
    problem: str
    reason: str
    tolerated: float = 0.0


def fault_of(number: int, error: RowError) -> Fault:
    """The fault of a row that was found to be wrong."""
    return Fault(number, error.field, error.problem, error.reason, error.tolerated)


@dataclass(slots=True)
class Skipping:
    """The rows of a file that were left out so far, `count` of them; `faults` are the first LISTED_FAULTS."""

    reading: Reading
    count: int = 0
    faults: list[Fault] = field(default_factory=list)
    _empty: int = 0
    _first_empty: Fault | None = None

    def takes(self, fault: Fault) -> bool:
        """Whether such a row may be left out; whether there are too many of them is for `skip` and `finish`."""
        if self.reading.skip_bad_rows or fault.tolerated == MarkedError.tolerated:
            return True
        return fault.tolerated > 0 and not self.reading.refuse_empty

    def skip(self, fault: Fault) -> None:
        """Leave a row out. Raises DatasetError where none may be, or no more."""
        if not self.takes(fault):
            raise refused(fault)
        self.count += 1
        if len(self.faults) < LISTED_FAULTS:
            self.faults.append(fault)
        if fault.tolerated == EmptyError.tolerated:
            self._empty += 1
            self._first_empty = self._first_empty or fault
        limit = self.reading.skip_limit
        if self.reading.skip_bad_rows and limit is not None and self.count > limit:
            raise DatasetError(
                "TOO_MANY_BAD_ROWS",
                f"More than {limit} rows are bad. {describe(fault)}",
                remedy="Correct the rows, or raise skip_limit.",
                row=fault.number,
                field=fault.field,
            )

    def finish(self, rows: int) -> None:
        """Having come to the end, with `rows` sound ones. Raises DatasetError where none is left, or too many lack."""
        fault = self._first_empty
        if fault is None or self.reading.skip_bad_rows or self._empty <= EmptyError.tolerated * (rows + self._empty):
            if not rows:
                raise empty(self.count, self.faults)
            return
        raise refused(fault, also=self._empty - 1)


def empty(skipped: int = 0, faults: list[Fault] | None = None) -> DatasetError:
    """The error for a file without a usable row."""
    why = f" {describe(faults[0])}" if faults else ""
    what = f"no rows that can be used: all {skipped} are bad.{why}" if skipped else "no rows."
    example = '{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}'
    return DatasetError("EMPTY_DATASET", f"The dataset has {what}", remedy=f"Write one JSON object a line: {example}")


def refused(fault: Fault, *, also: int = 0) -> DatasetError:
    """The error for a file with a bad row, and with `also` more that lack something."""
    more = f" So it is in {also} more row{'s' * (also > 1)}." if also else ""
    remedy = "Use one layout in a file." if fault.reason == "MIXED_FORMATS" else "Correct the row, or skip bad rows."
    return DatasetError(fault.reason, describe(fault) + more, remedy=remedy, row=fault.number, field=fault.field)


def describe(fault: Fault) -> str:
    """The fault as a sentence that names its row and its field."""
    subject = f"Row {fault.number}, field {fault.field}" if fault.field else f"Row {fault.number}"
    text = f"{subject}: {fault.problem}"
    return text if text.endswith(("?", "!", ".")) else f"{text}."
