# SPDX-License-Identifier: Apache-2.0
"""Every field of every request is bounded: no request of the allowed size has a meaning that nobody thought of.

The walk starts at the request message of each public rpc and visits every message that a request can hold.
finetree_api.worker.v1 is exempt: it is spoken between the trainer and workers of its own release, on a private socket.
"""

import re
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, OneofDescriptor

IMAGE = descriptor_pb2.FileDescriptorSet.FromString(files("finetree_api").joinpath("rules.binpb").read_bytes())
POOL = descriptor_pool.DescriptorPool()
for described in IMAGE.file:
    POOL.AddSerializedFile(described.SerializeToString())
message_factory.GetMessageClassesForFiles(["buf/validate/validate.proto"], POOL)
OURS = [POOL.FindFileByName(file.name) for file in IMAGE.file if file.package.startswith("finetree_api.")]
INTERNAL = "finetree_api.worker.v1"
METHODS = [
    method
    for file in OURS
    if file.package != INTERNAL
    for service in file.services_by_name.values()
    for method in service.methods
]

OPTIONAL_ONEOFS = {
    "finetree_api.estimator.v1.PolicyLimit.bound": "a fit has no bound; a rule of the message holds it to the metric",
    "finetree_api.types.v1.RunSpec.method": "the recommender's recipe may have none yet; who prices or trains refuses",
    "finetree_api.types.v1.Training.length": "unset means 3 epochs",
    "finetree_api.trainer.v1.ReadJobLogRequest.start": "unset means the first byte",
    "finetree_api.trainer.v1.WatchJobRequest.start": "unset means the beginning",
    "finetree_api.trainer.v1.WatchJobsRequest.start": "unset means the oldest change that is kept",
}
"""Oneofs of requests that may be unset, with what that means."""

WELL_KNOWN = {
    "google.protobuf.Timestamp": "timestamp",
    "google.protobuf.Duration": "duration",
    "google.type.Money": "money",
    "google.protobuf.FieldMask": "field_mask",
}
"""Messages of others that a request may hold, with the rules that bound them."""
NUMBERS = {
    FieldDescriptor.TYPE_DOUBLE: "double",
    FieldDescriptor.TYPE_FLOAT: "float",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_UINT32: "uint32",
    FieldDescriptor.TYPE_UINT64: "uint64",
}
REQUEST_ID_PATTERN = "^[!-~]*$"
REQUEST_ID_LENGTH = 128


def reachable() -> list[Descriptor]:
    """Every message of ours that a request can hold, the requests first."""
    found: dict[str, Descriptor] = {}
    waiting = [method.input_type for method in METHODS]
    while waiting:
        message = waiting.pop(0)
        if message.full_name in found or message.full_name in WELL_KNOWN:
            continue
        found[message.full_name] = message
        waiting += [field.message_type for field in message.fields if field.message_type is not None]
    return list(found.values())


MESSAGES = reachable()
FIELDS = [
    field for message in MESSAGES if not message.GetOptions().map_entry for field in message.fields
]  # entries of a map are bounded by its own rules


def rules_of(member: FieldDescriptor | OneofDescriptor) -> Any:
    """The rules of a field or oneof; empty where it has none. Only the image's own classes know the extensions."""
    kind = "Field" if isinstance(member, FieldDescriptor) else "Oneof"
    options = message_factory.GetMessageClass(POOL.FindMessageTypeByName(f"google.protobuf.{kind}Options"))
    known = options.FromString(member.GetOptions().SerializeToString())
    return known.Extensions[POOL.FindExtensionByName(f"buf.validate.{kind.lower()}")]  # type: ignore[index]


def is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def values(field: FieldDescriptor) -> Iterator[tuple[FieldDescriptor, Any]]:
    """What a field holds: itself, its elements, or its keys and its values; each with the rules that it is held to."""
    rules = rules_of(field)
    if is_map(field):
        entry = field.message_type.fields_by_name
        yield entry["key"], rules.map.keys
        yield entry["value"], rules.map.values
    else:
        yield field, rules.repeated.items if field.is_repeated else rules


def ends(rules: Any) -> tuple[bool, bool]:
    """Whether there is a lower and an upper bound."""
    return rules.WhichOneof("greater_than") is not None, rules.WhichOneof("less_than") is not None


def bounded_pattern(pattern: str) -> bool:
    """Whether no text of any length matches: the pattern is anchored, and no repetition in it is open."""
    bare = re.sub(r"\\.|\[\^?\]?[^\]]*\]", "x", pattern)
    return bare.startswith("^") and bare.endswith("$") and re.search(r"[*+]|\{\d*,\}", bare) is None


