# SPDX-License-Identifier: Apache-2.0
"""The contract's words for how a file is read, as the reader's own. The names of the enums' values are the same."""

from enum import Enum
from typing import Any, TypeVar

from finetree_api.trainer.v1 import dataset_pb2
from finetree_api.types.v1 import run_spec_pb2

from finetree_data.options import Columns, FileFormat, Layout, Reading

E = TypeVar("E", bound=Enum)


def reading_of(source: run_spec_pb2.DatasetSource) -> Reading:
    """How a dataset's file is read; a file given by path is called by its name in messages."""
    return to_reading(source.reading, name=source.path.rpartition("/")[2])


def to_reading(said: run_spec_pb2.DatasetReading, *, name: str = "") -> Reading:
    """How a file called `name` is read."""
    columns = {descriptor.name: value for descriptor, value in said.columns.ListFields()}
    return Reading(
        name=name,
        file_format=_named(FileFormat, "FILE_FORMAT_", run_spec_pb2.FileFormat, said.file_format),
        layout=_named(Layout, "ROW_FORMAT_", run_spec_pb2.RowFormat, said.format),
        columns=Columns(**columns),
        skip_bad_rows=said.bad_rows == run_spec_pb2.BAD_ROWS_SKIP,
        skip_limit=said.skip_limit,
        refuse_empty=said.bad_rows == run_spec_pb2.BAD_ROWS_REFUSE,
    )


def _named(kind: type[E], prefix: str, enum: Any, value: int) -> E | None:
    return kind[enum.Name(value).removeprefix(prefix)] if value else None


def row_schema(layout: Layout) -> dataset_pb2.RowSchema.ValueType:
    """The contract's name of a layout."""
    return dataset_pb2.RowSchema.Value(f"ROW_SCHEMA_{layout.name}")


def dataset_format(file_format: FileFormat) -> dataset_pb2.DatasetFormat.ValueType:
    """The contract's name of what a file is written in."""
    return dataset_pb2.DatasetFormat.Value(f"DATASET_FORMAT_{file_format.name}")
