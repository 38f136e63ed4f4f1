# SPDX-License-Identifier: Apache-2.0
"""Settings in which jobs differ, by RunSpec path, each with where its value comes from."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from finetree_api.trainer.v1 import comparison_pb2, job_pb2
from google.protobuf import json_format, struct_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

OURS = "finetree_api."


def differences(
    compared: Sequence[job_pb2.Job], environments: Sequence[Mapping[str, str]]
) -> Iterator[comparison_pb2.SettingDifference]:
    """Settings, commits of base models and environments that are not the same in all jobs, in the contract's order."""
    sources = [{each.field_path: each for each in job.train.setting_sources} for job in compared]
    found = [_facts(job, environment) for job, environment in zip(compared, environments, strict=True)]
    for path in dict.fromkeys(path for facts in found for path in facts):
        values = [facts.get(path) for facts in found]
        if path.startswith("environment.") and not all(environments):
            continue  # of a job that has not begun nothing is known
        if all(value == values[0] for value in values):
            continue
        difference = comparison_pb2.SettingDifference(field_path=path)
        for value, known in zip(values, sources, strict=True):
            source = known.get(path)
            difference.values.add(
                value=value,
                rule_id=source.rule_id if source is not None and value is not None else "",
                reason=source.reason if source is not None and value is not None else "",
            )
        yield difference


def _facts(job: job_pb2.Job, environment: Mapping[str, str]) -> dict[str, struct_pb2.Value]:
    facts = dict(leaves(job.train.spec))
    if job.base.revision:
        facts["base.revision"] = struct_pb2.Value(string_value=job.base.revision)
    for name in sorted(environment):
        facts[f"environment.{name}"] = struct_pb2.Value(string_value=environment[name])
    return facts


def leaves(message: Message, path: str = "") -> Iterator[tuple[str, struct_pb2.Value]]:
    """Every field that is set, by its path; lists, maps and messages of others are one value each."""
    for field, value in message.ListFields():
        where = f"{path}.{field.name}" if path else field.name
        nested = field.message_type
        if nested is not None and nested.full_name.startswith(OURS) and not field.is_repeated:
            below = list(leaves(value, where))
            # A message that is set and empty, such as a method with all defaults, is a setting too.
            yield from below or [(where, struct_pb2.Value(struct_value=struct_pb2.Struct()))]
        else:
            yield where, json_format.ParseDict(_plain(field, value), struct_pb2.Value())


def _plain(field: FieldDescriptor, value: Any) -> Any:
    if field.is_repeated:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            return {str(key): str(value[key]) for key in sorted(value)}
        return [_single(field, each) for each in value]
    return _single(field, value)


def _single(field: FieldDescriptor, value: Any) -> Any:
    if field.message_type is not None:
        return json_format.MessageToDict(value, preserving_proto_field_name=True)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known is not None else value
    return value if isinstance(value, bool | str | float) else float(value) if isinstance(value, int) else value.hex()
