# SPDX-License-Identifier: Apache-2.0
"""The settings of a RunSpec that a sweep varies: found by their path, set from proto JSON's values."""

from typing import Any

from finetree_api.trainer.v1 import job_pb2, sweep_pb2
from finetree_api.types.v1 import check_pb2, run_spec_pb2
from finetree_runtime.errors import invalid_field
from finetree_runtime.server.validation import validate
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

_WHOLE = frozenset(
    {
        FieldDescriptor.CPPTYPE_INT32,
        FieldDescriptor.CPPTYPE_INT64,
        FieldDescriptor.CPPTYPE_UINT32,
        FieldDescriptor.CPPTYPE_UINT64,
    }
)
_DECIMAL = frozenset({FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT})
_FIXED = {
    "hardware": "where a trial runs is not what a sweep compares",
    "dataset": "the data decide what is compared, so they are the same for all trials",
    "evaluation": "what is measured must be the same for all trials",
    "program": "a job has one program, this suite's worker",
    "ownership": "it changes the price and nothing of the result",
}
"""Parts of a RunSpec that trials share, and why."""


def field_of(path: str, field_path: str) -> FieldDescriptor:
    """Return the field of RunSpec at a path.

    Raises InvalidArgument INVALID_REQUEST: there is none, it is no single value, or trials share it. `field_path` is
    where the request names it.
    """
    first, *_ = names = path.split(".")
    if first in _FIXED:
        raise invalid_field(field_path, f"{first} cannot differ between trials: {_FIXED[first]}")
    descriptor = run_spec_pb2.RunSpec.DESCRIPTOR
    for place, name in enumerate(names[:-1], start=1):
        field = _named(descriptor, name, ".".join(names[: place - 1]), field_path)
        if field.message_type is None or field.is_repeated:
            raise invalid_field(field_path, f"{'.'.join(names[:place])} has no fields of its own")
        descriptor = field.message_type
    field = _named(descriptor, names[-1], ".".join(names[:-1]), field_path)
    if field.is_repeated or field.message_type is not None:
        raise invalid_field(field_path, f"{path} is no single value; name one of its fields")
    return field


def _named(descriptor: Descriptor, name: str, parent: str, field_path: str) -> FieldDescriptor:
    field = descriptor.fields_by_name.get(name)
    if field is None:
        known = ", ".join(sorted(descriptor.fields_by_name))
        raise invalid_field(field_path, f"{parent or 'a RunSpec'} has no field {name!r}; it has {known}")
    return field


def is_whole(path: str, field_path: str) -> bool:
    """Return whether a setting is a whole number. Raises InvalidArgument where it is no number, and as `field_of`."""
    field = field_of(path, field_path)
    if field.cpp_type not in _WHOLE | _DECIMAL:
        raise invalid_field(field_path, f"{path} is no number, so it has no range; list its values")
    return field.cpp_type in _WHOLE


def apply(
    job: job_pb2.JobTemplate, parameters: list[sweep_pb2.SweepParameter], values: tuple[sweep_pb2.SweepValue, ...]
) -> job_pb2.JobTemplate:
    """Copy a job's template and set the values of one trial in its spec; a method's setting chooses the method.

    Raises InvalidArgument INVALID_REQUEST for a value that its setting cannot have: the rules of the contract, which a
    job's request is held against, hold for the values of a trial too.
    """
    changed = job_pb2.JobTemplate()
    changed.CopyFrom(job)
    for place, (parameter, value) in enumerate(zip(parameters, values, strict=True)):
        _set(changed.train.spec, parameter.field_path, value, f"sweep.parameters[{place}]")
    validate(changed.train.spec, path="job.train.spec")
    return changed


def _set(spec: Message, path: str, value: sweep_pb2.SweepValue, field_path: str) -> None:
    document: Any = plain(value)
    for name in reversed(path.split(".")):
        document = {name: document}
    try:
        # One message at a time: what else the spec has stays as it is.
        json_format.ParseDict(document, spec)
    except json_format.ParseError:
        raise invalid_field(field_path, f"{path} cannot be {shown(value)}") from None


def plain(value: sweep_pb2.SweepValue) -> float | str | bool:
    """Return a value as JSON has it."""
    kind = value.WhichOneof("kind") or "number"
    found: float | str | bool = getattr(value, kind)
    return found


def shown(value: sweep_pb2.SweepValue) -> str:
    """Return a value as a person writes it, for example "8" or "OPTIMIZER_ADAMW"."""
    found = plain(value)
    if isinstance(found, bool):
        return str(found).lower()
    return f"{found:.12g}" if isinstance(found, float) else found


def to_patch(path: str, value: sweep_pb2.SweepValue) -> check_pb2.SpecPatch:
    """Return a value as the change of a spec that a trial is."""
    patch, found = check_pb2.SpecPatch(field_path=path), plain(value)
    if isinstance(found, bool):
        patch.value.bool_value = found
    elif isinstance(found, str):
        patch.value.string_value = found
    else:
        patch.value.number_value = found
    return patch


def from_patch(patch: check_pb2.SpecPatch) -> sweep_pb2.SweepValue:
    """Return the value that a trial was given."""
    value = patch.value
    match value.WhichOneof("kind"):
        case "string_value":
            return sweep_pb2.SweepValue(text=value.string_value)
        case "bool_value":
            return sweep_pb2.SweepValue(truth=value.bool_value)
    return sweep_pb2.SweepValue(number=value.number_value)
