# SPDX-License-Identifier: Apache-2.0
"""The rules of the contract, read from where the services have them, for requests to the fake suite.

finetree_api/rules.binpb comes with the stubs and holds the contract with its rules, which are data: bounds, lengths,
patterns. Reading them takes protobuf alone, so that a fake refuses what a service refuses without a validation library
in the SDK's closure. Rules that are expressions are few, and stand in `EXPRESSIONS` by their id; an unknown one, like
an unknown kind of rule, is an error here and not a request that passes.
"""

from __future__ import annotations

import functools
import math
import re
import threading
from collections.abc import Callable, Iterator
from importlib import resources
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from finetree.errors import InvalidArgument, Violation

PACKAGE = "finetree_api."
_IGNORE_ALWAYS = 3
_POOL_LOCK = threading.Lock()
_NUMBERS = ("int32", "int64", "double")
_CURRENCY = re.compile("[A-Z]{3}")
_BOUND_WORDS = {
    "gt": "greater than",
    "gte": "greater than or equal to",
    "lt": "less than",
    "lte": "less than or equal to",
}


def require_valid(message: Message) -> None:
    """Raise unless a request keeps the rules of the contract.

    Raises:
        InvalidArgument: INVALID_REQUEST with a violation for each broken rule.
    """
    violations = tuple(violations_of(message))
    if violations:
        more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
        raise InvalidArgument(f"{violations[0]}{more}", reason="INVALID_REQUEST", violations=violations)


def violations_of(message: Message, path: str = "") -> Iterator[Violation]:
    """Every broken rule of a message; `path` is what the field paths begin with."""
    ruled = _class(message.DESCRIPTOR.full_name).FromString(message.SerializeToString())
    yield from _message(ruled, path)


def _money(money: Any) -> bool:
    whole = 0 <= money.units <= 10**12 and 0 <= money.nanos <= 999_999_999
    return bool(whole and _CURRENCY.fullmatch(money.currency_code))


def _metric_bound(limit: Any) -> bool:
    has = limit.HasField
    if limit.metric in (1, 2):
        return bool(has("max_money") or has("max_increase"))
    if limit.metric == 7:
        return not any(map(has, ("max", "max_money", "min_confidence", "names", "max_increase")))
    if limit.metric == 8:
        return bool(has("min_confidence"))
    if limit.metric in (11, 12, 13, 14):
        return bool(has("names"))
    return bool(has("max") or has("max_increase"))


def _different_limits(policy: Any) -> bool:
    names = [each.rule_id or f"{each.metric}{'+' if each.HasField('max_increase') else ''}" for each in policy.limits]
    return len(names) == len(set(names))


_MASK_PATH = re.compile(r"display_name|(labels|annotations)(\.[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?)?")


def _job_mask(mask: Any) -> bool:
    return len(mask.paths) <= 256 and all(map(_MASK_PATH.fullmatch, mask.paths))


EXPRESSIONS: dict[str, Callable[[Any], bool]] = {
    "money": _money,
    "policy_limit.bound": _metric_bound,
    "plan_policy.metrics": _different_limits,
    "name_limit.some": lambda names: bool(names.allowed or names.denied),
    "update_job.mask": _job_mask,
    "export_task.subject": lambda task: bool(task.artifact) != task.HasField("weights"),
    "prepare_task.subject": lambda task: task.HasField("model") or task.HasField("dataset"),
    "serve_target.name": lambda name: name != "base",
    "serve_task.targets": lambda targets: len({target.name for target in targets}) == len(targets),
}
"""The contract's rules that are expressions, by their id."""


def _message(message: Any, path: str) -> Iterator[Violation]:
    rules = _rules(message.DESCRIPTOR.full_name)
    for rule in rules.message:
        if not EXPRESSIONS[rule.id](message):
            yield Violation(path or "request", rule.message)
    for name in rules.oneofs:
        if message.WhichOneof(name) is None:
            yield Violation(_join(path, name), "exactly one field is required in oneof")
    for field in message.DESCRIPTOR.fields:
        yield from _field(message, field, rules.fields.get(field.name), _join(path, field.name))


def _field(message: Any, field: FieldDescriptor, rules: Any, path: str) -> Iterator[Violation]:
    value = getattr(message, field.name)
    if rules is not None and rules.required and not _is_set(message, field):
        yield Violation(path, "value is required")
        return
    if field.has_presence and not message.HasField(field.name):
        return
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        yield from _map(field, value, rules, path)
    elif field.is_repeated:
        yield from _list(field, value, rules, path)
    else:
        yield from _value(field, value, rules, path)


def _is_set(message: Any, field: FieldDescriptor) -> bool:
    if field.is_repeated:
        return bool(getattr(message, field.name))
    if field.has_presence:
        return bool(message.HasField(field.name))
    return bool(getattr(message, field.name) != field.default_value)


def _list(field: FieldDescriptor, values: Any, rules: Any, path: str) -> Iterator[Violation]:
    items = None
    if rules is not None:
        repeated = rules.repeated
        if repeated.min_items > len(values):
            yield Violation(path, f"must contain at least {repeated.min_items} item(s)")
        if repeated.HasField("max_items") and len(values) > repeated.max_items:
            yield Violation(path, f"must contain no more than {repeated.max_items} item(s)")
        if repeated.unique and len(set(values)) < len(values):
            yield Violation(path, "repeated value must contain unique items")
        yield from _expressions(values, rules, path)
        items = repeated.items if repeated.HasField("items") else None
    for index, each in enumerate(values):
        yield from _value(field, each, items, f"{path}[{index}]")


