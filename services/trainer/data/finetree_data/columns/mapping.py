# SPDX-License-Identifier: Apache-2.0
"""Where the parts of a row are, and how they are got."""

from dataclasses import dataclass, field
from typing import Any

from finetree_data.errors import RowError
from finetree_data.options import Layout
from finetree_data.remarks import Remark

PARTS = ("turns", "prompt", "completion", "text", "chosen", "context", "history", "system", "tools", "verdict")
"""What a mapping may say: turns; prompt and completion, or text; the chosen answer of a preference pair, which stands
behind the turns; what a prompt is about; turns before it; system and tools; whether an answer is a good one."""


@dataclass(frozen=True, slots=True)
class Mapping:
    """Where the parts of a row are: paths by their names in PARTS.

    `named` says that the user named them, `remarks` what was decided about a file that could be taken otherwise.
    """

    layout: Layout
    parts: dict[str, str] = field(default_factory=dict)
    named: bool = False
    remarks: tuple[Remark, ...] = ()

    @property
    def main(self) -> tuple[str, ...]:
        """The columns that a row of this layout cannot do without."""
        return tuple(self.parts[part] for part in ("turns", "prompt", "completion", "text") if part in self.parts)


def columns_remark(mapping: Mapping, value: dict[str, Any]) -> Remark:
    """Which columns of a row are read as what, and which are not read."""
    read = ", ".join(f'{part} from "{path[:60]}"' for part, path in mapping.parts.items() if has(value, path))
    used = {path if path in value else path.partition(".")[0] for path in mapping.parts.values()}
    rest = [name[:60] for name in value if name not in used]
    more = ", …" if len(rest) > 12 else ""
    left = f" Not read: {', '.join(rest[:12])}{more}." if rest else ""
    return Remark("COLUMNS_READ", f"Read as {mapping.layout.value}: {read}.{left}")


def optional(value: dict[str, Any], path: str) -> Any:
    """What is at the path, None where nothing is; `path` may be ""."""
    if not path:
        return None
    return lookup(value, path) if "." in path and has(value, path) else value.get(path)


def listed(value: dict[str, Any]) -> str:
    """The object's columns, for people."""
    return ", ".join(sorted(str(key)[:60] for key in value)[:12])[:200] or "none"


def by_lower(value: dict[str, Any]) -> dict[str, str]:
    """The object's columns by their names in small letters."""
    return {key.lower(): key for key in reversed(value)}


def first(names: dict[str, str], wanted: tuple[str, ...]) -> str:
    """The first of the wanted columns that is there, as the file writes it; "" where none is."""
    return next((names[name] for name in wanted if name in names), "")


def has(value: Any, path: str) -> bool:
    """Whether there is anything at the path: a column's name, or names and list places joined by dots."""
    try:
        lookup(value, path)
    except RowError:
        return False
    return True


def lookup(value: Any, path: str) -> Any:
    """What is at the path. Raises RowError where nothing is."""
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