def unbounded() -> Iterator[str]:
    for field in FIELDS:
        rules = rules_of(field)
        if is_map(field):
            if not rules.map.HasField("max_pairs"):
                yield f"{field.full_name}: no max_pairs"
        elif field.is_repeated and not rules.repeated.HasField("max_items"):
            yield f"{field.full_name}: no max_items"
        for value, own in values(field):
            if value.type == FieldDescriptor.TYPE_STRING:
                text = own.string
                if not (text.HasField("max_len") or getattr(text, "in") or bounded_pattern(text.pattern)):
                    yield f"{field.full_name}: text of any length"
            if value.type == FieldDescriptor.TYPE_BYTES and not own.bytes.HasField("max_len"):
                yield f"{field.full_name}: bytes of any length"


def test_every_list_and_every_text_of_a_request_is_bounded():
    assert list(unbounded()) == []


def test_every_enum_of_a_request_takes_defined_values_only():
    wrong = [
        field.full_name
        for field in FIELDS
        for value, rules in values(field)
        if value.type == FieldDescriptor.TYPE_ENUM and not rules.enum.defined_only
    ]
    assert wrong == []


def test_every_number_of_a_request_has_both_ends():
    wrong = [
        field.full_name
        for field in FIELDS
        for value, rules in values(field)
        if (kind := NUMBERS.get(value.type)) is not None and ends(getattr(rules, kind)) != (True, True)
    ]
    assert wrong == []


def test_every_time_amount_and_mask_of_a_request_is_in_range():
    wrong = []
    for field in FIELDS:
        for value, rules in values(field):
            kind = WELL_KNOWN.get(value.message_type.full_name) if value.message_type is not None else None
            if kind == "money":
                wrong += [] if [rule.id for rule in rules.cel] == ["money"] else [field.full_name]
            elif kind == "field_mask":
                # How many paths, and each of them whole by an anchored pattern.
                expressions = [rule.expression for rule in rules.cel]
                bounded = any(
                    "paths.size() <=" in text and "paths.all(" in text and "$'" in text for text in expressions
                )
                wrong += [] if bounded else [field.full_name]
            elif kind is not None and ends(getattr(rules, kind)) != (True, True):
                wrong.append(field.full_name)
    assert wrong == []


def test_requests_hold_no_message_of_others_but_the_bounded_ones():
    assert [message.full_name for message in MESSAGES if not message.full_name.startswith("finetree_api.")] == []


def test_a_oneof_of_a_request_is_required_or_named_here_as_optional():
    oneofs = [oneof for message in MESSAGES for oneof in message.oneofs if not is_presence(oneof)]
    optional = {f"{oneof.containing_type.full_name}.{oneof.name}" for oneof in oneofs if not rules_of(oneof).required}
    assert optional == OPTIONAL_ONEOFS.keys()


def is_presence(oneof: OneofDescriptor) -> bool:
    """Whether it is the one that protoc makes of an `optional` field."""
    return len(oneof.fields) == 1 and oneof.name == f"_{oneof.fields[0].name}"


def test_every_call_that_writes_takes_a_request_id():
    without = []
    for method in METHODS:
        level = method.GetOptions().idempotency_level
        reads = level == descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS
        if reads or method.client_streaming or method.server_streaming:
            continue
        field = method.input_type.fields_by_name.get("request_id")
        text = rules_of(field).string if field is not None else None
        if text is None or (text.max_len, text.pattern) != (REQUEST_ID_LENGTH, REQUEST_ID_PATTERN):
            without.append(method.full_name)
    assert without == []


def test_zero_means_unspecified_in_every_enum():
    enums = [enum for file in OURS for enum in file.enum_types_by_name.values()]
    assert enums
    assert [enum.full_name for enum in enums if not enum.values_by_number[0].name.endswith("_UNSPECIFIED")] == []


def test_the_walk_meets_what_it_is_about():
    names = {field.full_name.removeprefix("finetree_api.") for field in FIELDS}
    assert {
        "types.v1.SettingSource.min",
        "types.v1.RunSpec.precision",
        "trainer.v1.JobTemplate.labels",
        "recommender.v1.RecommendRequest.max_duration",
        "estimator.v1.Observation.end_time",
        "types.v1.OwnedHardware.price_per_kwh",
    } <= names
    assert len(METHODS) > 30


@pytest.mark.parametrize(
    ("pattern", "bounded"),
    [
        ("^[a-z]{2,10}$", True),
        ("^(a|b)?$", True),
        ("^[*+]{3}\\+$", True),
        ("^[a-z]+$", False),
        ("^[a-z]*$", False),
        ("^[a-z]{3,}$", False),
        ("[a-z]{3}", False),
        ("", False),
    ],
)
def test_what_counts_as_a_bounded_pattern(pattern, bounded):
    assert bounded_pattern(pattern) is bounded