def _map(field: FieldDescriptor, values: Any, rules: Any, path: str) -> Iterator[Violation]:
    entry: Any = field.message_type
    if rules is not None and rules.map.HasField("max_pairs") and len(values) > rules.map.max_pairs:
        yield Violation(path, f"map must be at most {rules.map.max_pairs} entries")
    pairs = rules.map if rules is not None else None
    for key in values:
        where = f'{path}["{key}"]' if isinstance(key, str) else f"{path}[{key}]"
        if pairs is not None and pairs.HasField("keys"):
            yield from _value(entry.fields_by_name["key"], key, pairs.keys, where)
        of_value = pairs.values if pairs is not None and pairs.HasField("values") else None
        yield from _value(entry.fields_by_name["value"], values[key], of_value, where)


def _value(field: FieldDescriptor, value: Any, rules: Any, path: str) -> Iterator[Violation]:
    if rules is not None:
        if rules.ignore == _IGNORE_ALWAYS:
            return
        yield from _expressions(value, rules, path)
        kind = rules.WhichOneof("type")
        if kind is not None:
            yield from _standard(kind, field, value, getattr(rules, kind), path)
    if field.message_type is not None and field.message_type.full_name.startswith(PACKAGE):
        yield from _message(value, path)


def _expressions(value: Any, rules: Any, path: str) -> Iterator[Violation]:
    for rule in rules.cel:
        if not EXPRESSIONS[rule.id](value):
            yield Violation(path, rule.message)


def _standard(kind: str, field: FieldDescriptor, value: Any, rules: Any, path: str) -> Iterator[Violation]:
    if kind in _NUMBERS:
        yield from _bounds(value, rules, path, shown=lambda bound: f"{bound:g}" if kind == "double" else str(bound))
    elif kind in ("duration", "timestamp"):
        yield from _bounds(_nanos(value), rules, path, shown=lambda bound: f"{bound / 1e9:g}s", read=_nanos)
    elif kind == "string":
        yield from _text(value, rules, path)
    elif kind == "bytes":
        if rules.HasField("max_len") and len(value) > rules.max_len:
            yield Violation(path, f"must be at most {rules.max_len} bytes")
    elif kind == "enum":
        yield from _enum(field, value, rules, path)
    else:
        raise NotImplementedError(f"{path}: the contract has rules of kind {kind}, which the fake suite cannot read")


def _bounds(
    value: Any, rules: Any, path: str, *, shown: Callable[[Any], str], read: Callable[[Any], Any] = lambda bound: bound
) -> Iterator[Violation]:
    tests = {
        "gt": lambda bound: value > bound,
        "gte": lambda bound: value >= bound,
        "lt": lambda bound: value < bound,
        "lte": lambda bound: value <= bound,
    }
    stated = {name: read(getattr(rules, name)) for name in tests if rules.HasField(name)}
    nonsense = isinstance(value, float) and math.isnan(value)
    if nonsense or not all(tests[name](bound) for name, bound in stated.items()):
        words = (f"{_BOUND_WORDS[name]} {shown(bound)}" for name, bound in stated.items())
        yield Violation(path, f"must be {' and '.join(words)}")


def _text(value: str, rules: Any, path: str) -> Iterator[Violation]:
    if rules.HasField("min_len") and len(value) < rules.min_len:
        yield Violation(path, f"must be at least {rules.min_len} characters")
    if rules.HasField("max_len") and len(value) > rules.max_len:
        yield Violation(path, f"must be at most {rules.max_len} characters")
    if rules.HasField("pattern") and _pattern(rules.pattern).search(value) is None:
        yield Violation(path, f"does not match regex pattern `{rules.pattern}`")


def _enum(field: FieldDescriptor, value: int, rules: Any, path: str) -> Iterator[Violation]:
    kind: Any = field.enum_type
    if rules.defined_only and value not in kind.values_by_number:
        yield Violation(path, "value must be one of the defined enum values")
    if value in rules.not_in:
        yield Violation(path, f"must not be in list {list(rules.not_in)}")


def _nanos(value: Any) -> int:
    return int(value.seconds * 10**9 + value.nanos)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


@functools.cache
def _pattern(text: str) -> re.Pattern[str]:
    # The contract's "$" is the end of the text; Python's also stands before a last line feed.
    return re.compile(text[:-1] + r"\Z" if text.endswith("$") else text)


class _Rules:
    """Rules of a message: its own, those of its oneofs, and those of its fields by name."""

    def __init__(self, descriptor: Descriptor) -> None:
        def options(subject: Any, extension: str) -> Any:
            found = subject.GetOptions()
            kind = _pool().FindExtensionByName(f"buf.validate.{extension}")
            ruled = _options(found.DESCRIPTOR.full_name).FromString(found.SerializeToString())
            return ruled.Extensions[kind] if ruled.HasExtension(kind) else None

        own = options(descriptor, "message")
        self.message = list(own.cel) if own is not None else []
        self.oneofs = [each.name for each in descriptor.oneofs if getattr(options(each, "oneof"), "required", False)]
        found = {field.name: options(field, "field") for field in descriptor.fields}
        self.fields = {name: rules for name, rules in found.items() if rules is not None}


@functools.cache
def _rules(full_name: str) -> _Rules:
    return _Rules(_pool().FindMessageTypeByName(full_name))


def _pool() -> descriptor_pool.DescriptorPool:
    # Threads that ask at once must get one pool: extensions of another one do not match.
    with _POOL_LOCK:
        return _load_pool()


@functools.cache
def _load_pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    image = resources.files("finetree_api").joinpath("rules.binpb").read_bytes()
    for file in descriptor_pb2.FileDescriptorSet.FromString(image).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


@functools.cache
def _class(full_name: str) -> type[Message]:
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(full_name))


@functools.cache
def _options(full_name: str) -> Any:
    """The class of options that knows the extensions of the pool."""
    return _class(full_name)
