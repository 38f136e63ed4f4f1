# SPDX-License-Identifier: Apache-2.0
"""JSON Schema of job files, from the contract: its messages, its validation rules and its comments.

The schema is for editors and other tools, and describes what `yaml_reader` reads: enum names in short form, durations
and amounts of money as text. Rules between fields are left to the services.
"""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from finetree_cli.jobfile.job import TEMPLATE_KEYS
from finetree_cli.jobfile.yaml_scalars import ALSO, enum_prefix, short_word

JsonObject = dict[str, Any]
DRAFT = "https://json-schema.org/draft/2020-12/schema"
TEMPLATE = "finetree_api.trainer.v1.JobTemplate"
SPEC = "finetree_api.types.v1.RunSpec"
MONEY_PATTERN = r"^(-?([0-9]+(\.[0-9]+)?|\.[0-9]+) ?[A-Z]{3}|[A-Z]{3} ?-?([0-9]+(\.[0-9]+)?|\.[0-9]+))$"
DURATION_PATTERN = r"^([0-9]+(\.[0-9]+)? ?(min|[dhms]) ?)+$"
NUMBER_PATTERN = r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?$"
WELL_KNOWN: dict[str, JsonObject] = {
    "google.protobuf.Duration": {"type": "string", "pattern": DURATION_PATTERN, "examples": ["8h", "1h30m"]},
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Value": {},
    "google.protobuf.Struct": {"type": "object"},
    "google.type.Money": {"type": "string", "pattern": MONEY_PATTERN, "examples": ["50 USD"]},
}
"""Messages that a file writes in a form of their own."""
_BOUNDS = {"gte": "minimum", "lte": "maximum", "gt": "exclusiveMinimum", "lt": "exclusiveMaximum"}
_LENGTHS = {"min_len": "minLength", "max_len": "maxLength", "pattern": "pattern"}
_COUNTS = {"min_items": "minItems", "max_items": "maxItems"}
_PAIRS = {"min_pairs": "minProperties", "max_pairs": "maxProperties"}
_Field = descriptor_pb2.FieldDescriptorProto
_FLOATS = {_Field.TYPE_DOUBLE, _Field.TYPE_FLOAT}


def job_schema() -> JsonObject:
    """Return the JSON Schema (draft 2020-12) of a job file: a JobTemplate, or a RunSpec alone."""
    contract = _Contract.read()
    definitions: JsonObject = {}
    template, spec = (contract.reference(name, definitions) for name in (TEMPLATE, SPEC))
    return {
        "$schema": DRAFT,
        "title": "finetree job file",
        "description": "A fine-tuning run (RunSpec), or a job around it (JobTemplate).",
        "type": "object",
        "if": {"anyOf": [{"required": [key]} for key in sorted(TEMPLATE_KEYS - {"spec"})]},
        "then": template,
        "else": spec,
        "$defs": dict(sorted(definitions.items())),
    }


