# SPDX-License-Identifier: Apache-2.0
"""Request messages from query parameters: `?name=…`, nested fields with dots, lists by repeating the parameter."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from finetree_console.errors import invalid
from finetree_console.rpc.body import message_of_document

TEXTS = {"google.protobuf.Timestamp", "google.protobuf.Duration", "google.type.Money"}
"""Messages that are written as one text."""
_BOOLS = {"true": True, "false": False}


def message_of_query(pairs: Iterable[tuple[str, str]], cls: type[Message]) -> Message:
    """Make a message from query parameters.

    Args:
        pairs: names and values in their order, such as ("states", "JOB_STATE_RUNNING"), ("labels.team", "nlp").
        cls: the message.

    Raises:
        HttpError: INVALID_REQUEST: a name that is no field, a value of the wrong type, a single field given twice.
    """
    document: dict[str, Any] = {}
    for name, text in pairs:
        _place(document, cls.DESCRIPTOR, name.split("."), text, name)
    return message_of_document(document, cls)


def _place(document: dict[str, Any], descriptor: Any, parts: list[str], text: str, name: str) -> None:
    field = descriptor.fields_by_name.get(parts[0])
    if field is None:
        document[parts[0]] = text  # the message refuses it, with what it knows instead
        return
    inner, rest = field.message_type, parts[1:]
    if inner is not None and inner.GetOptions().map_entry and rest:
        _put(document.setdefault(field.name, {}), ".".join(rest), _value(inner.fields_by_name["value"], text), name)
    elif inner is not None and inner.full_name not in TEXTS and rest and not field.is_repeated:
        _place(document.setdefault(field.name, {}), inner, rest, text, name)
    elif rest or (inner is not None and inner.full_name not in TEXTS and (inner.fields or field.is_repeated)):
        raise invalid(name, f"cannot be a query parameter of this form; POST {descriptor.name} as JSON")
    elif field.is_repeated:
        document.setdefault(field.name, []).append(_value(field, text))
    else:
        _put(document, field.name, {} if inner is not None and not inner.fields else _value(field, text), name)


def _put(target: dict[str, Any], key: str, value: Any, name: str) -> None:
    if key in target:
        raise invalid(name, "is given twice, and is no list")
    target[key] = value


def _value(field: FieldDescriptor, text: str) -> Any:
    """Convert a parameter's text; numbers and names stay text, which proto JSON takes for them too."""
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return _BOOLS.get(text, text)
    return text
