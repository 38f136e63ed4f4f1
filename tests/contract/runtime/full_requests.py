# SPDX-License-Identifier: Apache-2.0
"""Requests that are full of empty elements, made without the cost of making messages."""

from collections.abc import Iterator

from google.protobuf.descriptor import Descriptor, FieldDescriptor


def lists_of(descriptor: Descriptor, above: tuple[FieldDescriptor, ...] = ()) -> Iterator[tuple[FieldDescriptor, ...]]:
    """Paths of fields to every list and map that a message can hold; types that hold themselves are entered once."""
    entered = {field.containing_type for field in above}
    for field in descriptor.fields:
        if field.is_repeated:
            yield (*above, field)
        if field.message_type is not None and not is_map(field) and field.message_type not in entered:
            yield from lists_of(field.message_type, (*above, field))


def is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def request_of(path: tuple[FieldDescriptor, ...], elements: int) -> bytes:
    """A request whose list at the end of a path has so many elements, all empty; the keys of a map differ."""
    *parents, last = path
    if is_map(last):
        key = last.message_type.fields_by_name["key"]
        raw = b"".join(on_wire(last, on_wire(key, b"%06d" % number)) for number in range(elements))
    elif last.is_packed:
        raw = on_wire(last, bytes(elements * width(last)))
    else:
        raw = on_wire(last, b"") * elements
    for field in reversed(parents):
        raw = on_wire(field, raw)
    return raw


def on_wire(field: FieldDescriptor, content: bytes) -> bytes:
    """A field that holds a message, a text or a packed list (wire type 2), as bytes."""
    return varint(field.number << 3 | 2) + varint(len(content)) + content


def varint(number: int) -> bytes:
    groups = [number >> shift & 0x7F for shift in range(0, max(1, number.bit_length()), 7)]
    return bytes(group | 0x80 for group in groups[:-1]) + bytes(groups[-1:])


def width(field: FieldDescriptor) -> int:
    """Bytes of an empty element."""
    if is_map(field):
        return len(on_wire(field, on_wire(field, b"000000")))
    if field.is_packed:
        return 8 if field.cpp_type == field.CPPTYPE_DOUBLE else 1
    return len(on_wire(field, b""))
