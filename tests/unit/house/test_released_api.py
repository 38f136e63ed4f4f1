# SPDX-License-Identifier: Apache-2.0
"""The released contract: it changes only with its version, and no input it accepted is refused now.

`buf breaking` compares names, numbers and types; a rule that became stricter breaks a client just as well, so the
rules are compared here.
"""

import hashlib
import itertools
import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import protovalidate
import pytest
from finetree_api.estimator.v1 import check_plan_pb2
from finetree_api.trainer.v1 import job_pb2
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from packaging.version import Version

PROTOS = Path(__file__).resolve().parents[3] / "protos"
RULES = PROTOS / "gen" / "finetree_api" / "rules.binpb"
RELEASED = PROTOS / "released.binpb"
LOWER = {"gt", "gte", "min_len", "min_bytes", "min_items", "min_pairs"}
UPPER = {"lt", "lte", "max_len", "max_bytes", "max_items", "max_pairs"}
HARMLESS_ON_DEFAULT = {*UPPER, "defined_only", "unique", "ignore"}  # a field's default value passes each of these
LOOSENED = {
    "finetree_api.estimator.v1.PlanPolicy.: message.cel",
    "finetree_api.estimator.v1.PolicyLimit.: message.cel",
    "finetree_api.trainer.v1.ExportTask.: message.cel",
}
"""Rules that were written anew and refuse nothing that they accepted: a test below tries it."""
OF_ELEMENTS = re.compile(r"\.(items|keys|values)\.")  # an empty list or map has none


@dataclass
class Rules:
    """The rules of one message by member (`""` is the message itself), and which of its fields have presence."""

    by_member: dict[str, dict[str, Any]] = field(default_factory=dict)
    optional: set[str] = field(default_factory=set)


def read(image: bytes) -> dict[str, Rules]:
    """Every message of ours in an image, with the rules of its members."""
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(image).file:
        pool.AddSerializedFile(file.SerializeToString())
    # Parsed once more with the image's own classes: only they know the buf.validate extensions.
    described = message_factory.GetMessageClass(pool.FindMessageTypeByName("google.protobuf.FileDescriptorSet"))
    message_factory.GetMessageClassesForFiles(["buf/validate/validate.proto"], pool)
    found: dict[str, Rules] = {}
    for file in described.FromString(image).file:
        if file.package.startswith("finetree_api."):
            for message in file.message_type:
                found.update(walk(file.package, message))
    return found


def walk(scope: str, message: Any) -> Iterator[tuple[str, Rules]]:
    name = f"{scope}.{message.name}"
    rules = Rules({"": rules_of(message.options)})
    for member in message.field:
        rules.by_member[member.name] = rules_of(member.options)
        repeated = member.label == descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
        of_message = member.type == descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
        if not repeated and (of_message or member.HasField("oneof_index")):
            rules.optional.add(member.name)
    for choice in message.oneof_decl:
        rules.by_member[f"oneof {choice.name}"] = rules_of(choice.options)
    yield name, rules
    for nested in message.nested_type:
        yield from walk(name, nested)


def rules_of(options: Any) -> dict[str, Any]:
    """The buf.validate rules among a member's options, flat."""
    chosen = [(d, v) for d, v in options.ListFields() if d.full_name.startswith("buf.validate.")]
    return {path: value for descriptor, rules in chosen for path, value in flatten(rules, descriptor.name).items()}


def flatten(message: Any, path: str = "") -> dict[str, Any]:
    """A rule message as `{"string.max_len": 256}`; durations and timestamps as (seconds, nanos), lists as sets."""
    flat: dict[str, Any] = {}
    for descriptor, value in message.ListFields():
        here = f"{path}.{descriptor.name}" if path else descriptor.name
        if descriptor.is_repeated:
            flat[here] = frozenset(v.SerializeToString() if hasattr(v, "SerializeToString") else v for v in value)
        elif descriptor.message_type is None:
            flat[here] = value
        elif descriptor.message_type.full_name in {"google.protobuf.Duration", "google.protobuf.Timestamp"}:
            flat[here] = (value.seconds, value.nanos)
        else:
            flat |= flatten(value, here)
    return flat


def tightened(old: Mapping[str, Rules], new: Mapping[str, Rules]) -> list[str]:
    """Each rule of a released message that could refuse now what was accepted then."""
    found = []
    for name in old.keys() & new.keys():
        for member, rules in new[name].by_member.items():
            before = old[name].by_member.get(member)
            if before is None:
                worse = refuses_default(rules, optional=member in new[name].optional)
            else:
                worse = [rule for rule, value in rules.items() if stricter(rule, before.get(rule), value)]
            found += [f"{name}.{member}: {rule}" for rule in worse]
    return sorted(found)


def refuses_default(rules: Mapping[str, Any], *, optional: bool) -> list[str]:
    """Which rules of a field that an older client cannot know refuse a message without it."""
    if optional:
        return [rule for rule, value in rules.items() if rule.endswith("required") and value]
    return [rule for rule, value in rules.items() if not accepts_default(rule, value) and not OF_ELEMENTS.search(rule)]


def accepts_default(rule: str, value: Any) -> bool:
    """Whether an empty or zero value passes; a lower bound of at most zero lets zero through, a pattern may."""
    last = rule.rsplit(".", 1)[-1]
    if last == "pattern":
        return re.search(value, "") is not None
    return last in HARMLESS_ON_DEFAULT or (last == "gte" and not isinstance(value, tuple) and value <= 0)


