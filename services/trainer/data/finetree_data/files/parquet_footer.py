# SPDX-License-Identifier: Apache-2.0
"""Rows, columns and sizes of a Parquet file from its footer, without a library for the data.

The footer is a FileMetaData in Thrift's compact protocol (parquet-format, src/main/thrift/parquet.thrift; Thrift,
doc/specs/thrift-compact-protocol.md); field numbers below are the former's.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetree_data.errors import DatasetError
from finetree_data.files.content import PARQUET

MAX_FOOTER_BYTES = 64 * 1024 * 1024
"""Longest footer that is read, in bytes; a thousand columns in a thousand row groups take less."""

_DEPTH = 32
_VERSION, _SCHEMA, _ROWS, _GROUPS = 1, 2, 3, 4  # FileMetaData
_NAME, _CHILDREN = 4, 5  # SchemaElement
_GROUP_BYTES = 2  # RowGroup.total_byte_size: uncompressed
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)


@dataclass(frozen=True, slots=True)
class Footer:
    """Number of rows; names of columns, and dotted paths of their leaves; uncompressed bytes."""

    rows: int
    columns: tuple[str, ...]
    leaves: tuple[str, ...]
    content_bytes: int


def read_footer(path: Path) -> Footer:
    """Read the footer. Raises DatasetError DATASET_NOT_FOUND, or DATASET_UNREADABLE where it is damaged."""
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            stream.seek(max(0, size - 8))
            tail = stream.read(8)
            length = int.from_bytes(tail[:4], "little")
            if size < 12 or tail[4:] != PARQUET or length > min(size - 8, MAX_FOOTER_BYTES):
                raise _unreadable("it does not end in a footer; it may be cut off")
            stream.seek(size - 8 - length)
            data = stream.read(length)
    except OSError as error:
        raise DatasetError("DATASET_NOT_FOUND", "The dataset's file cannot be read.") from error
    try:
        fields = _Compact(data).struct(_DEPTH)
        columns, leaves = _columns(fields[_SCHEMA])
        groups = fields.get(_GROUPS, [])
        footer = Footer(int(fields[_ROWS]), columns, leaves, sum(int(g.get(_GROUP_BYTES, 0)) for g in groups))
    except (KeyError, IndexError, ValueError, TypeError, AttributeError, UnicodeDecodeError):
        raise _unreadable("its footer is damaged") from None
    if not 0 <= footer.rows < 2**53 or footer.content_bytes < 0 or not footer.columns:
        raise _unreadable("its footer states impossible sizes")
    return footer


def _unreadable(what: str) -> DatasetError:
    return DatasetError(
        "DATASET_UNREADABLE", f"The Parquet file cannot be read: {what}.", remedy="Write the file again and send it."
    )


def _columns(schema: list[dict[int, Any]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the columns, and dotted paths of the leaves: the schema is a tree, written depth first."""
    columns: list[str] = []
    leaves: list[str] = []
    waiting = [int(schema[0].get(_CHILDREN, 0))]
    path: list[str] = []
    for element in schema[1:]:
        name, children = bytes(element[_NAME]).decode(), int(element.get(_CHILDREN, 0))
        if len(waiting) == 1:
            columns.append(name)
        waiting[-1] -= 1
        path.append(name)
        if children:
            waiting.append(children)
        else:
            leaves.append(".".join(path))
            path.pop()
        while len(waiting) > 1 and waiting[-1] == 0:
            waiting.pop()
            path.pop()
    if waiting != [0]:
        raise ValueError("the schema's tree does not close")
    return tuple(columns), tuple(leaves)


class _Compact:
    """Reads Thrift's compact protocol; raises ValueError or IndexError for anything else."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def struct(self, depth: int) -> dict[int, Any]:
        """Read a struct; return its fields by number."""
        if depth == 0:
            raise ValueError("nested too deeply")
        fields: dict[int, Any] = {}
        number = 0
        while (head := self._byte()) != 0:
            number = number + (head >> 4) if head >> 4 else self._signed()
            fields[number] = self._value(head & 15, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (_TRUE, _FALSE):
            return kind == _TRUE
        if kind in (_BYTE, _I16, _I32, _I64):
            return self._byte() if kind == _BYTE else self._signed()
        if kind in (_DOUBLE, _BINARY):
            return self._bytes(8 if kind == _DOUBLE else self._unsigned())
        if kind in (_LIST, _SET):
            return self._list(depth)
        if kind == _STRUCT:
            return self.struct(depth - 1)
        # A footer holds no maps.
        raise ValueError("an unknown type")

    def _list(self, depth: int) -> list[Any]:
        head = self._byte()
        count, kind = head >> 4, head & 15
        count = self._unsigned() if count == 15 else count
        if count > len(self._data) or depth == 0:
            raise ValueError("a list longer than its bytes")
        if kind in (_TRUE, _FALSE):  # in a list, a byte each
            return [self._byte() == 1 for _ in range(count)]
        return [self._value(kind, depth - 1) for _ in range(count)]

    def _byte(self) -> int:
        value = self._data[self._at]
        self._at += 1
        return value

    def _bytes(self, count: int) -> bytes:
        if count > len(self._data) - self._at:
            raise ValueError("text longer than its bytes")
        self._at += count
        return self._data[self._at - count : self._at]

    def _unsigned(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("a number of too many bytes")

    def _signed(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)
