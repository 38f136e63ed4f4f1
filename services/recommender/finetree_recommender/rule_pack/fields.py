# SPDX-License-Identifier: Apache-2.0
"""Fields of a RunSpec by path, with enum values by name."""

from typing import Any

from finetree_api.types.v1 import run_spec_pb2
from google.protobuf.descriptor import FieldDescriptor

from finetree_recommender.method import Method
from finetree_recommender.rule_pack.schema.recipe import Value

_INTEGERS = (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_INT32)


def path_for(knob: str, method: Method) -> str:
    """RunSpec path of a knob; LoRA's settings are one level deeper under QLoRA."""
    return f"qlora.{knob}" if method is Method.QLORA and knob.startswith("lora.") else knob


def assign(spec: run_spec_pb2.RunSpec, path: str, value: Value) -> None:
    """Set a field.

    Raises:
        ValueError: There is no such field, or the value is not one of its enum.
        TypeError: The value has another type than the field.
    """
    target, name = _locate(spec, path)
    field = target.DESCRIPTOR.fields_by_name.get(name)
    if field is None:
        raise ValueError(f"RunSpec has no field {path!r}")
    setattr(target, name, _as_field(field, value))


def value_of(spec: run_spec_pb2.RunSpec, path: str) -> Any:
    """Value of a field."""
    target, name = _locate(spec, path)
    return getattr(target, name)


def _locate(spec: run_spec_pb2.RunSpec, path: str) -> tuple[Any, str]:
    *parents, name = path.split(".")
    target: Any = spec
    for parent in parents:
        field = target.DESCRIPTOR.fields_by_name.get(parent)
        if field is None or field.message_type is None:
            raise ValueError(f"RunSpec has no field {path!r}")
        target = getattr(target, parent)
    return target, name


def _as_field(field: FieldDescriptor, value: Value) -> Any:
    if field.enum_type is not None:
        if value not in field.enum_type.values_by_name:
            raise ValueError(f"{value!r} is none of {', '.join(field.enum_type.values_by_name)}")
        return field.enum_type.values_by_name[str(value)].number
    if field.cpp_type in _INTEGERS and isinstance(value, float):
        if value != int(value):
            raise TypeError(f"{value!r} is not a whole number")
        return int(value)
    return value
