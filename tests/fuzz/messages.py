# SPDX-License-Identifier: Apache-2.0
"""Random messages of any type, made from its descriptor; the same seed gives the same messages."""

import random
import string
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

DEPTH = 4
NUMBERS = (0, 1, 2, 7, 64, 1000, 2**31 - 1, -1, 2**53, 2**63 - 1, -(2**63))
FLOATS = (0.0, 1.0, -1.0, 0.5, 1e-300, 1e300, float("inf"), float("nan"))
WORDS = (
    *("", "default", "projects/default", "projects/default/jobs/x", "projects//jobs/", "../../etc/passwd"),
    *("smollm2-135m-instruct", "llama-3-8b", "rtx-4090", "lora", "a" * 300, "\x00", "ü" * 40, "%s{}", "-1"),
)


class Maker:
    """Makes messages; each call makes another one."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def fill(self, message: Message, depth: int = 0) -> Message:
        """Set about half of the fields of an empty message, and return it."""
        for field in message.DESCRIPTOR.fields:
            if self.random.random() < 0.5 and not (depth >= DEPTH and field.message_type):
                self._set(message, field, depth)
        return message

    def mutate(self, message: Message) -> Message:
        """Clear or change a few fields of a good message, so that what lies behind validation is reached too."""
        for field in message.DESCRIPTOR.fields:
            chance = self.random.random()
            nested = field.message_type is not None and not field.is_repeated
            if chance < 0.1:
                message.ClearField(field.name)
                if chance < 0.06:
                    self._set(message, field, DEPTH - 2)
            elif nested and message.HasField(field.name):
                self.mutate(getattr(message, field.name))
        return message

    def _set(self, message: Message, field: FieldDescriptor, depth: int) -> None:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            self._set_map(message, field, depth)
        elif field.is_repeated:
            for _ in range(self.random.randrange(4)):
                if field.message_type is not None:
                    self.fill(getattr(message, field.name).add(), depth + 1)
                else:
                    getattr(message, field.name).append(self._scalar(field))
        elif field.message_type is not None:
            getattr(message, field.name).SetInParent()
            self.fill(getattr(message, field.name), depth + 1)
        else:
            setattr(message, field.name, self._scalar(field))

    def _set_map(self, message: Message, field: FieldDescriptor, depth: int) -> None:
        key, value = field.message_type.fields
        target = getattr(message, field.name)
        for _ in range(self.random.randrange(3)):
            if value.message_type is not None:
                self.fill(target[self._scalar(key)], depth + 1)
            else:
                target[self._scalar(key)] = self._scalar(value)

    def _scalar(self, field: FieldDescriptor) -> Any:
        choose = self.random.choice
        match field.cpp_type:
            case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
                return self.random.randbytes(choose((0, 1, 100)))
            case FieldDescriptor.CPPTYPE_STRING:
                return choose((*WORDS, "".join(self.random.choices(string.printable, k=12))))
            case FieldDescriptor.CPPTYPE_BOOL:
                return choose((True, False))
            case FieldDescriptor.CPPTYPE_ENUM:
                return choose((*(value.number for value in field.enum_type.values), 999))
            case _:
                return choose(_numbers(field))


def _numbers(field: FieldDescriptor) -> tuple[float, ...]:
    """Numbers that a field of this type can hold, the extremes among them."""
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
            return FLOATS
        case FieldDescriptor.CPPTYPE_INT32:
            return tuple(number for number in NUMBERS if -(2**31) <= number < 2**31)
        case FieldDescriptor.CPPTYPE_UINT32 | FieldDescriptor.CPPTYPE_UINT64:
            return tuple(number for number in NUMBERS if 0 <= number < 2**31)
        case _:
            return NUMBERS
