# SPDX-License-Identifier: Apache-2.0
"""The contract's values for how a file is read as the reader's own, and back. Both have the same names."""

from collections.abc import Iterable
from enum import Enum
from typing import TypeVar

from finetree_api.types.v1 import check_pb2, training_data_pb2

from finetree_data.findings.finding import Finding, Severity, UnreadColumn
from finetree_data.options import Columns, FileFormat, Reading, RowFormat

E = TypeVar("E", bound=Enum)


def reading_of(source: training_data_pb2.DatasetSource) -> Reading:
    """Return how a dataset's file is read; a file given by path is called by its name in messages."""
    return to_reading(source.reading, name=source.path.rpartition("/")[2])


def to_reading(given: training_data_pb2.DatasetReading, *, name: str = "") -> Reading:
    """Return how a file called `name` is read."""
    columns = {descriptor.name: value for descriptor, value in given.columns.ListFields()}
    return Reading(
        name=name,
        file_format=_member(FileFormat, training_data_pb2.FileFormat.Name(given.file_format)),
        row_format=_member(RowFormat, training_data_pb2.RowFormat.Name(given.row_format)),
        columns=Columns(**columns),
        skip_bad_rows=given.bad_rows == training_data_pb2.BAD_ROWS_SKIP,
        skip_limit=given.skip_limit if given.HasField("skip_limit") else None,
        refuse_empty=given.bad_rows == training_data_pb2.BAD_ROWS_REFUSE,
        accepted_findings=tuple(given.accepted_findings),
        ignored_columns=tuple(given.ignored_columns),
    )


def _member(kind: type[E], name: str) -> E | None:
    """Return the member that a value of the contract is called after; None for its UNSPECIFIED."""
    return next((member for member in kind if name.endswith(f"_FORMAT_{member.name}")), None)


def row_format(found: RowFormat) -> training_data_pb2.RowFormat.ValueType:
    """Return the contract's value of a row format."""
    return training_data_pb2.RowFormat.Value(f"ROW_FORMAT_{found.name}")


def file_format(found: FileFormat) -> training_data_pb2.FileFormat.ValueType:
    """Return the contract's value of what a file is written in."""
    return training_data_pb2.FileFormat.Value(f"FILE_FORMAT_{found.name}")


def compression(name: str) -> training_data_pb2.Compression.ValueType:
    """Return the contract's value of "", "gzip" or "zstd"."""
    return training_data_pb2.Compression.Value(f"COMPRESSION_{name.upper() or 'NONE'}")


_SEVERITIES = {
    Severity.NOTE: check_pb2.SEVERITY_INFO,
    Severity.WARNING: check_pb2.SEVERITY_WARNING,
    Severity.ERROR: check_pb2.SEVERITY_ERROR,
}


def finding_message(found: Finding) -> training_data_pb2.DataFinding:
    """Return the contract's message of a finding."""
    return training_data_pb2.DataFinding(
        code=found.code,
        severity=_SEVERITIES[found.severity],
        message=found.message,
        rows=found.rows,
        columns=[_column_message(column) for column in found.columns],
        mappings=[training_data_pb2.DatasetColumns(**mapping) for mapping in found.mappings],
        accepted=found.accepted,
    )


def _column_message(column: UnreadColumn) -> training_data_pb2.UnreadColumn:
    return training_data_pb2.UnreadColumn(
        name=column.name,
        severity=_SEVERITIES[column.severity],
        kind=column.kind,
        rows=column.rows,
        share=column.share,
        mean_characters=column.mean,
        longest_characters=column.longest,
        example=column.example,
    )


def findings_of(messages: Iterable[training_data_pb2.DataFinding]) -> tuple[Finding, ...]:
    """Return the findings of messages."""
    severities = {message: severity for severity, message in _SEVERITIES.items()}
    return tuple(
        Finding(
            code=message.code,
            severity=severities[message.severity],
            message=message.message,
            rows=message.rows,
            columns=tuple(
                UnreadColumn(
                    name=column.name,
                    severity=severities[column.severity],
                    kind=column.kind,
                    rows=column.rows,
                    share=column.share,
                    mean=column.mean_characters,
                    longest=column.longest_characters,
                    example=column.example,
                )
                for column in message.columns
            ),
            mappings=tuple({part.name: path for part, path in mapping.ListFields()} for mapping in message.mappings),
            accepted=message.accepted,
        )
        for message in messages
    )
