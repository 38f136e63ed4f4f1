# SPDX-License-Identifier: Apache-2.0
"""What an rpc needs of its caller, as the contract states it: a role, and the fields that name resources of projects.

Both are options in the .proto files (finetree_api/types/v1/access.proto) and are read from the descriptor once for each
rpc. Only fields that lead to a name are looked at in a request.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from finetree_api.types.v1 import access_pb2
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from finetree_runtime.ids import project_in
from finetree_runtime.server.access.roles import Role

ROLES: Mapping[access_pb2.Role.ValueType, Role] = {
    access_pb2.ROLE_ESTIMATE: Role.ESTIMATE,
    access_pb2.ROLE_READ: Role.READ,
    access_pb2.ROLE_TRAIN: Role.TRAIN,
    access_pb2.ROLE_ADMIN: Role.ADMIN,
    access_pb2.ROLE_OPERATOR: Role.OPERATOR,
}
"""Role of each value of the contract's enum but ROLE_AUTHENTICATED, for which any known caller will do."""


@dataclass(slots=True)
class NameFields:
    """Fields of a message type that name resources, and fields whose messages have such fields, by name."""

    names: dict[str, bool] = field(default_factory=dict)
    """Whether the field is repeated."""
    messages: dict[str, NameFields] = field(default_factory=dict)

    def texts(self, message: Any) -> Iterator[str]:
        """Yield every name in a message; of an unset field none, of an empty text none."""
        for described, value in message.ListFields():
            repeated = self.names.get(described.name)
            if repeated is not None:
                yield from value if repeated else (value,)
            below = self.messages.get(described.name)
            if below is not None:
                for each in _messages(described, value):
                    yield from below.texts(each)


@dataclass(frozen=True, slots=True)
class Requirement:
    """What an rpc needs.

    Attributes:
        role: Role that the caller must have; None where any known caller will do.
        fields: Where requests name resources.
        in_project: Whether a request is about the caller's own project where it names no other.
    """

    role: Role | None
    fields: NameFields
    in_project: bool

    def projects(self, request: Any, own: str) -> set[str]:
        """Projects that a request is about; `own` is the caller's. Empty where it is about none.

        A name without a project is the caller's or, below the first level, belongs to the project of the request's
        parent. Text that is no name adds nothing: the method refuses it as INVALID_NAME.
        """
        found = {project for text in self.fields.texts(request) if (project := project_in(text))}
        first_level = list(NameFields(self.fields.names).texts(request))
        if self.in_project and not (first_level and all(project_in(text) for text in first_level)):
            found.add(own)
        return found


def requirement_of(method: str) -> Requirement | None:
    """Read what a method ("/package.Service/Method") needs; None where the contract says nothing about it."""
    service, _, name = method.lstrip("/").rpartition("/")
    try:
        described = descriptor_pool.Default().FindServiceByName(service).methods_by_name[name]
    except KeyError:
        return None
    stated = described.GetOptions().Extensions[access_pb2.access]
    role = ROLES.get(stated)
    if role is None and stated != access_pb2.ROLE_AUTHENTICATED:
        return None
    found = _name_fields(described.input_type, {})
    return Requirement(role, found, in_project=bool(found.names))


def _name_fields(message: Descriptor, known: dict[str, NameFields]) -> NameFields:
    """Collect the name fields of a message type; `known` ends the walk of types that contain themselves."""
    if message.full_name in known:
        return known[message.full_name]
    found = known[message.full_name] = NameFields()
    for described in message.fields:
        below = _message_type(described)
        if described.GetOptions().Extensions[access_pb2.resource]:
            found.names[described.name] = described.is_repeated
        elif below is not None:
            fields = _name_fields(below, known)
            if fields.names or fields.messages:
                found.messages[described.name] = fields
    return found


def _message_type(described: FieldDescriptor) -> Descriptor | None:
    """Type of a field's messages, of a map that of its values; None where it has none."""
    if _is_map(described):
        described = cast("Descriptor", described.message_type).fields_by_name["value"]
    return described.message_type


def _messages(described: FieldDescriptor, value: Any) -> Iterable[Any]:
    """Messages in the value of a field: one, or those of a list or map."""
    if _is_map(described):
        return cast("Iterable[Any]", value.values())
    return cast("Iterable[Any]", value) if described.is_repeated else (value,)


def _is_map(described: FieldDescriptor) -> bool:
    return described.message_type is not None and described.message_type.GetOptions().map_entry
