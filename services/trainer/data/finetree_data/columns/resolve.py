# SPDX-License-Identifier: Apache-2.0
"""Finds the mapping of a file: by the usual names in its first valid row, or as the user names its columns."""

import difflib
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from finetree_data.columns.detection import detect_mapping, detect_row_format, extra_columns, usual_columns
from finetree_data.columns.mapping import Mapping, by_lower, first_of, list_columns
from finetree_data.columns.names import CONTEXTS, SYSTEMS, THOUGHTS, TOOLS
from finetree_data.columns.suggestions import unknown_columns
from finetree_data.errors import DatasetError
from finetree_data.options import Columns, RowFormat

OPTIONAL = ("input", "system", "tools", "verdict")
"""Named columns that a row may lack, so that the first one says nothing of whether the file has them."""
_MAIN = ("turns", "prompt", "completion", "text")


def find_mapping(value: dict[str, Any], row_format: RowFormat | None, columns: Columns) -> Mapping:
    """Find the mapping for rows like this one.

    Raises DatasetError COLUMN_NOT_FOUND or COLUMNS_INCOMPLETE where the named columns do not fit, RowError where none
    is named and none has a usual name.
    """
    named = columns.given()
    if not named and row_format is None:
        found = detect_mapping(value)
        if found is None:
            raise unknown_columns(value)
        return found
    for part, path in named.items():
        if part not in OPTIONAL:
            require_column(value, part, path)
    return _parts(value, row_format or _format_of_names(named) or _require_format(value), named)


def _require_format(value: dict[str, Any]) -> RowFormat:
    found = detect_row_format(value)
    if found is None:
        raise unknown_columns(value)
    return found


def _format_of_names(named: dict[str, str]) -> RowFormat | None:
    if "messages" in named:
        return RowFormat.CHAT
    if "conversations" in named:
        return RowFormat.SHAREGPT
    if "text" in named:
        return RowFormat.TEXT
    if "instruction" in named:
        return RowFormat.INSTRUCTION
    pair = {"prompt", "completion", "input", "output", "choices"}
    return RowFormat.PROMPT_COMPLETION if pair & set(named) else None


def _parts(value: dict[str, Any], row_format: RowFormat, named: dict[str, str]) -> Mapping:
    parts = usual_columns(value, row_format) | extra_columns(value)
    given = {
        "turns": named.get("messages") or named.get("conversations"),
        "prompt": named.get("instruction") or named.get("prompt"),
        "completion": named.get("output") or named.get("completion"),
        "text": named.get("text"),
        "system": named.get("system"),
        "tools": named.get("tools"),
        "verdict": named.get("verdict"),
        "choices": named.get("choices"),
    }
    if "input" in named:
        given["context" if given["prompt"] or row_format is RowFormat.INSTRUCTION else "prompt"] = named["input"]
    mine = {part for part in parts if part in _MAIN}
    beside = {"system", "tools", "context", "verdict", "choices"}
    kept = {part: path for part, path in given.items() if path and part in mine | beside}
    parts |= kept
    if parts.get("context") in (parts.get("prompt"), parts.get("completion")):
        parts.pop("context", None)
    missing = next((part for part in sorted(mine) if not present(value, parts[part])), "")
    if missing and named:
        raise DatasetError(
            "COLUMNS_INCOMPLETE",
            f"The named columns do not include the {missing}; the file has: {list_columns(value)}.",
            remedy=f"Name it in columns.{'messages' if missing == 'turns' else missing}.",
            field="columns",
        )
    return Mapping(row_format, parts, named=bool(named))


_LATER = {"context": CONTEXTS, "system": SYSTEMS, "tools": TOOLS, "history": ("history",), "thought": THOUGHTS}
"""Usual names of the parts that a row may lack."""


def with_later_columns(mapping: Mapping, new: Collection[str], before: Collection[str]) -> Mapping:
    """Return the mapping for rows that have `new` columns, which none of the rows `before` had.

    A part that no row had so far is read from then on: no row before is read in another way by it.
    """
    names = by_lower(dict.fromkeys(new))
    parts = dict(mapping.parts)
    for part, usual in _LATER.items():
        if part not in parts or parts[part] in before or parts[part] in new:
            continue
        wanted = usual[1:] if part == "context" and mapping.row_format is not RowFormat.INSTRUCTION else usual
        column = first_of(names, wanted)
        if column and column not in parts.values():
            parts[part] = column
    return mapping if parts == mapping.parts else replace(mapping, parts=parts)


def require_column(value: dict[str, Any], part: str, path: str) -> None:
    """Raise DatasetError COLUMN_NOT_FOUND unless a row, or the names of all rows, has a named column."""
    if present(value, path):
        return
    near = difflib.get_close_matches(path, list(value), n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise DatasetError(
        "COLUMN_NOT_FOUND",
        f"There is no column {path[:60]!r} in the file; it has: {list_columns(value)}.{hint}",
        remedy="Column names are case-sensitive.",
        field=f"columns.{part}",
    )


def present(value: dict[str, Any], path: str) -> bool:
    """Return whether the column of a path exists; what is nested in it may be missing in a row."""
    return path in value or path.partition(".")[0] in value
