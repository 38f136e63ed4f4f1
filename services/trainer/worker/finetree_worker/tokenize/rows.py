# SPDX-License-Identifier: Apache-2.0
"""Reading the rows that a run trains on; errors name the row and the field."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from finetree_data.errors import DatasetError
from finetree_data.options import Reading
from finetree_data.options import RowFormat as Format
from finetree_data.reader import RowFile
from finetree_data.rows.row import Message, Row

from finetree_worker.errors import DataError
from finetree_worker.tokenize.parquet import parquet_rows

__all__ = ["CONVERSATIONS", "Format", "Message", "Reading", "Row", "RowFile", "RowSource", "read_rows", "rows_of"]

CONVERSATIONS = (Format.CHAT, Format.SHAREGPT)
"""Layouts of many turns, which only a chat template can join."""


@dataclass(frozen=True, slots=True)
class RowSource:
    """A file of rows, how it is read, and the setting that names it ("evaluation.dataset")."""

    path: Path
    reading: Reading = field(default_factory=Reading)
    place: str = "dataset"

    def open(self) -> RowFile:
        """The file, of which nothing is read yet."""
        return RowFile(self.path, self.reading, parquet_rows)


def read_rows(path: Path, reading: Reading | None = None, *, place: str = "dataset") -> tuple[Format, list[Row]]:
    """All rows of a file, and what they hold. Raises like `rows_of`."""
    file = RowSource(path, reading or Reading()).open()
    rows = list(rows_of(file, place))
    return found_format(file), rows


def rows_of(file: RowFile, place: str = "dataset") -> Iterator[Row]:
    """The rows of a file one after another; `place` is the setting that names it ("evaluation.dataset").

    Raises DataError: DATASET_NOT_FOUND, EMPTY_DATASET; MALFORMED_ROW or MIXED_FORMATS at the first bad row, or
    TOO_MANY_BAD_ROWS where they are skipped; MALFORMED_FILE, NOT_UTF8, UNSUPPORTED_FILE, DATASET_UNREADABLE or
    DATASET_TOO_LARGE for the file; COLUMN_NOT_FOUND or COLUMNS_INCOMPLETE for a mapping that does not fit it.
    """
    try:
        yield from file.rows()
    except DatasetError as error:
        raise _data_error(error, file.reading.name, place) from error


def found_format(file: RowFile) -> Format:
    """What the rows of a file hold, once one was read."""
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
