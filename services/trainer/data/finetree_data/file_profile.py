# SPDX-License-Identifier: Apache-2.0
"""What is known of a file before anything tokenizes it: rows as the worker reads them, and estimates of their sizes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from finetree_api.types.v1 import training_data_pb2

from finetree_data.bad_rows import BadRow, empty_dataset
from finetree_data.columns.resolve import find_mapping
from finetree_data.errors import DatasetError, RowError
from finetree_data.files.content import PARQUET
from finetree_data.files.parquet_footer import Footer, read_footer
from finetree_data.options import FileFormat, Reading, RowFormat
from finetree_data.reader import RowFile
from finetree_data.row_sizes import RowSizes, estimated_tokens, totals, unread_tokens
from finetree_data.rows.row import Row

READ_BYTES = 16 * 1024 * 1024
"""Most decompressed bytes that are read, in a second or two, while a client waits; rows beyond them are taken to be as
those before, and are validated by a job: a PREPARE job reports on them, a TRAIN job refuses wrong ones first."""
TARGET_FRACTION = 0.5
"""Share of learned tokens that is assumed of a Parquet file, whose values are not read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileProfile:
    """A file's profile, and what it rests on."""

    profile: training_data_pb2.DatasetProfile
    file_format: FileFormat
    row_format: RowFormat
    skipped: int = 0
    """Rows that were read and left out, as in a run."""
    share: float = 1.0
    """Share of the file that was read, 0 to 1; the profile is of all of it."""
    read_bytes: int = 0
    """Decompressed bytes that were read, where that is not the whole file."""
    values_read: bool = True
    """False for a Parquet file, of which only the footer is read: its row lengths are unknown."""


def file_profile(path: Path, reading: Reading) -> FileProfile:
    """Read a file's rows, up to READ_BYTES. Raises DatasetError where a run would refuse the file."""
    if is_parquet(path, reading):
        return _of_footer(read_footer(path), reading)
    file = RowFile(path, reading)

    def skip(row: BadRow) -> bool:
        file.bad_rows.skip(row)
        return True

    sizes, share = read_beginning(file, skip)
    file.bad_rows.finish(sizes.rows)
    return FileProfile(
        profile=sizes.profile(share),
        file_format=file.file_format or FileFormat.TEXT,
        row_format=file.row_format or RowFormat.TEXT,
        skipped=file.skipped,
        share=share,
        read_bytes=READ_BYTES if share < 1 else 0,
    )


def read_beginning(file: RowFile, goes_on: Callable[[BadRow], bool]) -> tuple[RowSizes, float]:
    """Read rows up to READ_BYTES, and return their sizes and the share of the file that they are, 0 to 1.

    `goes_on` is asked of each bad row whether to read further.
    """
    sizes = RowSizes()
    for entry in file.entries():
        if isinstance(entry, Row):
            sizes.add(estimated_tokens(entry))
        elif not goes_on(entry):
            break
        if file.content is not None and file.content.count > READ_BYTES:
            return sizes, max(file.content.fraction, 1e-6)
    return sizes, 1.0


def is_parquet(path: Path, reading: Reading) -> bool:
    """Return whether a file is read as Parquet. Raises DatasetError DATASET_NOT_FOUND."""
    try:
        with path.open("rb") as stream:
            return stream.read(len(PARQUET)) == PARQUET and reading.file_format in (None, FileFormat.PARQUET)
    except OSError as error:
        raise DatasetError("DATASET_NOT_FOUND", "The dataset's file cannot be read.") from error


def _of_footer(footer: Footer, reading: Reading) -> FileProfile:
    """Rows and sizes of a Parquet file by its footer."""
    row_format, profile = columns_profile(footer, reading)
    return FileProfile(profile=profile, file_format=FileFormat.PARQUET, row_format=row_format, values_read=False)


def columns_profile(footer: Footer, reading: Reading) -> tuple[RowFormat, training_data_pb2.DatasetProfile]:
    """Check the names of a Parquet file's columns, and estimate sizes from its footer; no value is read.

    Raises DatasetError MALFORMED_ROW for columns that no row format has, EMPTY_DATASET.
    """
    turns = [{"from": None}] if any(leaf.endswith(".from") for leaf in footer.leaves) else None
    try:
        row_format = find_mapping(dict.fromkeys(footer.columns, turns), reading.row_format, reading.columns).row_format
    except RowError as error:
        remedy = "" if "columns {" in error.problem else "Name its columns."
        raise DatasetError("MALFORMED_ROW", f"The file {error.problem}.", remedy=remedy) from None
    if not footer.rows:
        raise empty_dataset()
    profile = training_data_pb2.DatasetProfile(
        examples=footer.rows,
        target_fraction=1.0 if row_format is RowFormat.TEXT else TARGET_FRACTION,
        **totals(unread_tokens(row_format, footer.rows, footer.content_bytes)),
    )
    return row_format, profile
