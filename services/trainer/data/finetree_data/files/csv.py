# SPDX-License-Identifier: Apache-2.0
"""Rows of CSV and TSV tables."""

import csv
import io
from collections import Counter
from collections.abc import Iterator
from typing import Any

from finetree_data.errors import DatasetError, RowError
from finetree_data.files.content import MAX_ROW_BYTES, Content, undecodable
from finetree_data.files.json_lines import Record

DELIMITERS = ",\t;|"
"""Delimiters of tables; the header shows which one a table has."""


def find_delimiter(head: str) -> str:
    """Find the delimiter that splits the header into the most cells; "" where none does."""
    counts = {mark: len(_first_row(head, mark)) for mark in DELIMITERS}
    best = max(counts, key=lambda mark: counts[mark])
    return best if counts[best] > 1 else ""


def _first_row(head: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader(io.StringIO(head, newline=""), delimiter=delimiter), [])
    except csv.Error:
        return []


def table(stream: Content, delimiter: str) -> Iterator[Record]:
    """Yield the rows of a table (RFC 4180) whose first line names the columns; rows are counted after it.

    Raises DatasetError MALFORMED_FILE for a header that names no columns or one twice, and for a cell that does not
    end.
    """
    # The limit is the process's; nothing else here reads tables.
    csv.field_size_limit(MAX_ROW_BYTES)
    # Some write a space behind each delimiter; before a quotation mark it would make the mark a part of the cell.
    spaced = delimiter.encode() + b' "' in stream.head().partition(b"\n")[0]
    reader = csv.reader(_text(stream), delimiter=delimiter, skipinitialspace=spaced)
    number = 0
    try:
        header = _header(next(reader, []))
        begin = reader.line_num + 1
        for cells in reader:
            lines_of_row, begin = (begin, reader.line_num), reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            number += 1
            yield number, _record(header, cells, lines_of_row)
    except csv.Error as error:
        what = str(error)
        if "field larger" in what:
            what = f"a cell is longer than {MAX_ROW_BYTES} characters: a quotation mark is not closed"
        elif "new-line character" in what:
            what = "its lines end in CR alone; LF or CRLF is read"
        raise DatasetError(
            "MALFORMED_FILE",
            f"The table cannot be read in the lines up to {reader.line_num}: {what}.",
            remedy='Put cells with line breaks, quotes or delimiters in quotes, and write " in them as "".',
            row=number + 1,
        ) from None


def _text(stream: Content) -> Iterator[str]:
    """Yield lines; bytes that are not UTF-8 become lone surrogates, so that the row can be named that has them."""
    first = True
    while line := stream.readline(MAX_ROW_BYTES + 1):
        text = line.decode("utf-8", "surrogateescape")
        yield text.removeprefix("\ufeff") if first else text
        first = False


def _header(cells: list[str]) -> list[str]:
    names = [name.strip() for name in cells]
    twice = next((name for name, count in Counter(names).items() if name and count > 1), "")
    if twice or not any(names):
        what = f"names the column {twice[:40]!r} twice" if twice else "names no columns"
        raise DatasetError("MALFORMED_FILE", f"The table's first line {what}.", remedy="Give each column a name.")
    return names


def _record(header: list[str], cells: list[str], at: tuple[int, int]) -> dict[str, Any] | RowError:
    first, line = at
    if len(cells) != len(header):
        where = f"line {line}" if first == line else f"lines {first} to {line}: is a quotation mark not closed?"
        return RowError("", f"has {len(cells)} cells, the header has {len(header)} ({where})")
    for name, cell in zip(header, cells, strict=True):
        if "\x00" in cell:
            return RowError(name, f"has a NUL byte, which no text has (line {line})")
        if not cell.isascii():
            byte = next((char for char in cell if "\udc80" <= char <= "\udcff"), "")
            if byte:
                return RowError(name, undecodable(ord(byte) - 0xDC00, cell.index(byte)) + f" (line {line})")
    return {name: cell for name, cell in zip(header, cells, strict=True) if name}