@dataclass(slots=True)
class _Contract:
    """Messages and enums of the contract with their rules, by full name, and the comments of the .proto files."""

    messages: dict[str, Any] = field(default_factory=dict)
    enums: dict[str, Any] = field(default_factory=dict)
    comments: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls) -> "_Contract":
        """Read the contract that is installed."""
        package = resources.files("finetree_api")
        image = package.joinpath("rules.binpb").read_bytes()
        pool = descriptor_pool.DescriptorPool()
        for file in descriptor_pb2.FileDescriptorSet.FromString(image).file:
            pool.AddSerializedFile(file.SerializeToString())
        # Parsed once more with the image's own classes: only they know the buf.validate extensions.
        described = message_factory.GetMessageClass(pool.FindMessageTypeByName("google.protobuf.FileDescriptorSet"))
        message_factory.GetMessageClassesForFiles(["buf/validate/validate.proto"], pool)
        found = cls(comments=json.loads(package.joinpath("comments.json").read_text(encoding="utf-8")))
        files: Any = described.FromString(image)
        for file in files.file:
            for message in file.message_type:
                found.messages.update(_nested(file.package, message))
            found.enums.update({f"{file.package}.{enum.name}": enum for enum in file.enum_type})
        return found

    def reference(self, name: str, definitions: JsonObject) -> JsonObject:
        """Describe a message once among the definitions, and refer to it."""
        if name in WELL_KNOWN:
            return dict(WELL_KNOWN[name])
        short = name.rpartition(".")[2]
        if short not in definitions:
            definitions[short] = {}
            definitions[short] = self._message(name, definitions)
        return {"$ref": f"#/$defs/{short}"}

    def _message(self, name: str, definitions: JsonObject) -> JsonObject:
        message = self.messages[name]
        required = [each.name for each in message.field if _rules(each.options).get("required")]
        found: JsonObject = {
            "description": self.comments.get(name, ""),
            "type": "object",
            "properties": {each.name: self._field(name, each, definitions) for each in message.field},
            "additionalProperties": False,
        }
        if required:
            found["required"] = required
        choices = list(_choices(message))
        if choices:
            found["allOf"] = choices
        return found

    def _field(self, owner: str, item: Any, definitions: JsonObject) -> JsonObject:
        rules = _rules(item.options)
        kind = self.messages.get(item.type_name.removeprefix("."))
        comment = self.comments.get(f"{owner}.{item.name}", "")
        if kind is not None and kind.options.map_entry:
            value = self._value(kind.field[1], rules.get("map", {}).get("values", {}), definitions)
            found: JsonObject = {"type": "object", "additionalProperties": value}
            found |= _renamed(rules.get("map", {}), _PAIRS)
        elif item.label == _Field.LABEL_REPEATED:
            listed = rules.get("repeated", {})
            value = self._value(item, listed.get("items", {}), definitions)
            found = {"type": "array", "items": value, **_renamed(listed, _COUNTS)}
        else:
            found = self._value(item, rules, definitions)
        return {"description": comment, **found} if comment else found

    def _value(self, item: Any, rules: JsonObject, definitions: JsonObject) -> JsonObject:
        """Describe one value of a field."""
        if item.type == _Field.TYPE_MESSAGE:
            return self.reference(item.type_name.removeprefix("."), definitions)
        if item.type == _Field.TYPE_ENUM:
            return self._enum(item.type_name.removeprefix("."))
        if item.type == _Field.TYPE_BOOL:
            return {"type": "boolean"}
        if item.type == _Field.TYPE_STRING:
            return {"type": "string", **_renamed(rules.get("string", {}), _LENGTHS)}
        bounds = _renamed(rules.get(_Field.Type.Name(item.type).removeprefix("TYPE_").lower(), {}), _BOUNDS)
        if item.type in _FLOATS:
            # YAML 1.1 takes 5e-4 for text.
            return {"type": ["number", "string"], "pattern": NUMBER_PATTERN, **bounds}
        return {"type": "integer", **bounds}

    def _enum(self, name: str) -> JsonObject:
        """Describe an enum: its words, which editors offer, or other forms that are read: the contract's names."""
        names = [value.name for value in self.enums[name].value if value.number]
        prefix, also = enum_prefix(names), ALSO.get(name, {})
        plain = [short_word(value, prefix) for value in names]
        words = [next((usual for usual, other in also.items() if other == word), word) for word in plain]
        texts = [self.comments.get(f"{name}.{value}", "") for value in names]
        read = (*names, *also, *plain, *(word.replace("-", "_") for word in plain))
        others = [word for word in dict.fromkeys(read) if word not in words]
        return {"anyOf": [{"enum": words, "enumDescriptions": texts}, {"enum": others}]}


def _nested(scope: str, message: Any) -> Iterator[tuple[str, Any]]:
    name = f"{scope}.{message.name}"
    yield name, message
    for inner in message.nested_type:
        yield from _nested(name, inner)


def _choices(message: Any) -> Iterator[JsonObject]:
    """Describe the oneofs of a message: no two of their members, and one of them where the contract requires it."""
    for number, choice in enumerate(message.oneof_decl):
        members = [
            each.name
            for each in message.field
            if each.HasField("oneof_index") and each.oneof_index == number and not each.proto3_optional
        ]
        for one, other in itertools.combinations(members, 2):
            yield {"not": {"required": [one, other]}}
        if members and _rules(choice.options).get("required"):
            yield {"anyOf": [{"required": [member]} for member in members]}


def _rules(options: Any) -> JsonObject:
    """Return the buf.validate rules of a field or oneof as plain values."""
    for descriptor, rules in options.ListFields():
        if descriptor.full_name in ("buf.validate.field", "buf.validate.oneof"):
            return _plain(rules)
    return {}


def _plain(message: Any) -> JsonObject:
    return {
        descriptor.name: _plain(value) if descriptor.message_type is not None and not descriptor.is_repeated else value
        for descriptor, value in message.ListFields()
    }


def _renamed(rules: JsonObject, names: dict[str, str]) -> JsonObject:
    return {names[rule]: value for rule, value in rules.items() if rule in names}
