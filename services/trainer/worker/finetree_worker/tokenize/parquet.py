# SPDX-License-Identifier: Apache-2.0
"""Rows of Parquet files, a few at a time."""

from collections.abc import Iterator
from pathlib import Path

from finetree_data.errors import DatasetError
from finetree_data.files.json_lines import Record
from finetree_data.files.parquet_footer import read_footer

BATCH_ROWS = 256
"""Rows that are turned into Python objects at once."""


def parquet_rows(path: Path) -> Iterator[Record]:
    """The rows, numbered from 1.

    Raises DatasetError DATASET_UNREADABLE for a file that is damaged or holds something else than its schema says.
    """
    footer = read_footer(path)
    # Not before it is needed: it takes a tenth of a second and 60 MB.
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        # Memory-mapped and unbuffered it would hold whole column chunks.
        with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                for value in batch.to_pylist():
                    number += 1
                    yield number, value
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise _unreadable(
            f"it is damaged, or holds something else than its schema says, behind row {number}"
        ) from error
    if number != footer.rows:
        raise _unreadable(f"it says that it has {footer.rows} rows, and has {number}")


def _unreadable(what: str) -> DatasetError:
    return DatasetError("DATASET_UNREADABLE", f"The Parquet file cannot be read: {what}.", remedy="Write it again.")
