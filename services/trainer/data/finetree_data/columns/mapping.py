# SPDX-License-Identifier: Apache-2.0
"""Mappings of a row's parts to columns, and how values are looked up."""

from dataclasses import dataclass, field
from typing import Any

from finetree_data.errors import RowError
from finetree_data.options import RowFormat
from finetree_data.remarks import Remark

PARTS = ("turns", "prompt", "completion", "text", "chosen", "context", "history", "system", "tools", "verdict")
"""Parts of a row: turns; prompt and completion, or text; the chosen answer of a preference pair, which follows the
turns; the context of a prompt; turns before it; system and tools; whether an answer is a good one."""


@dataclass(frozen=True, slots=True)
class Mapping:
    """The paths of a row's parts, by their names in PARTS.

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


def columns_remark(mapping: Mapping, value: dict[str, Any]) -> Remark:
    """Describe which columns of a row are read as what, and which are not read."""
    read = ", ".join(f'{part} from "{path[:60]}"' for part, path in mapping.parts.items() if has(value, path))
    used = {path if path in value else path.partition(".")[0] for path in mapping.parts.values()}
    rest = [name[:60] for name in value if name not in used]
    more = ", …" if len(rest) > 12 else ""
    left = f" Not read: {', '.join(rest[:12])}{more}." if rest else ""
    return Remark("COLUMNS_READ", f"Read as {mapping.row_format.value}: {read}.{left}")


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
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, list) and name.isdecimal() and len(name) < 9 and int(name) < len(value):
            value = value[int(name)]
        else:
            raise RowError(path, "is missing")
    return value
