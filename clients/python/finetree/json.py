# SPDX-License-Identifier: Apache-2.0
"""Messages as plain JSON values, with numbers as numbers.

proto3 JSON prints int64 as a string, and jq orders every string above every number, so `jq '.bytes > 9'` on it is
always true. All our int64 fields stay below 2^53, so a JSON number holds them exactly.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message

OWN_JSON = {
    f"google.protobuf.{name}" for name in ("Timestamp", "Duration", "FieldMask", "Value", "Struct", "ListValue")
}
"""Messages that proto JSON writes as a text or as any value; Any, too, has a form of its own."""


def to_json(message: Message, *, defaults: bool = False) -> dict[str, Any]:
    """Convert a message to a dict for `json.dumps`.

    Args:
        message: any message of the contract.
        defaults: also show scalars that are zero, so that every line has the same keys.

    Returns:
        Keys as in the .proto, int64 as numbers, enums by name (unknown ones by number), bytes in base64, times in
        RFC 3339, durations as "1.5s". A number that is not finite is left out (None inside a list): JSON has none.
    """
    if defaults:
        shown = [(f, getattr(message, f.name)) for f in message.DESCRIPTOR.fields if _shown(message, f)]
    else:
        shown = list(message.ListFields())
    values = {field.name: _field(field, value, defaults=defaults) for field, value in shown}
    return {name: value for name, value in values.items() if value is not None}


def _shown(message: Message, field: Any) -> bool:
    return message.HasField(field.name) if field.has_presence else True


def _field(field: Any, value: Any, *, defaults: bool) -> Any:
    entry = field.message_type
    if entry is not None and entry.GetOptions().map_entry:
        inner = entry.fields_by_name["value"]
        return {str(key): _value(inner, value[key], defaults=defaults) for key in sorted(value)}
    if field.is_repeated:
        return [_value(field, each, defaults=defaults) for each in value]
    return _value(field, value, defaults=defaults)


def _value(field: Any, value: Any, *, defaults: bool) -> Any:
    if field.message_type is not None:
        return _message(value, defaults=defaults)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known else value
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, float):
        return _number(value)
    return value


def _number(value: float) -> float | int | None:
    if not math.isfinite(value):
        return None
    return value


def _message(message: Message, *, defaults: bool) -> Any:
    name = message.DESCRIPTOR.full_name
    if name in OWN_JSON:
        return _whole_numbers(json_format.MessageToDict(message))
    if name == "google.protobuf.Any":
        return _any(message)
    return to_json(message, defaults=defaults)


def _whole_numbers(value: Any) -> Any:
    """Write whole numbers without a fraction, and keys in order.

    google.protobuf.Value keeps every number as a double, and its maps have another order in every process.
    """
    if isinstance(value, dict):
        return {key: _whole_numbers(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_whole_numbers(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _any(message: Any) -> Mapping[str, Any]:
    from google.protobuf import symbol_database
    from google.rpc import error_details_pb2  # registers the details that our errors carry

    kind = message.type_url.rpartition("/")[2] or error_details_pb2.ErrorInfo.DESCRIPTOR.full_name
    try:
        content = symbol_database.Default().GetSymbol(kind)()
    except KeyError:
        return {"@type": message.type_url, "value": base64.b64encode(message.value).decode("ascii")}
    message.Unpack(content)
    return {"@type": message.type_url} | to_json(content)
