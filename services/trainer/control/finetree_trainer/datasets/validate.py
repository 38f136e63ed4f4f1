# SPDX-License-Identifier: Apache-2.0
"""Validates the rows of a file, and estimates their numbers of tokens without a tokenizer."""

from dataclasses import dataclass
from pathlib import Path

from finetree_api.types.v1 import training_data_pb2
from finetree_data import contract
from finetree_data.bad_rows import BadRow, describe, empty_dataset
from finetree_data.errors import DatasetError
from finetree_data.file_profile import columns_profile, is_parquet, read_beginning
from finetree_data.files.parquet_footer import Footer, read_footer
from finetree_data.findings.finding import Finding
from finetree_data.options import Reading
from finetree_data.reader import RowFile
from finetree_runtime.errors import MAX_VIOLATIONS, InvalidArgument, Violation


@dataclass(frozen=True, slots=True)
class ValidatedFile:
    """A file of which every row that was read is valid or may be skipped.

    `findings` are of the rows that were read, before the reading accepts any of them; none of a Parquet file.
    """

    file_format: training_data_pb2.FileFormat.ValueType
    compression: training_data_pb2.Compression.ValueType
    row_format: training_data_pb2.RowFormat.ValueType
    profile: training_data_pb2.DatasetProfile
    findings: tuple[Finding, ...] = ()


def validate_file(file: Path, reading: Reading | None = None) -> ValidatedFile:
    """Read and validate the rows; of a Parquet file only the footer is read.

    Raises InvalidArgument: MALFORMED_ROW or MIXED_FORMATS with the first wrong rows, or the reason of a DatasetError
    for the file as a whole. A violation's field is like `rows[17].messages[2].content`, rows counted from 1 (as lines,
    in a file of lines); the metadata's `row` is the first of them.
    """
    reading = reading or Reading()
    try:
        if is_parquet(file, reading):
            return _validate_footer(read_footer(file), reading)
        return _validate_rows(RowFile(file, reading))
    except DatasetError as error:
        raise _refusal(error, reading) from None


def _validate_rows(file: RowFile) -> ValidatedFile:
    bad_rows = list[BadRow]()

    def keep(row: BadRow) -> bool:
        """Skip a bad row or keep it, and say whether to read on."""
        if file.bad_rows.allows(row):
            file.bad_rows.skip(row)
            return True
        if bad_rows and file.row_format is None and row.problem == bad_rows[0].problem and not row.field:
            return False  # no column is known: one row stands for all
        bad_rows.append(row)
        return len(bad_rows) < MAX_VIOLATIONS

    sizes, share = read_beginning(file, keep)
    if bad_rows:
        raise _wrong_rows(bad_rows, file.reading)
    file.bad_rows.finish(sizes.rows)
    if file.row_format is None or file.file_format is None:
        raise empty_dataset(file.skipped)
    return ValidatedFile(
        file_format=contract.file_format(file.file_format),
        compression=contract.compression(file.compression),
        row_format=contract.row_format(file.row_format),
        profile=sizes.profile(share),
        findings=file.findings,
    )


def _validate_footer(footer: Footer, reading: Reading) -> ValidatedFile:
    """Validate the columns' names and estimate sizes from the footer; the worker reads the values."""
    row_format, profile = columns_profile(footer, reading)
    return ValidatedFile(
        file_format=training_data_pb2.FILE_FORMAT_PARQUET,
        compression=training_data_pb2.COMPRESSION_NONE,
        row_format=contract.row_format(row_format),
        profile=profile,
    )


def _wrong_rows(bad_rows: list[BadRow], reading: Reading) -> InvalidArgument:
    violations = [
        Violation(f"rows[{f.number}]" + (f".{f.field}" if f.field else ""), f.problem, f.reason) for f in bad_rows
    ]
    name = f"{reading.name}, " if reading.name else ""
    text = f"{name}{describe(bad_rows[0])}"
    # A mapping that would read the rows is the better advice.
    text += "" if "columns {" in bad_rows[0].problem else " Correct the data, or set dataset.reading.bad_rows to skip."
    return InvalidArgument(bad_rows[0].reason, text, metadata={"row": str(bad_rows[0].number)}, violations=violations)


def _refusal(error: DatasetError, reading: Reading) -> InvalidArgument:
    if error.row:
        place = f"rows[{error.row}]" + (f".{error.field}" if error.field else "")
    else:
        place = f"reading.{error.field}" if error.field else "rows"
    name = f"{reading.name}: " if reading.name else ""
    metadata = {"row": str(error.row)} if error.row else {}
    text = f"{error.problem} {error.remedy}".rstrip()
    return InvalidArgument(error.reason, name + text, metadata=metadata, violations=[(place, text, error.reason)])
