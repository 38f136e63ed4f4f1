# SPDX-License-Identifier: Apache-2.0
"""Reading the rows of a dataset's file; errors name the row and the field."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from finetree_data.errors import DatasetError
from finetree_data.files.json_lines import Record
from finetree_data.files.parquet_footer import read_footer
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
    "found_row_format",
    "rows_of",
]

CONVERSATIONS = (RowFormat.CHAT, RowFormat.SHAREGPT)
"""Row formats of many turns, which only a chat template can join."""
PARQUET_ROWS = 256
"""Number of rows of a Parquet file that are turned into Python objects at once."""


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
    try:
        yield from file.rows()
    except DatasetError as error:
        raise _data_error(error, file.reading.name, place) from error


def found_row_format(file: RowFile) -> RowFormat:
    """Return the format of a file's rows, of which one was read."""
    if file.row_format is None:
        raise ValueError("no row was read yet")
    return file.row_format


def parquet_rows(path: Path) -> Iterator[Record]:
    """Yield the rows of a Parquet file with their numbers from 1.

    Raises DatasetError DATASET_UNREADABLE for a file that is damaged or does not match its schema.
    """
    footer = read_footer(path)
    # Imported on use: it takes a tenth of a second and 60 MB.
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        # Memory-mapped and unbuffered it would hold whole column chunks.
        with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
            for batch in file.iter_batches(batch_size=PARQUET_ROWS):
                for value in batch.to_pylist():
                    number += 1
                    yield number, value
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise _unreadable(f"it is damaged, or does not match its schema, after row {number}") from error
    if number != footer.rows:
        raise _unreadable(f"its footer names {footer.rows} rows, and it has {number}")


def _unreadable(why: str) -> DatasetError:
    return DatasetError("DATASET_UNREADABLE", f"The Parquet file cannot be read: {why}.", remedy="Write it again.")


def _data_error(error: DatasetError, name: str, place: str) -> DataError:
    field = f"{place}[{error.row}]" if error.row else place
    if error.row and error.field:
        field = f"{field}.{error.field}"
    elif error.field:  # of the settings, not of a row
        field = f"{place}.reading.{error.field}"
    message = f"{name}: {error.problem}" if name else error.problem
    return DataError(error.reason, message, field=field, remedy=error.remedy, row=error.row)
