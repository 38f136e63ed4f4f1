# SPDX-License-Identifier: Apache-2.0
"""JSON documents as frozen dataclasses: written in full, read strictly, described by a JSON Schema.

A dataclass is its JSON object, field by field. Fields may be text, numbers, booleans, `Literal`, another dataclass, a
tuple of these, or None; `JsonObject` and `JsonValue` are JSON of any shape.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

if typing.TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
JsonObject = dict[str, Any]
"""A JSON object whose keys the document leaves open, such as a message in proto JSON."""
JsonValue = Any
"""Any JSON value."""
SCALARS: Mapping[type, tuple[str, str]] = {
    str: ("string", "text"),
    bool: ("boolean", "true or false"),  # before int, of which bool is a subclass
    int: ("integer", "a whole number"),
    float: ("number", "a number"),
    dict: ("object", "an object"),
}
"""JSON Schema's name of a type, and ours for people."""


class DocumentError(ValueError):
    """A document of another shape: `path` is the place ("plans[0].checks[2].limit"), `problem` what is wrong."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}" if path else problem)
        self.path = path
        self.problem = problem


def to_json(value: Any) -> Any:
    """Convert a dataclass to what `json.dumps` takes; every field is written, also None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: to_json(getattr(value, item.name)) for item in dataclasses.fields(value)}
    return [to_json(item) for item in value] if isinstance(value, tuple) else value


def from_json(kind: type[T], document: Any) -> T:
    """Read a dataclass from parsed JSON; a key may be missing only where its field has a default.

    Raises:
        DocumentError: A key is unknown or missing, or a value has the wrong type.
    """
    found: T = _object(kind, document, "")
    return found


def schema(kind: "type[DataclassInstance]", *, title: str) -> JsonObject:
    """Return the JSON Schema (draft 2020-12) of a dataclass and of those inside it."""
    definitions: JsonObject = {}
    root = _schema(kind, definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        **root,
        "$defs": dict(sorted(definitions.items())),
    }


def _object(kind: type[Any], value: Any, path: str) -> Any:
    if not isinstance(value, Mapping):
        raise DocumentError(path, f"expected an object, got {_kind(value)}")
    hints = typing.get_type_hints(kind)
    fields = {item.name: item for item in dataclasses.fields(kind)}
    for key in value:
        if key not in fields:
            near = difflib.get_close_matches(str(key), list(fields), 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise DocumentError(_join(path, str(key)), f"unknown key{hint}")
    given: dict[str, Any] = {}
    for name, item in fields.items():
        if name in value:
            given[name] = _value(hints[name], value[name], _join(path, name))
        elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            raise DocumentError(_join(path, name), "is missing")
    return kind(**given)


def _value(hint: Any, value: Any, path: str) -> Any:
    members = _members(hint)
    if hint is Any or (value is None and type(None) in members):
        return value
    inner = next(each for each in members if each is not type(None))
    if dataclasses.is_dataclass(inner):
        return _object(typing.cast("type[Any]", inner), value, path)
    if get_origin(inner) is tuple:
        if not isinstance(value, list):
            raise DocumentError(path, f"expected a list, got {_kind(value)}")
        return tuple(_value(get_args(inner)[0], each, f"{path}[{index}]") for index, each in enumerate(value))
    if get_origin(inner) is Literal:
        known = get_args(inner)
        if not isinstance(value, str) or value not in known:
            raise DocumentError(path, f"expected {', '.join(known)}; got {value!r}")
        return value
    return _scalar(get_origin(inner) or inner, value, path)


def _scalar(kind: type, value: Any, path: str) -> Any:
    fits = isinstance(value, int | float if kind is float else kind)
    if isinstance(value, bool) and kind is not bool:
        fits = False
    if not fits or (isinstance(value, float) and not math.isfinite(value)):
        raise DocumentError(path, f"expected {SCALARS[kind][1]}, got {_kind(value)}")
    return float(value) if kind is float else value


def _schema(hint: Any, definitions: JsonObject) -> JsonObject:
    members = _members(hint)
    found: JsonObject
    if len(members) > 1:
        found = {"anyOf": [_schema(each, definitions) for each in members]}
    elif dataclasses.is_dataclass(hint):
        found = _reference(typing.cast("type[Any]", hint), definitions)
    elif get_origin(hint) is tuple:
        found = {"type": "array", "items": _schema(get_args(hint)[0], definitions)}
    elif get_origin(hint) is Literal:
        found = {"enum": list(get_args(hint))}
    elif hint is Any:
        found = {}
    else:
        found = {"type": "null" if hint is type(None) else SCALARS[get_origin(hint) or hint][0]}
    return found


def _reference(kind: type[Any], definitions: JsonObject) -> JsonObject:
    """Describe a dataclass once, and refer to it."""
    if kind.__name__ not in definitions:
        definitions[kind.__name__] = {}
        hints = typing.get_type_hints(kind)
        fields = dataclasses.fields(kind)
        definitions[kind.__name__] = {
            "description": (kind.__doc__ or "").partition("\n")[0],
            "type": "object",
            "properties": {item.name: _schema(hints[item.name], definitions) for item in fields},
            "required": [
                item.name
                for item in fields
                if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
            ],
            "additionalProperties": False,
        }
    return {"$ref": f"#/$defs/{kind.__name__}"}


def _members(hint: Any) -> tuple[Any, ...]:
    """Return the types of a union; of another type, itself."""
    return get_args(hint) if get_origin(hint) in (types.UnionType, Union) else (hint,)


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return next((name for kind, (_, name) in SCALARS.items() if isinstance(value, kind)), type(value).__name__)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
