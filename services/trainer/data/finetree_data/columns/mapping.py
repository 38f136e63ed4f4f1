# SPDX-License-Identifier: Apache-2.0
"""Mappings of a row's parts to columns, and how values are looked up."""

import ast
import json
from collections.abc import Collection
from collections.abc import Mapping as Parts
from dataclasses import dataclass, field
from typing import Any

from finetree_data.errors import RowError, encodable
from finetree_data.options import RowFormat
from finetree_data.remarks import Remark


@dataclass(frozen=True, slots=True)
class Mapping:
    """The paths of a row's parts by name: turns; prompt and completion, or text; and what goes with them.

    "chosen" is the answer of a preference pair, which follows the turns, "history" turns before a prompt, "context"
    what the prompt is about, "thought" what was thought before an answer, "verdict" whether an answer is a good one.

    `named` says that the user named them, `remarks` what was decided about a file that could be taken otherwise.
    """

    row_format: RowFormat
    parts: dict[str, str] = field(default_factory=dict)
    named: bool = False
    remarks: tuple[Remark, ...] = ()

    @property
    def main(self) -> tuple[str, ...]:
        """The columns that a row of this format needs."""
        return tuple(self.parts[part] for part in ("turns", "prompt", "completion", "text") if part in self.parts)


def columns_remark(mapping: Mapping, names: Collection[str], unread: list[str]) -> Remark:
    """Describe which of a file's columns are read as what, and which are not read."""
    parts = present_parts(mapping, names)
    read = ", ".join(f'{part} from "{path[:60]}"' for part, path in parts.items())
    more = ", …" if len(unread) > 12 else ""
    left = f" Not read: {', '.join(name[:60] for name in unread[:12])}{more}." if unread else ""
    return Remark("COLUMNS_READ", encodable(f"Read as {mapping.row_format.value}: {read}.{left}"))


def present_parts(mapping: Mapping, names: Collection[str]) -> dict[str, str]:
    """Return the parts whose column the file has; others are read once a row has one."""
    return {part: path for part, path in mapping.parts.items() if path in names or path.partition(".")[0] in names}


def columns_of(mapping: Mapping) -> frozenset[str]:
    """Return the columns that a mapping reads, those around nested paths too."""
    paths = mapping.parts.values()
    return frozenset({*paths, *(path.partition(".")[0] for path in paths)})


def quoted_mapping(parts: Parts[str, str]) -> str:
    """Write a mapping as a user may copy it: {prompt: question, completion: "the answer"}."""
    return f"{{{', '.join(f'{part}: {quoted(path)}' for part, path in parts.items())}}}"


def quoted(name: str) -> str:
    """Write a column's name, in quotation marks where it needs them."""
    short = name[:60]
    return short if short.replace("-", "_").replace(".", "_").isidentifier() else json.dumps(short, ensure_ascii=False)


def optional(value: dict[str, Any], path: str) -> Any:
    """The value at a path, None where there is none; `path` may be ""."""
    if not path:
        return None
    return lookup(value, path) if "." in path and has(value, path) else value.get(path)


def list_columns(value: dict[str, Any]) -> str:
    """List an object's columns for an error."""
    return ", ".join(sorted(str(key)[:60] for key in value)[:12])[:200] or "none"


def by_lower(value: dict[str, Any]) -> dict[str, str]:
    """An object's columns by their lower-case names."""
    return {key.lower(): key for key in reversed(value)}


def first_of(names: dict[str, str], wanted: tuple[str, ...]) -> str:
    """The first of the wanted columns that exists, as the file writes it; "" for none."""
    return next((names[name] for name in wanted if name in names), "")


def has(value: Any, path: str) -> bool:
    """Return whether there is a value at the path: a column's name, or names and list indexes joined by dots."""
    try:
        lookup(value, path)
    except RowError:
        return False
    return True


def lookup(value: Any, path: str) -> Any:
    """The value at a path. Raises RowError where there is none."""
    if isinstance(value, dict) and path in value:
        return value[path]
    for name in path.split("."):
        if isinstance(value, str):
            value = parse_list(value)
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, list) and name.isdecimal() and len(name) < 9 and int(name) < len(value):
            value = value[int(name)]
        else:
            raise RowError(path, "is missing")
    return value


MAX_LITERAL = 1 << 20
"""Longest list in Python's notation that is parsed, in characters."""


def parse_list(text: str) -> Any:
    """Parse a list or an object in JSON's or Python's notation; None for other texts.

    Only literals: nothing is evaluated.
    """
    if text[:1] not in ("[", "{") or len(text) > MAX_LITERAL:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        found = ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
    return found if isinstance(found, list | dict) else None
