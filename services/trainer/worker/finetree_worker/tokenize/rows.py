# SPDX-License-Identifier: Apache-2.0
"""Reading the rows of a dataset's file; errors name the row and the field."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from finetree_data.errors import DatasetError
from finetree_data.files.parquet import parquet_rows
from finetree_data.options import Reading, RowFormat
from finetree_data.reader import RowFile
from finetree_data.rows.row import Message, Row

from finetree_worker.errors import DataError

__all__ = [
    "CONVERSATIONS",
    "Message",
    "Reading",
    "Row",
    "RowFile",
    "RowFormat",
    "RowSource",
    "data_errors",
    "found_row_format",
    "rows_of",
]

CONVERSATIONS = (RowFormat.CHAT, RowFormat.SHAREGPT)
"""Row formats of many turns, which only a chat template can join."""


@dataclass(frozen=True, slots=True)
class RowSource:
    """A file of rows, how it is read, and the setting that names it ("evaluation.dataset")."""

    path: Path
    reading: Reading = field(default_factory=Reading)
    place: str = "dataset"

    def open(self) -> RowFile:
        """Return the file, of which nothing is read yet."""
        return RowFile(self.path, self.reading, parquet_rows)


def rows_of(file: RowFile, place: str = "dataset") -> Iterator[Row]:
    """Yield the rows of a file; `place` is the setting that names it ("evaluation.dataset").

    Raises DataError: DATASET_NOT_FOUND, EMPTY_DATASET; MALFORMED_ROW or MIXED_FORMATS at the first bad row, or
    TOO_MANY_BAD_ROWS where they are skipped; MALFORMED_FILE, NOT_UTF8, UNSUPPORTED_FILE, DATASET_UNREADABLE or
    DATASET_TOO_LARGE for the file; COLUMN_NOT_FOUND or COLUMNS_INCOMPLETE for a mapping that does not fit it.
    """
    with data_errors(file, place):
        yield from file.rows()


@contextmanager
def data_errors(file: RowFile, place: str) -> Iterator[None]:
    """Raise DataError in place of DatasetError, with the setting that names the file."""
    try:
        yield
    except DatasetError as error:
        raise _data_error(error, file.reading.name, place) from error


def found_row_format(file: RowFile) -> RowFormat:
    """Return the format of a file's rows, of which one was read."""
    if file.row_format is None:
        raise ValueError("no row was read yet")
    return file.row_format


def _data_error(error: DatasetError, name: str, place: str) -> DataError:
    field = f"{place}[{error.row}]" if error.row else place
    if error.row and error.field:
        field = f"{field}.{error.field}"
    elif error.field:  # of the settings, not of a row
        field = f"{place}.reading.{error.field}"
    message = f"{name}: {error.problem}" if name else error.problem
    return DataError(error.reason, message, field=field, remedy=error.remedy, row=error.row)
