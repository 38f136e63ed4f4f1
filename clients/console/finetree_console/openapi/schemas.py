# SPDX-License-Identifier: Apache-2.0
"""Messages of the contract as JSON Schema (2020-12), as the console reads and writes them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from finetree_console.openapi.image import Image

Schema = dict[str, Any]
SPECIAL: Mapping[str, Schema] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time", "description": "Time in RFC 3339, UTC."},
    "google.protobuf.Duration": {
        "type": "string",
        "pattern": r"^([0-9]+(\.[0-9]+)?\s*(min|[dhms])\s*)+$",
        "examples": ["3.5s"],
        "description": 'Seconds, written "3.5s". A request may also write "90m" or "8h".',
    },
    "google.protobuf.Value": {"description": "Any JSON value."},
    "google.protobuf.Struct": {"type": "object", "description": "Any JSON object."},
    "google.protobuf.ListValue": {"type": "array", "description": "Any JSON list."},
    "google.protobuf.FieldMask": {"type": "string", "description": "Field paths, apart by commas."},
    "google.protobuf.Any": {
        "type": "object",
        "properties": {"@type": {"type": "string", "description": "Which message it is."}},
        "required": ["@type"],
        "description": "A message with its type.",
    },
}
_KINDS: Mapping[int, Schema] = {
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
    FieldDescriptor.TYPE_DOUBLE: {"type": "number", "format": "double"},
    FieldDescriptor.TYPE_FLOAT: {"type": "number", "format": "float"},
    FieldDescriptor.TYPE_INT32: {"type": "integer", "format": "int32"},
    FieldDescriptor.TYPE_INT64: {"type": "integer", "format": "int64"},
    FieldDescriptor.TYPE_UINT32: {"type": "integer", "format": "int64", "minimum": 0},
    FieldDescriptor.TYPE_UINT64: {"type": "integer", "format": "int64", "minimum": 0},
}
_NUMBERS = {"gte": "minimum", "lte": "maximum", "gt": "exclusiveMinimum", "lt": "exclusiveMaximum", "const": "const"}
_STRINGS = {"min_len": "minLength", "max_len": "maxLength", "pattern": "pattern", "in": "enum", "const": "const"}
_LISTS = {"min_items": "minItems", "max_items": "maxItems", "unique": "uniqueItems"}
_MAPS = {"min_pairs": "minProperties", "max_pairs": "maxProperties"}


def reference(full_name: str) -> Schema:
    """Refer to the schema of a message or enum."""
    return {"$ref": f"#/components/schemas/{full_name.removeprefix('finetree_api.')}"}


class Schemas:
    """Schemas of messages, and of all that they hold.

    Args:
        image: comments and rules.
        requests: descriptors of the request messages, which are read strictly.
        responses: descriptors of the response messages, which always have each field that is not optional.
    """

    def __init__(self, image: Image, requests: Iterable[Any], responses: Iterable[Any]) -> None:
        self._image = image
        self._read = _reached(requests)
        self._written = _reached(responses)

    def components(self) -> dict[str, Schema]:
        """Every schema by its name, in the order of the names."""
        found = {}
        for name, descriptor in (self._read | self._written).items():
            schema = self._enum(descriptor) if hasattr(descriptor, "values") else self._message(descriptor)
            found[name.removeprefix("finetree_api.")] = schema
        return dict(sorted(found.items()))

    def field(self, field: Any) -> Schema:
        """Schema of a field with its rules, and with its comment as the description."""
        rules = self._image.rules.get(field.full_name, {})
        schema = self._bare(field, rules)
        texts = [self._image.comments.get(field.full_name, ""), *_cel(rules)]
        description = "\n\n".join(text for text in texts if text)
        return {**schema, "description": description} if description else schema

    def required(self, descriptor: Any) -> list[str]:
        """Fields that a request must have: those that are said to be required, and whose zero breaks a rule."""
        rules = self._image.rules
        return [each.name for each in descriptor.fields if _needed(each, rules.get(each.full_name, {}))]

    def _bare(self, field: Any, rules: dict[str, Any]) -> Schema:
        inner = field.message_type
        if inner is not None and inner.GetOptions().map_entry:
            bounds = rules.get("map", {})
            key = _with_rules({"type": "string"}, bounds.get("keys", {}))
            value = self._single(inner.fields_by_name["value"], bounds.get("values", {}))
            named = {"propertyNames": key} if len(key) > 1 else {}
            return {"type": "object", "additionalProperties": value, **named, **_translated(bounds, _MAPS)}
        if field.is_repeated:
            bounds = rules.get("repeated", {})
            items = self._single(field, bounds.get("items", {}))
            return {"type": "array", "items": items, **_translated(bounds, _LISTS)}
        return self._single(field, rules)

    @staticmethod
    def _single(field: Any, rules: dict[str, Any]) -> Schema:
        """Schema of one value, of an element of a list for a list."""
        if field.enum_type is not None:
            refused = [field.enum_type.values_by_number[n].name for n in rules.get("enum", {}).get("not_in", [])]
            return reference(field.enum_type.full_name) | ({"not": {"enum": refused}} if refused else {})
        if field.message_type is not None:
            return reference(field.message_type.full_name)
        return _with_rules(dict(_KINDS[field.type]), rules)

    def _enum(self, enum: Any) -> Schema:
        lines = [
            f"* `{value.name}`: {self._image.comments.get(f'{enum.full_name}.{value.name}', '').partition(chr(10))[0]}"
            for value in enum.values
        ]
        text = self._image.comments.get(enum.full_name, "")
        return {
            "type": "string",
            "enum": [value.name for value in enum.values],
            "description": "\n".join([text, "", *lines]).strip(),
        }

    def _message(self, descriptor: Any) -> Schema:
        name = descriptor.full_name
        if name in SPECIAL:
            return dict(SPECIAL[name])
        rules = self._image.rules.get(name, {})
        texts = [self._image.comments.get(name, ""), *_cel(rules)]
        schema: Schema = {"type": "object", "description": "\n\n".join(text for text in texts if text)}
        schema["properties"] = {field.name: self.field(field) for field in descriptor.fields}
        required = self.required(descriptor) if name not in self._written else []
        if name not in self._read:
            required = [field.name for field in descriptor.fields if _always_there(field)]
        if required:
            schema["required"] = required
        if name in self._read:
            schema["additionalProperties"] = False
        choices = [self._choice(oneof) for oneof in descriptor.oneofs if len(oneof.fields) > 1]
        if choices:
            schema["allOf"] = choices
        return {key: value for key, value in schema.items() if value != ""}

    def _choice(self, oneof: Any) -> Schema:
        """At most one member of a oneof, or exactly one where its rule says so."""
        members: list[Schema] = [{"required": [field.name]} for field in oneof.fields]
        needed = self._image.rules.get(f"{oneof.containing_type.full_name}.{oneof.name}", {}).get("required")
        return {"oneOf": members if needed else [*members, {"not": {"anyOf": members}}]}


def _reached(roots: Iterable[Any]) -> dict[str, Any]:
    """Messages and enums by full name that can stand in one of these messages, themselves included."""
    found: dict[str, Any] = {}
    waiting = list(roots)
    while waiting:
        descriptor = waiting.pop()
        if descriptor.full_name in found:
            continue
        found[descriptor.full_name] = descriptor
        if descriptor.full_name in SPECIAL or hasattr(descriptor, "values"):
            continue
        for field in descriptor.fields:
            inner = field.message_type
            if inner is not None and inner.GetOptions().map_entry:
                inner = inner.fields_by_name["value"].message_type or inner.fields_by_name["value"].enum_type
            waiting += [each for each in (inner, field.enum_type) if each is not None]
    return found


def _always_there(field: Any) -> bool:
    """Whether the console writes a field also where it is zero; a number that is not finite is left out."""
    if field.is_repeated:
        return True
    return not field.has_presence and field.type not in (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT)


def _needed(field: Any, rules: dict[str, Any]) -> bool:
    if rules.get("required"):
        return True
    if field.containing_oneof is not None or (field.has_presence and not field.is_repeated):
        return False
    return any(isinstance(bounds, dict) and _forbids_zero(bounds) for bounds in rules.values())


def _forbids_zero(bounds: dict[str, Any]) -> bool:
    """Whether rules refuse an empty text or list, or a zero."""
    least = [bounds.get(key, 0) for key in ("min_len", "min_items", "min_pairs", "gte")]
    if any(isinstance(value, int | float | str) and float(value) > 0 for value in least) or 0 in bounds.get(
        "not_in", ()
    ):
        return True
    above = bounds.get("gt")
    return (isinstance(above, int | float | str) and float(above) >= 0) or not re.search(bounds.get("pattern", ""), "")


def _with_rules(schema: Schema, rules: dict[str, Any]) -> Schema:
    """Add what the rules of a text or a number say, as far as JSON Schema can."""
    for kind, bounds in rules.items():
        if schema["type"] == "string" and kind == "string":
            schema = schema | _translated(bounds, _STRINGS)
        elif schema["type"] in ("integer", "number") and isinstance(bounds, dict):
            schema = schema | {key: _number(value) for key, value in _translated(bounds, _NUMBERS).items()}
    return schema


def _translated(rules: Any, words: Mapping[str, str]) -> Schema:
    """Say rules in the words of JSON Schema."""
    found = {words[key]: value for key, value in rules.items() if key in words}
    return {key: _number(value) if key.startswith(("min", "max")) else value for key, value in found.items()}


def _number(value: Any) -> Any:
    """Number of a rule; proto JSON writes those of an int64 as text."""
    return int(value) if isinstance(value, str) else value


def _cel(rules: dict[str, Any]) -> list[str]:
    """What rules say that are expressions, as sentences."""
    return [f"Rule: {rule['message']}." for rule in rules.get("cel", []) if rule.get("message")]
