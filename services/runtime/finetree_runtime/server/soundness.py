# SPDX-License-Identifier: Apache-2.0
"""Whether a message certainly keeps the rules of the contract, told in a few microseconds.

Most requests are valid, and most of their parts were seen before. So the plain rules (ranges, lengths, known values)
are compiled from the contract's own, valid parts are remembered by their bytes, and a part with other rules is asked
about alone. A type of which too many differ to be remembered is looked at each time. What is not certain is validated
as a whole, so that errors are those of the validation library.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

LONGEST_KEPT = 512
"""Bytes of a part up to which it is remembered; a few dozen are usual."""
MOST_KEPT = 1024
"""Parts of a type that are remembered: a few dozen bytes each, half a megabyte at most. A type that has had so many is
remembered no more where a look at it tells: what comes once costs more to remember than to look at."""

Check = Callable[[Any], bool]
"""Whether a field's value certainly keeps its rules."""
_INTEGERS = frozenset({"int32", "int64", "uint32", "uint64"})
_IGNORE_ALWAYS = "IGNORE_ALWAYS"
_PASS: Check = lambda _: True  # noqa: E731  # a named constant of the type


class _Rules(NamedTuple):
    """The rules of a type of message."""

    checks: dict[int, Check | None]
    """By field number; None where a rule is not plain."""
    needed: tuple[frozenset[int], ...]
    """Fields of each of which one has to be set."""


class Soundness:
    """Tells which messages are certainly valid.

    `pool` has the types with their rules. `violated` names the fields and oneofs of a message, given by its type's full
    name and its bytes, that break a rule: it is asked about what is not plain.
    """

    def __init__(self, pool: DescriptorPool, violated: Callable[[str, bytes], Iterable[str]]) -> None:
        self._pool = pool
        self._violated = violated
        self._rules: dict[str, _Rules] = {}
        self._kept: dict[str, set[bytes]] = {}

    def certain(self, message: Message, besides: int = 0) -> bool:
        """Whether a message certainly keeps all rules; a field of which that is known may be passed over."""
        return self._look(message.DESCRIPTOR.full_name, message, besides) is True

    def prepare(self, full_name: str) -> None:
        """Compile the rules of a type and of all that are in it, so that no request waits for it."""
        if full_name not in self._rules:
            self._compile(full_name)
            for field in self._pool.FindMessageTypeByName(full_name).fields:
                if field.message_type is not None:
                    self.prepare(field.message_type.full_name)

    def _look(self, name: str, message: Message, besides: int = 0) -> bool | None:
        """Whether a message of a type is certainly valid; None where the rules of a field that is set are not plain."""
        checks, needed = self._rules.get(name) or self._compile(name)
        fields = message.ListFields()
        for field, value in fields:
            number = field.number
            if number == besides:
                continue
            check = checks.get(number)
            if check is None:
                return None
            if not check(value):
                return False
        numbers = [field.number for field, _ in fields] if needed else ()
        for one_of in needed:  # noqa: SIM110  # a generator would take longer than what it goes through
            if one_of.isdisjoint(numbers):
                return False
        return True

    def _part(self, name: str) -> Check:
        """What tells whether a message of a type, within another one, is certainly valid."""
        kept = self._kept.setdefault(name, set())

        def check(message: Message) -> bool:
            if len(kept) >= MOST_KEPT and (found := self._look(name, message)) is not None:
                return found
            raw = message.SerializeToString()
            return raw in kept or self._look_at_part(name, message, raw, kept)

        return check

    def _look_at_part(self, name: str, message: Message, raw: bytes, kept: set[bytes]) -> bool:
        """The same for one that is not remembered; it is from now on, if it is valid."""
        found = self._look(name, message)
        if found is None:
            found = not list(self._violated(name, raw))
        if found and len(raw) <= LONGEST_KEPT:
            if len(kept) >= MOST_KEPT:
                kept.clear()
            kept.add(raw)
        return found

    def _compile(self, name: str) -> _Rules:
        """The rules of a type. What an empty message breaks tells which fields have to be set."""
        kind = self._pool.FindMessageTypeByName(name)
        checks: dict[int, Check | None] = {}
        if not self._options(kind, "message"):
            checks = {field.number: self._check(field) for field in kind.fields}
        found = self._rules[name] = _Rules(checks, tuple(_numbers(kind, path) for path in self._violated(name, b"")))
        return found

    def _check(self, field: FieldDescriptor) -> Check | None:
        """What a field's rules say of its value; None where that is not plain."""
        rules = self._options(field, "field")
        if rules.pop("ignore", "") == _IGNORE_ALWAYS:
            return _PASS
        if field.is_repeated or field.message_type is not None:
            rules.pop("required", None)  # what is set keeps it
        if not field.is_repeated:
            return self._check_of_value(field, rules)
        of_list = dict(rules.pop("repeated", {}))
        of_items = dict(of_list.pop("items", {}))
        item = _PASS if of_items.pop("ignore", "") == _IGNORE_ALWAYS else self._check_of_value(field, of_items)
        count = _limits(of_list, ("min_items", "max_items"), int)
        if item is None or count is None or rules or _is_map(field):
            return None
        low, high = count
        return lambda values: low <= len(values) <= high and all(map(item, values))

    def _check_of_value(self, field: FieldDescriptor, rules: dict[str, Any]) -> Check | None:
        """The same for one value."""
        if not rules:
            return self._part(field.message_type.full_name) if field.message_type is not None else _PASS
        kind, plain = next(iter(rules.items()))
        if len(rules) > 1 or field.message_type is not None:
            return None
        if kind == "enum":
            return _among(field, plain)
        if kind == "string":
            return _within(_limits(plain, ("min_len", "max_len"), int), size=True)
        if kind == "double" or kind in _INTEGERS:
            return _within(_limits(plain, ("gte", "lte"), float if kind == "double" else int), size=False)
        return None

    def _options(self, of: FieldDescriptor | Descriptor, name: str) -> dict[str, Any]:
        """The rules in the options of a field or a type, as JSON; only the pool's own types know them."""
        options = of.GetOptions()
        kind = GetMessageClass(self._pool.FindMessageTypeByName(options.DESCRIPTOR.full_name))
        extension: Any = self._pool.FindExtensionByName(f"buf.validate.{name}")
        known = kind.FromString(options.SerializeToString())
        if not known.HasExtension(extension):
            return {}
        return MessageToDict(known.Extensions[extension], preserving_proto_field_name=True)