def stricter(rule: str, before: Any, now: Any) -> bool:
    last = rule.rsplit(".", 1)[-1]
    if before is None:
        return now is not False and last not in {"ignore", "example"}
    if last in LOWER:
        return bool(now > before)
    if last in UPPER:
        return bool(now < before)
    if last == "in":
        return not now >= before
    if isinstance(now, frozenset):
        return not now <= before
    return bool(now != before and now is not False)


def test_the_released_image_is_the_one_its_version_names():
    record = json.loads((PROTOS / "released.json").read_text(encoding="utf-8"))
    digest = hashlib.sha256(RELEASED.read_bytes()).hexdigest()
    assert record["sha256"] == digest, "released.binpb changes only by `make release`, under a new version"


def test_the_released_version_is_not_ahead_of_the_distribution():
    record = json.loads((PROTOS / "released.json").read_text(encoding="utf-8"))
    project = tomllib.loads((PROTOS / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert Version(record["version"]) <= Version(project["version"])


def test_no_rule_of_the_released_contract_is_stricter_now():
    assert set(tightened(read(RELEASED.read_bytes()), read(RULES.read_bytes()))) == LOOSENED


def accepted(image: Path, name: str, messages: Iterable[bytes]) -> list[bool]:
    """Whether each message passes the rules of an image."""
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(image.read_bytes()).file:
        pool.AddSerializedFile(file.SerializeToString())
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName(name))
    validator = protovalidate.Validator()
    return [not validator.collect_violations(kind.FromString(each)) for each in messages]


def test_a_policy_that_the_released_rules_accept_is_accepted():
    money = {"max_money": {"units": 5, "currency_code": "USD"}}
    bounds = [{}, {"max": 0}, {"max": 5}, {"max": -1}, money, {"min_confidence": 0}, {"min_confidence": 2}]
    limits = [
        check_plan_pb2.PolicyLimit(metric=metric, severity=severity, **bound)
        for metric, severity, bound in itertools.product(range(10), range(5), bounds)
    ]
    policies = [
        check_plan_pb2.PlanPolicy(limits=pair)
        for size in range(3)
        for pair in itertools.product([each for each in limits if each.severity == 1], repeat=size)
    ]
    for name, messages in (("PolicyLimit", limits), ("PlanPolicy", policies)):
        raw = [message.SerializeToString() for message in messages]
        before, now = (accepted(image, f"finetree_api.estimator.v1.{name}", raw) for image in (RELEASED, RULES))
        assert sum(before) > 5
        assert not [message for message, old, new in zip(messages, before, now, strict=True) if old and not new]


def test_an_export_that_the_released_rules_accept_is_accepted():
    tasks = [
        job_pb2.ExportTask(artifact=name).SerializeToString()
        for name in ("", "a", "jobs/a/artifacts/b", "!", "a" * 300)
    ]
    before, now = (accepted(image, "finetree_api.trainer.v1.ExportTask", tasks) for image in (RELEASED, RULES))
    assert before == now == [False, True, True, False, False]


def test_both_images_carry_rules():
    for image in (RELEASED, RULES):
        members = [rules for message in read(image.read_bytes()).values() for rules in message.by_member.values()]
        assert sum(len(rules) for rules in members) > 50


@pytest.mark.parametrize(
    ("rule", "before", "now", "worse"),
    [
        ("string.max_len", 10, 9, True),
        ("string.max_len", 10, 11, False),
        ("string.max_len", None, 9, True),
        ("int32.gte", 1, 2, True),
        ("int32.gte", 2, 1, False),
        ("duration.lte", (10, 0), (9, 999), True),
        ("required", None, True, True),
        ("required", True, False, False),
        ("string.in", frozenset({"a"}), frozenset({"a", "b"}), False),
        ("string.in", frozenset({"a", "b"}), frozenset({"a"}), True),
        ("string.pattern", "a+", "b+", True),
        ("cel", frozenset({b"x"}), frozenset({b"x", b"y"}), True),
        ("cel", frozenset({b"x", b"y"}), frozenset({b"x"}), False),
    ],
)
def test_what_counts_as_stricter(rule, before, now, worse):
    assert stricter(rule, before, now) is worse


def test_a_tightened_bound_is_found_and_a_new_required_field_too():
    old = {"m": Rules({"": {}, "a": {"validate.field.string.max_len": 10}})}
    new = {
        "m": Rules(
            {"": {}, "a": {"validate.field.string.max_len": 9}, "b": {"required": True}, "c": {"string.max_len": 5}},
            optional={"b"},
        )
    }
    assert tightened(old, new) == ["m.a: validate.field.string.max_len", "m.b: required"]


def test_a_new_field_without_presence_must_accept_its_default():
    assert refuses_default({"string.min_len": 1, "string.max_len": 9}, optional=False) == ["string.min_len"]
    assert refuses_default({"string.pattern": "^([a-z]+)?$"}, optional=False) == []
    assert refuses_default({"string.pattern": "^[a-z]+$"}, optional=False) == ["string.pattern"]
    assert refuses_default({"string.min_len": 1, "string.max_len": 9}, optional=True) == []
    assert refuses_default({"int64.gte": 1, "int32.gt": 0}, optional=False) == ["int64.gte", "int32.gt"]
    assert refuses_default({"int64.gte": 0}, optional=False) == []
