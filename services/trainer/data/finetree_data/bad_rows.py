# SPDX-License-Identifier: Apache-2.0
"""Which bad rows are skipped, and when they are too many.

Three kinds of bad rows differ in the share that is tolerated (errors.RowError): wrong rows are skipped only where the
options say so; rows with an empty text also where the options say nothing, if they are few; rows that the file itself
marks as nothing to learn always.
"""

from dataclasses import dataclass, field

from finetree_data.errors import DatasetError, EmptyTextError, MarkedRowError, RowError
from finetree_data.options import Reading

LISTED_BAD_ROWS = 32
"""Bad rows that are kept with their problem; the rest are counted."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A bad row: its number, the field and the problem, a stable reason, and the share that is tolerated, 0 to 1."""

    number: int
    field: str
    problem: str
    reason: str
    tolerated: float = 0.0


def bad_row(number: int, error: RowError) -> BadRow:
    """Describe the bad row that an error is about."""
    return BadRow(number, error.field, error.problem, error.reason, error.tolerated)


@dataclass(slots=True)
class BadRowPolicy:
    """The rows of a file that were skipped so far: how many, and the first LISTED_BAD_ROWS of them."""

    reading: Reading
    count: int = 0
    listed: list[BadRow] = field(default_factory=list)
    _empty: int = 0
    _first_empty: BadRow | None = None

    def allows(self, row: BadRow) -> bool:
        """Return whether such a row may be skipped; `skip` and `finish` decide whether there are too many."""
        if self.reading.skip_bad_rows or row.tolerated == MarkedRowError.tolerated:
            return True
        return row.tolerated > 0 and not self.reading.refuse_empty

    def skip(self, row: BadRow) -> None:
        """Skip a row. Raises DatasetError when it may not be skipped, or no more may."""
        if not self.allows(row):
            raise refused(row)
        self.count += 1
        if len(self.listed) < LISTED_BAD_ROWS:
            self.listed.append(row)
        if row.tolerated == EmptyTextError.tolerated:
            self._empty += 1
            self._first_empty = self._first_empty or row
        limit = self.reading.skip_limit
        if self.reading.skip_bad_rows and limit is not None and self.count > limit:
            raise DatasetError(
                "TOO_MANY_BAD_ROWS",
                f"More than {limit} rows are bad. {describe(row)}",
                remedy="Correct the rows, or raise skip_limit.",
                row=row.number,
                field=row.field,
            )

    def finish(self, rows: int) -> None:
        """Check the counts at the end of a file with `rows` valid rows.

        Raises DatasetError when no row is left, or too many have an empty text.
        """
        row = self._first_empty
        if row is None or self.reading.skip_bad_rows or self._empty <= EmptyTextError.tolerated * (rows + self._empty):
            if not rows:
                raise empty_dataset(self.count, self.listed)
            return
        raise refused(row, also=self._empty - 1)


def empty_dataset(skipped: int = 0, listed: list[BadRow] | None = None) -> DatasetError:
    """Build the error for a file without a usable row."""
    why = f" {describe(listed[0])}" if listed else ""
    what = f"no rows that can be used: all {skipped} are bad.{why}" if skipped else "no rows."
    example = '{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}'
    return DatasetError("EMPTY_DATASET", f"The dataset has {what}", remedy=f"Write one JSON object a line: {example}")


def refused(row: BadRow, *, also: int = 0) -> DatasetError:
    """Build the error for a file with a bad row, and `also` more with the same problem."""
    more = f" {also} more row{'s' * (also > 1)} {'have' if also > 1 else 'has'} the same problem." if also else ""
    remedy = "Use one row format in a file." if row.reason == "MIXED_FORMATS" else "Correct the row, or skip bad rows."
    return DatasetError(row.reason, describe(row) + more, remedy=remedy, row=row.number, field=row.field)


def describe(row: BadRow) -> str:
    """Describe a bad row in a sentence that names its number and field."""
    subject = f"Row {row.number}, field {row.field}" if row.field else f"Row {row.number}"
    text = f"{subject}: {row.problem}"
    return text if text.endswith(("?", "!", ".")) else f"{text}."