def _numbers(kind: Descriptor, path: str) -> frozenset[int]:
    """Fields of which one has to be set, by the name of a field or a oneof; none where a rule is about the whole."""
    if path in kind.oneofs_by_name:
        return frozenset(field.number for field in kind.oneofs_by_name[path].fields)
    return frozenset({kind.fields_by_name[path].number} if path in kind.fields_by_name else ())


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _among(field: FieldDescriptor, rules: dict[str, Any]) -> Check | None:
    """Whether a value of an enum is defined, and none that is excluded."""
    if field.enum_type is None or rules.keys() - {"defined_only", "not_in"} or not rules.get("defined_only"):
        return None
    allowed = {value.number for value in field.enum_type.values} - set(rules.get("not_in", ()))
    return allowed.__contains__


def _within(limits: tuple[float, float] | None, *, size: bool) -> Check | None:
    """Whether a number, or the length of a text, is within limits; None where these are not plain."""
    if limits is None:
        return None
    low, high = limits
    return (lambda text: low <= len(text) <= high) if size else (lambda number: low <= number <= high)


def _limits(rules: dict[str, Any], names: tuple[str, str], number: type[float]) -> tuple[float, float] | None:
    """Least and most, inclusive; None where the rules say more, or allow what is not between."""
    if rules.keys() - {*names, "gt", "lt"}:
        return None
    low = number(rules[names[0]]) if names[0] in rules else -math.inf
    high = number(rules[names[1]]) if names[1] in rules else math.inf
    if "gt" in rules:
        low = _next(number(rules["gt"]), 1)
    if "lt" in rules:
        high = _next(number(rules["lt"]), -1)
    return (low, high) if low <= high else None


def _next(number: float, direction: int) -> float:
    """The nearest number above (1) or below (-1)."""
    return number + direction if isinstance(number, int) else math.nextafter(number, direction * math.inf)
