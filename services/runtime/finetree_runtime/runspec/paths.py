# SPDX-License-Identifier: Apache-2.0
"""Field paths of messages: which fields are set, and in which two messages differ."""

import json
from typing import Any, NamedTuple

from google.protobuf import json_format
from google.protobuf.message import Message


def set_paths(message: Message, prefix: str = "") -> list[str]:
    """Paths of the leaves that are set in a message, in field order; lists count as leaves."""
    paths: list[str] = []
    for field, value in message.ListFields():
        path = f"{prefix}{field.name}"
        if field.message_type is not None and not field.is_repeated:
            # A message without fields of its own, such as `full: {}`, is itself the choice that was made.
            paths.extend(set_paths(value, f"{path}.") or [path])
        else:
            paths.append(path)
    return paths


class FieldDifference(NamedTuple):
    """A field in which two messages differ."""

    field_path: str
    """Proto path."""
    left: str
    """JSON of the field in the left message; empty where it is not set."""
    right: str
    """JSON of the field in the right message; empty where it is not set."""


def difference(left: Message, right: Message) -> list[FieldDifference]:
    """Fields in which two messages of a type differ, in the order of their paths; a list is one field."""
    a, b = _flatten(canonical(left)), _flatten(canonical(right))
    changed = [path for path in sorted(a | b) if a.get(path) != b.get(path)]
    return [FieldDifference(path, a.get(path, ""), b.get(path, "")) for path in changed]


def canonical(message: Message) -> dict[str, Any]:
    """Convert a message to a dictionary whose JSON with sorted keys is the same in every process."""
    document: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return document


def _flatten(value: Any, prefix: str = "") -> dict[str, str]:
    if isinstance(value, dict):
        flat: dict[str, str] = {}
        for key, item in value.items():
            flat |= _flatten(item, f"{prefix}.{key}" if prefix else str(key))
        return flat or ({prefix: "{}"} if prefix else {})
    return {prefix: json.dumps(value, sort_keys=True)}
