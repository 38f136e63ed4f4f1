# SPDX-License-Identifier: Apache-2.0
"""Objects of JSON lines, and which JSON values count as a row."""

import json
from collections.abc import Iterator
from typing import Any

from finetree_data.errors import RowError, json_type
from finetree_data.files.content import MAX_ROW_BYTES, Content, decode

Record = tuple[int, dict[str, Any] | RowError]
"""A row's number, from 1, and its object or its error."""

LISTS = ("data", "rows", "examples", "instances", "records", "items", "train", "dataset", "samples", "entries")
"""Keys of a document's top object under which its rows are looked for."""
ROOTS = ("data", "dataset")
"""Keys under which another object may hold the rows: {"data": {"train": [...]}}."""
TASKS = ("instruction", "Definition")
"""Keys of an object that is a row, or a task, whatever list it has."""

PYTHON = "; it looks like Python: write it with json.dumps"
"""Hint for an object in Python's notation."""

CHUNK = 1 << 16
"""Bytes that are read at once."""


def lines(stream: Content) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not blank, with their numbers; a line is cut after MAX_ROW_BYTES."""
    number = 0
    while line := stream.readline(MAX_ROW_BYTES + 1):
        number += 1
        if line.strip():
            yield number, line
        rest = line
        while len(line) > MAX_ROW_BYTES and rest and not rest.endswith(b"\n"):
            rest = stream.readline(CHUNK)


def json_lines(stream: Content) -> Iterator[Record]:
    """Yield one object a line; row numbers are line numbers, blank lines are skipped."""
    for number, line in lines(stream):
        try:
            yield number, to_object(parse(line, first=number == 1))
        except RowError as error:
            yield number, error


def _column(error: json.JSONDecodeError) -> int:
    """Return the place of a mistake in its line, from 1: at its end where the line is cut, not in the next one."""
    return min(error.pos, len(error.doc.rstrip())) + 1


def parse(line: bytes, *, first: bool = False) -> Any:
    """Parse a line of JSON. Raises RowError."""
    if len(line) > MAX_ROW_BYTES:
        raise RowError("", f"is longer than {MAX_ROW_BYTES} bytes; write one JSON object a line")
    try:
        text = decode(line, first=first)
        # `loads` would make a decoder for each line; what it says of a byte order mark is kept.
        return json.loads(text) if text.startswith("\ufeff") else DECODER.decode(text)
    except json.JSONDecodeError as error:
        hint = "; if this is a table or plain text, say so in reading.file_format" if first and not error.pos else ""
        hint = PYTHON if error.doc.lstrip().startswith("{'") else hint
        raise RowError("", f"is not JSON at column {_column(error)}: {error.msg}{hint}") from None
    except RecursionError:
        raise RowError("", "is JSON that is nested too deeply") from None
    except ValueError as error:
        # Not UTF-8, or a number with more digits than Python converts.
        text = str(error)
        raise RowError("", text if text.startswith("is ") else "is JSON with a number of too many digits") from None


def _missing(_: str) -> None:
    """Read NaN and Infinity, which are not JSON, as null: pandas writes NaN where a cell is empty."""


DECODER = json.JSONDecoder(parse_constant=_missing)
"""Reads JSON, and what pandas writes in its place."""


def to_object(value: Any, *, inside: bool = False) -> dict[str, Any]:
    """Convert a value to a row's object: a list of messages is a chat, a list of cells has columns 0, 1, ….

    `inside` an array, any list of objects is a conversation; on a line of its own it may be a batch of rows. Raises
    RowError for other values.
    """
    if isinstance(value, list) and (are_messages(value) or (inside and _are_objects(value))):
        return {"messages": value}
    if isinstance(value, list) and value and not any(isinstance(cell, list | dict) for cell in value):
        return {str(place): cell for place, cell in enumerate(value)}
    if not isinstance(value, dict):
        hint = '; a text is written as {"text": …}' if isinstance(value, str) else ""
        raise RowError("", f"must be a JSON object, is {json_type(value)}{hint}")
    return value


def _are_objects(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(value, dict) for value in values)


def are_messages(values: list[Any]) -> bool:
    """Return whether these are the messages of one conversation."""
    return _are_objects(values) and all(isinstance(turn.get("role", turn.get("from")), str) for turn in values)


def is_list_of_rows(value: dict[str, Any]) -> bool:
    """Return whether the object is not a row itself but has rows under one of LISTS."""
    if any(key in value for key in TASKS):
        return False
    lists = [value[key] for key in LISTS if isinstance(value.get(key), list)]
    inner = [value[key] for key in ROOTS if isinstance(value.get(key), dict)]
    return any(isinstance(rows[0], dict) for rows in lists if rows) or any(map(is_list_of_rows, inner))


def are_several(text: str) -> bool:
    """Return whether a line has several objects without a line break between them."""
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return False
    return text[end:].lstrip().startswith("{")
