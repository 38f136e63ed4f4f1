# SPDX-License-Identifier: Apache-2.0
"""What a compiled image of the contract says beyond the stubs: comments, and the rules of fields."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

_MESSAGE, _ENUM, _SERVICE = 4, 5, 6
"""Field numbers of descriptor.proto's FileDescriptorProto, as they stand in the paths of its locations."""
_FIELD, _NESTED, _NESTED_ENUM, _ONEOF, _VALUE, _METHOD = 2, 3, 4, 8, 2, 2
_RULES = {"field": "google.protobuf.FieldOptions", "oneof": "google.protobuf.OneofOptions"}
_MESSAGE_RULES = "google.protobuf.MessageOptions"

PACKAGES = ("finetree_api.", "google.rpc", "google.type")
"""Packages whose messages clients see."""


class Image:
    """An image of the contract, as `buf build --as-file-descriptor-set` writes it.

    Attributes:
        comments: by the full name of a message, field, oneof, enum, enum value, service or rpc; paragraphs are apart
            by an empty line.
        rules: of buf.validate by the full name of a field, oneof or message, as proto JSON.
    """

    def __init__(self, content: bytes) -> None:
        files = descriptor_pb2.FileDescriptorSet.FromString(content).file
        self._pool = descriptor_pool.DescriptorPool()
        for file in files:
            self._pool.AddSerializedFile(file.SerializeToString())
        names = [file.name for file in files]
        # Makes the classes of all options, with the extensions that hold the rules.
        message_factory.GetMessageClassesForFiles(names, self._pool)
        own = [file for file in files if file.package.startswith(PACKAGES)]
        self.comments = dict(found for file in own for found in _comments(file))
        self.rules = dict(
            found for file in own for message in file.message_type for found in self._of(message, file.package)
        )

    def _of(self, message: descriptor_pb2.DescriptorProto, outer: str) -> Iterator[tuple[str, dict[str, Any]]]:
        name = f"{outer}.{message.name}"
        yield name, self._rules(message.options, "message", _MESSAGE_RULES)
        for field in message.field:
            yield f"{name}.{field.name}", self._rules(field.options, "field", _RULES["field"])
        for oneof in message.oneof_decl:
            yield f"{name}.{oneof.name}", self._rules(oneof.options, "oneof", _RULES["oneof"])
        for nested in message.nested_type:
            yield from self._of(nested, name)

    def _rules(self, options: Any, kind: str, options_type: str) -> dict[str, Any]:
        cls = message_factory.GetMessageClass(self._pool.FindMessageTypeByName(options_type))
        extension = self._pool.FindExtensionByName(f"buf.validate.{kind}")
        parsed: Any = cls.FromString(options.SerializeToString())
        found: dict[str, Any] = json_format.MessageToDict(
            parsed.Extensions[extension], preserving_proto_field_name=True, descriptor_pool=self._pool
        )
        return found


def _comments(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[str, str]]:
    for location in file.source_code_info.location:
        name = _name(file, list(location.path))
        if name and location.leading_comments:
            yield f"{file.package}.{name}", _text(location.leading_comments)


def _name(file: descriptor_pb2.FileDescriptorProto, path: list[int]) -> str:
    """Name in its package of what a location is about; empty for parts that have none, such as a type."""
    if len(path) < 2 or path[0] not in (_MESSAGE, _ENUM, _SERVICE):
        return ""
    if path[0] == _SERVICE:
        service = file.service[path[1]]
        if len(path) == 2:
            return service.name
        return f"{service.name}.{service.method[path[3]].name}" if len(path) == 4 and path[2] == _METHOD else ""
    if path[0] == _ENUM:
        return _enum_name(file.enum_type[path[1]], path[2:])
    return _message_name(file.message_type[path[1]], path[2:])


def _message_name(message: descriptor_pb2.DescriptorProto, path: list[int]) -> str:
    if not path:
        return message.name
    inner = ""
    if path[0] == _FIELD and len(path) == 2:
        inner = message.field[path[1]].name
    elif path[0] == _ONEOF and len(path) == 2:
        inner = message.oneof_decl[path[1]].name
    elif path[0] == _NESTED and len(path) >= 2:
        inner = _message_name(message.nested_type[path[1]], path[2:])
    elif path[0] == _NESTED_ENUM and len(path) >= 2:
        inner = _enum_name(message.enum_type[path[1]], path[2:])
    return f"{message.name}.{inner}" if inner else ""


def _enum_name(enum: descriptor_pb2.EnumDescriptorProto, path: list[int]) -> str:
    if not path:
        return enum.name
    return f"{enum.name}.{enum.value[path[1]].name}" if len(path) == 2 and path[0] == _VALUE else ""


def _text(comment: str) -> str:
    paragraphs = re.split(r"\n\s*\n", comment.strip())
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
