# SPDX-License-Identifier: Apache-2.0
"""Reads the rows of a Parquet file, with pyarrow where it is installed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetree_data.errors import DatasetError
from finetree_data.files.content import FREE_BYTES, MAX_CONTENT_BYTES, MAX_RATIO
from finetree_data.files.json_lines import Record
from finetree_data.files.parquet_footer import read_footer

ROWS = 64
"""Number of rows that are read at once: a page of a few bytes can stand for a long text in each of them."""
MAX_BATCH_BYTES = 512 * 1024 * 1024
"""Most bytes of the rows that are read at once: 8 MiB for each, of 16 MiB that a single row may have."""


def parquet_rows(path: Path) -> Iterator[Record]:
    """Yield the rows of a Parquet file with their numbers from 1.

    Raises DatasetError: DATASET_UNREADABLE for a file that is damaged or does not match its schema, DATASET_TOO_LARGE
    for one that is far larger than its bytes.
    """
    footer = read_footer(path)
    limit = min(max(FREE_BYTES, MAX_RATIO * path.stat().st_size), MAX_CONTENT_BYTES)
    if footer.content_bytes > limit:
        raise _too_large(f"its columns have {footer.content_bytes} bytes, and {limit} are read of a file of its size")
    # Imported on use: it takes a tenth of a second and 60 MB.
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        # Memory-mapped and unbuffered it would hold whole column chunks.
        with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
            for batch in file.iter_batches(batch_size=ROWS):
                size = _written_out(batch)
                if size > MAX_BATCH_BYTES:
                    raise _too_large(f"{batch.num_rows} rows from row {number + 1} on have {size} bytes")
                for value in batch.to_pylist():
                    number += 1
                    yield number, value
    except DatasetError:
        raise
    except MemoryError as error:
        raise _too_large(f"its rows from row {number + 1} on do not fit in memory") from error
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise _unreadable(f"it is damaged, or does not match its schema, after row {number}") from error
    if number != footer.rows:
        raise _unreadable(f"its footer names {footer.rows} rows, and it has {number}")


def _written_out(batch: Any) -> int:
    """Bytes of a batch whose texts do not share a dictionary any more, as in Python."""
    import pyarrow as pa
    import pyarrow.compute as pc

    size = int(batch.nbytes)
    for column in batch.columns:
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else None
        if kind is not None and (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            lengths = pc.take(pc.binary_length(column.dictionary), column.indices)
            size += pc.sum(lengths).as_py() or 0
    return size


def _too_large(why: str) -> DatasetError:
    remedy = "Write rows of a few megabytes at most; or write JSONL if it really is that repetitive."
    return DatasetError("DATASET_TOO_LARGE", f"The Parquet file is too large: {why}.", remedy=remedy)


def _unreadable(why: str) -> DatasetError:
    return DatasetError("DATASET_UNREADABLE", f"The Parquet file cannot be read: {why}.", remedy="Write it again.")
