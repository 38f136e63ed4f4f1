# SPDX-License-Identifier: Apache-2.0
"""Validates the texts in a row's values."""

import json
import re
from typing import Any

from finetree_data.columns.mapping import parse_list
from finetree_data.columns.names import QUESTIONS
from finetree_data.errors import EmptyTextError, RowError, json_type

_SURROGATE = re.compile("[\ud800-\udfff]")


def text_of(value: dict[str, Any], name: str, prefix: str = "", *, may_be_empty: bool = False) -> str:
    """The text of a member, which must be one that can be tokenized. Raises RowError."""
    if name not in value:
        raise RowError(prefix + name, "is missing")
    return require_text(value[name], prefix + name, may_be_empty=may_be_empty)


def is_learnable(text: str) -> bool:
    """Return whether a text is more than white space and can be tokenized: what `require_text` accepts."""
    return bool(text.strip()) and not _has_surrogate(text)


def _has_surrogate(text: str) -> bool:
    return not text.isascii() and _SURROGATE.search(text) is not None


def require_text(text: Any, place: str, *, may_be_empty: bool = False) -> str:
    """Return the value if it is a text that can be tokenized. Raises RowError, EmptyTextError."""
    if text is None:
        raise EmptyTextError(place, "must be a string, is null")
    if not isinstance(text, str):
        raise RowError(place, f"must be a string, is {json_type(text)}{_way_out(text, place)}")
    if not may_be_empty and not text.strip():
        raise EmptyTextError(place, "is empty")
    if _has_surrogate(text):
        raise RowError(place, "has half of a surrogate pair (\\ud800 to \\udfff), which is not a character")
    return text


def _way_out(value: Any, place: str) -> str:
    part = "prompt" if place.lower() in QUESTIONS else "completion"
    if isinstance(value, dict) and place.isidentifier():
        texts = [name for name, text in value.items() if isinstance(text, str) and name.isidentifier()]
        path = next((name for name in ("text", "value", "content") if name in texts), next(iter(texts), ""))
        return f"; to learn a text in it, map columns {{{part}: {place}.{path}}}" if path else ""
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value) and place.isidentifier():
        return f" of {len(value)}; to learn the first one, map columns {{{part}: {place}.0}}"
    return ""


def parse_json_cell(text: str, place: str) -> Any:
    """Parse a list or an object in a table's cell: JSON, or Python's notation of it. Raises RowError."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        found = parse_list(text.strip())
    if found is None:
        hint = "; it looks like Python, not JSON" if text.lstrip().startswith(("[{'", "{'", "['")) else ""
        raise RowError(place, f"must be a list, or a list as JSON text{hint}")
    return found
