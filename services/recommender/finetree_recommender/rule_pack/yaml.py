# SPDX-License-Identifier: Apache-2.0
"""Parsing of a pack's YAML into dataclasses; unknown keys, missing keys and wrong types are named with their rule."""

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, TypeVar

T = TypeVar("T")


class PackError(ValueError):
    """Rule pack that cannot be used; the message names the rule."""


def read(kind: type[T], raw: object, where: str) -> T:
    """Build a dataclass of `kind` from parsed YAML; `where` names the place for errors."""
    if not isinstance(raw, dict):
        raise PackError(f"{where}: expected keys and values, found {raw!r}")
    name = str(raw.get("id", where))
    hints, fields = _shape(typing.cast("Any", kind))
    unknown = sorted(str(key) for key in raw if key not in fields)
    if unknown:
        raise PackError(f"rule {name}: unknown key {unknown[0]!r}; known are {', '.join(sorted(fields))}")
    for key, item in fields.items():
        if key not in raw and item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            raise PackError(_missing(name, key))
    return kind(**{key: _convert(hints[key], value, f"{name}.{key}") for key, value in raw.items()})


@functools.cache
def _shape(kind: Any) -> tuple[dict[str, Any], dict[str, "dataclasses.Field[Any]"]]:
    """Types and fields of a dataclass, kept since resolving types is slow."""
    return typing.get_type_hints(kind), {item.name: item for item in dataclasses.fields(kind)}


def _missing(name: str, key: str) -> str:
    if key == "source":
        return f"rule {name}: number or choice without a source; add `source` with a key of `sources` and a place in it"
    return f"rule {name}: {key} is missing"


def _convert(kind: Any, value: object, where: str) -> Any:
    origin = typing.get_origin(kind)
    if origin is tuple:
        if not isinstance(value, list):
            raise PackError(f"rule {where}: expected a list, found {value!r}")
        return tuple(_convert(typing.get_args(kind)[0], item, where) for item in value)
    if origin is Mapping:
        if not isinstance(value, dict):
            raise PackError(f"rule {where}: expected keys and values, found {value!r}")
        key_kind, value_kind = typing.get_args(kind)
        return {
            _convert(key_kind, key, where): _convert(value_kind, item, f"{where}.{key}") for key, item in value.items()
        }
    if isinstance(kind, types.UnionType):
        return _one_of(typing.get_args(kind), value, where)
    if dataclasses.is_dataclass(kind):
        return read(typing.cast("type[Any]", kind), value, where)
    return _scalar(kind, value, where)


def _one_of(kinds: tuple[Any, ...], value: object, where: str) -> Any:
    """Match exact types first, so that True stays a boolean and 8 an integer."""
    for kind in kinds:
        if type(value) is kind:
            return value
    for kind in kinds:
        if kind is not type(None):
            return _convert(kind, value, where)
    raise PackError(f"rule {where}: {value!r} is not allowed")


def _scalar(kind: Any, value: object, where: str) -> Any:
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        if not isinstance(value, str) or value not in list(kind):
            raise PackError(f"rule {where}: {value!r} is none of {', '.join(kind)}")
        return kind(value)
    # YAML reads 1 as an integer where a pack means 1.0; the reverse is a mistake.
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise PackError(f"rule {where}: expected {kind.__name__}, found {value!r}")
    return value
