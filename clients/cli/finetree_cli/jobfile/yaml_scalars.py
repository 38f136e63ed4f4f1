# SPDX-License-Identifier: Apache-2.0
"""Convert scalars of a YAML file by the type of their protobuf field, not by YAML's own rules.

`5e-4` is a number (text in YAML 1.1), and `no` is never silently `false`.
"""

import difflib
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from yaml.nodes import Node, ScalarNode, SequenceNode

_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32,
    FieldDescriptor.CPPTYPE_INT64,
    FieldDescriptor.CPPTYPE_UINT32,
    FieldDescriptor.CPPTYPE_UINT64,
}
_FLOATS = {FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT}
ALSO: dict[str, dict[str, str]] = {
    "finetree_api.types.v1.GradientCheckpointing": {"on": "full"},
    "finetree_api.types.v1.Sharding": {
        "ddp": "replicated",
        "zero-1": "optimizer",
        "zero-2": "gradients",
        "fsdp": "full",
        "zero-3": "full",
    },
}
"""Usual words for values where the contract has others, by enum: those of the options. A file is written in the first
word of a value, and read in any."""
_VALUE = re.compile(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b")
"""What the name of an enum's value looks like."""


def convert(known: FieldDescriptor, node: ScalarNode) -> tuple[Any, str]:
    """Return a scalar's value and "", or None and the problem."""
    text = str(node.value)
    if known.enum_type is not None:
        return _enum(known.enum_type, text)
    if known.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return _string(node)
    value: Any = None
    if known.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        value = {"true": True, "false": False}.get(text) if node.style is None else None
    elif known.cpp_type in _INTEGERS:
        value = _integer(text)
    elif known.cpp_type in _FLOATS:
        value = _number(text)
    return value, "" if value is not None else f"expected {expected(known)}, got {found(node)}"


def _string(node: ScalarNode) -> tuple[str | None, str]:
    if node.style is None and node.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:timestamp"):
        return None, f"expected text, got {found(node)}; put it in quotes if it is meant as text"
    # JSON writes a character beyond the basic plane as two escapes; YAML leaves them as two halves.
    return str(node.value).encode("utf-16", "surrogatepass").decode("utf-16", "replace"), ""


def _enum(kind: EnumDescriptor, text: str) -> tuple[int | None, str]:
    """Convert a word for an enum's value to its number: `all-linear`, `all_linear`, `TARGET_PRESET_ALL_LINEAR`."""
    numbers = {value.name: value.number for value in kind.values}
    if text in numbers:
        return numbers[text], ""
    names = [name for name, number in numbers.items() if number]
    prefix = enum_prefix(names)
    known = {short_word(name, prefix): numbers[name] for name in names}
    also = {word: known[plain] for word, plain in ALSO.get(kind.full_name, {}).items()}
    asked = text.upper().removeprefix(prefix).lower().replace("_", "-")
    if asked in (every := known | also):
        return every[asked], ""
    written = [enum_word(kind, number) for number in known.values()]
    close = difflib.get_close_matches(asked, dict.fromkeys((*written, *every)), n=1, cutoff=0.6)
    hint = f"did you mean {close[0]}?" if close else f"use one of {', '.join(written)}"
    return None, f"unknown value {text!r}; {hint}"


def enum_word(kind: EnumDescriptor, number: int) -> str:
    """Word for an enum's value, as options and pages have it: "all-linear"; the number where it has no name."""
    named = kind.values_by_number.get(number)
    if named is None or not number:
        return str(named.name if named is not None else number)
    word = short_word(named.name, enum_prefix([value.name for value in kind.values if value.number]))
    return next((usual for usual, plain in ALSO.get(kind.full_name, {}).items() if plain == word), word)


def setting_word(field_path: str, value: Any) -> str:
    """Word for the value of a RunSpec's setting that proto JSON has by the contract's name; "" for other settings."""
    from finetree_api.types.v1 import run_spec_pb2

    *parents, last = field_path.split(".")
    message: Any = run_spec_pb2.RunSpec.DESCRIPTOR
    for parent in parents:
        field = message.fields_by_name.get(parent) if message is not None else None
        message = field.message_type if field is not None else None
    field = message.fields_by_name.get(last) if message is not None else None
    if field is None or field.enum_type is None or not isinstance(value, str):
        return ""
    named = field.enum_type.values_by_name.get(value)
    return enum_word(field.enum_type, named.number) if named is not None else ""


def value_words(*kinds: Descriptor) -> dict[str, str]:
    """Words by the contract's names of the enum values that messages of `kinds` have."""
    enums = (enum for kind in kinds for enum in _enums_of(kind, set()))
    return {value.name: enum_word(enum, value.number) for enum in enums for value in enum.values if value.number}


def in_words(text: str, words: Mapping[str, str]) -> str:
    """Replace the contract's names of enum values in a text by their words."""
    return _VALUE.sub(lambda found: words.get(found[0], found[0]), text)


def _enums_of(kind: Descriptor, seen: set[str]) -> Iterator[EnumDescriptor]:
    """Enums of a message's fields, and of the messages in it."""
    seen.add(kind.full_name)
    for known in kind.fields:
        if known.enum_type is not None:
            yield known.enum_type
        elif known.message_type is not None and known.message_type.full_name not in seen:
            yield from _enums_of(known.message_type, seen)


def short_word(name: str, prefix: str) -> str:
    """A value's name without the enum's prefix, in small letters with hyphens: "all-linear"."""
    return name.removeprefix(prefix).lower().replace("_", "-")


def enum_prefix(names: list[str]) -> str:
    """Return the common prefix of an enum's names, up to an underscore: "SCHEDULE_"."""
    first, last = min(names), max(names)
    same = next((i for i, letter in enumerate(first) if i >= len(last) or letter != last[i]), len(first))
    return first[: first.rfind("_", 0, same) + 1]


def _integer(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        number = _number(text)
        return int(number) if number is not None and number.is_integer() else None


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def expected(known: FieldDescriptor) -> str:
    """Describe the values that a field takes."""
    if known.enum_type is not None:
        return "one of its names"
    if known.cpp_type in _INTEGERS:
        return "a whole number"
    if known.cpp_type in _FLOATS:
        return "a finite number"
    return "true or false" if known.cpp_type == FieldDescriptor.CPPTYPE_BOOL else "text"


def found(node: Node) -> str:
    """Describe a node of the file."""
    if isinstance(node, ScalarNode):
        text = str(node.value)
        return repr(text if len(text) <= 40 else text[:37] + "...")
    return "a list" if isinstance(node, SequenceNode) else "settings (key: value)"
