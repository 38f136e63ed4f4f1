# SPDX-License-Identifier: Apache-2.0
"""Values of settings, converted from text. Converters raise ValueError with a message that follows "NAME: "."""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, NewType

Duration = NewType("Duration", float)
"""Seconds; written as "90", "90s", "250ms", "15m", "2h" or "7d"."""

Size = NewType("Size", int)
"""Bytes; written as "1000", "64KB", "200GB" (powers of 1000) or "64KiB", "16GiB" (powers of 1024)."""

_UNITS = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZES = {"": 1, "b": 1} | {f"{unit}b": 1000**n for n, unit in enumerate("kmgt", start=1)}
_SIZES |= {f"{unit}ib": 1024**n for n, unit in enumerate("kmgt", start=1)}
_BOOLS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


@dataclasses.dataclass(frozen=True, slots=True)
class Secret:
    """A value that no log, error or `repr` shows; `reveal` returns it."""

    _value: str = ""

    def reveal(self) -> str:
        """Return the value."""
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __repr__(self) -> str:
        return "Secret('***')" if self._value else "Secret('')"

    __str__ = __repr__


class SecretUrl(Secret):
    """A URL that may carry a password. On the command line, which every process of the machine sees, it must not."""

    __slots__ = ()


_PASSWORD_IN_URL = re.compile(r"//[^/?#@:]*:[^/?#@]+@|[?&][a-z_]*password=", re.IGNORECASE)


def carries_password(url: str) -> bool:
    """Return whether a URL has a password, before its host or among its options."""
    return _PASSWORD_IN_URL.search(url) is not None


def kind_of(annotation: Any) -> Any:
    """Key of `CONVERTERS` for an annotation: `tuple` for tuple[str, ...], X for X | None; a Literal stays as it is.

    Raises:
        TypeError: There is no converter: a fault of the program, not of its user.
    """
    if typing.get_origin(annotation) is tuple:
        return tuple
    if typing.get_origin(annotation) is typing.Literal:
        return annotation
    union = typing.get_origin(annotation) in (types.UnionType, typing.Union)
    kinds = [part for part in typing.get_args(annotation) if part is not type(None)] if union else [annotation]
    if len(kinds) != 1 or kinds[0] not in CONVERTERS:
        raise TypeError(f"a setting cannot be a {annotation}")
    return kinds[0]


def convert(kind: Any, raw: Any) -> Any:
    """Convert the text (or the TOML value) of a setting.

    Raises:
        ValueError: It is not such a value; the message says what is expected.
    """
    if typing.get_origin(kind) is not typing.Literal:
        return CONVERTERS[kind](raw)
    words = typing.get_args(kind)
    if raw not in words:
        raise ValueError(f"{raw!r} is not one of {', '.join(words)}")
    return raw


def metavar(kind: Any) -> str:
    """Placeholder of a value in `--help`."""
    return "|".join(typing.get_args(kind)) if typing.get_origin(kind) is typing.Literal else METAVARS[kind]


def _text(raw: Any) -> str:
    if not isinstance(raw, str):
        raise ValueError(f"{raw!r} is not text")  # noqa: TRY004  # one kind of error for every bad value
    return raw


def _secret(raw: Any) -> Secret:
    if not isinstance(raw, str):
        raise ValueError("a secret is text")  # noqa: TRY004  # likewise; and the value itself is not repeated
    return Secret(raw)


def _secret_url(raw: Any) -> SecretUrl:
    return SecretUrl(_secret(raw).reveal())


def _integer(raw: Any) -> int:
    if isinstance(raw, str) and re.fullmatch(r"[+-]?\d[\d_]*", raw.strip()):
        return int(raw)
    if isinstance(raw, int) and not isinstance(raw, bool):
        return raw
    raise ValueError(f"{raw!r} is not a whole number")


def _number(raw: Any) -> float:
    try:
        if not isinstance(raw, bool) and math.isfinite(number := float(raw)):
            return number
    except (TypeError, ValueError):
        pass
    raise ValueError(f"{raw!r} is not a number")


def _boolean(raw: Any) -> bool:
    if isinstance(raw, bool):
        return raw
    if isinstance(raw, str) and raw.strip().lower() in _BOOLS:
        return _BOOLS[raw.strip().lower()]
    raise ValueError(f"{raw!r} is neither true nor false")


def _duration(raw: Any) -> Duration:
    if isinstance(raw, str) and (match := re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?", raw.strip())):
        return Duration(float(match[1]) * _UNITS[match[2] or ""])
    if isinstance(raw, int | float) and not isinstance(raw, bool) and 0 <= raw < math.inf:
        return Duration(float(raw))
    raise ValueError(f"{raw!r} is not a duration such as 90, 250ms, 15m or 2h")


def _size(raw: Any) -> Size:
    text = str(raw).strip().lower() if not isinstance(raw, bool) else ""
    if (match := re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?b)?", text)) and (match[2] or "") in _SIZES:
        return Size(int(float(match[1]) * _SIZES[match[2] or ""]))
    raise ValueError(f"{raw!r} is not a size such as 1000, 64MB or 16GiB")


def _strings(raw: Any) -> tuple[str, ...]:
    """Convert a list, or text with commas; a flag may also be given several times."""
    parts = raw if isinstance(raw, list) else [raw]
    return tuple(item.strip() for part in parts for item in _text(part).split(",") if item.strip())


CONVERTERS: dict[Any, Callable[[Any], Any]] = {
    str: _text,
    int: _integer,
    float: _number,
    bool: _boolean,
    Path: lambda raw: Path(_text(raw)).expanduser(),
    Duration: _duration,
    Size: _size,
    Secret: _secret,
    SecretUrl: _secret_url,
    tuple: _strings,
}
"""Converters by type of the setting."""

METAVARS: dict[Any, str] = {
    str: "TEXT",
    int: "N",
    float: "NUMBER",
    Path: "PATH",
    Duration: "TIME",
    Size: "BYTES",
    SecretUrl: "URL",
    tuple: "TEXT[,TEXT]",
}
"""Placeholders in `--help` by type of the setting."""
