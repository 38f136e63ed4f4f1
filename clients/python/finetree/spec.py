# SPDX-License-Identifier: Apache-2.0
"""Messages from dicts in strict proto JSON: an unknown key or a wrong value is refused, with its proto path."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from finetree_api.estimator.v1 import estimate_pb2
from finetree_api.recommender.v1 import recommendation_pb2
from finetree_api.trainer.v1 import job_pb2
from finetree_api.types.v1 import check_pb2, model_pb2, run_spec_pb2, training_data_pb2
from google.protobuf import duration_pb2, json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.type import money_pb2

from finetree.durations import parse_duration
from finetree.errors import InvalidSpec, Violation
from finetree.money import parse_money

M = TypeVar("M", bound=Message)
LEAVES = ("google.protobuf.", "google.rpc.", "google.type.")
"""Packages of messages whose JSON is parsed by protobuf itself, as a text, a number or an object."""


def spec_from_dict(data: Mapping[str, Any]) -> run_spec_pb2.RunSpec:
    """Make a RunSpec from the strict proto JSON of a job file.

    Args:
        data: keys as in the .proto (or in lowerCamelCase), enums by name, money also as "0.30 EUR", durations also as
            "8h", None for "not set".

    Raises:
        InvalidSpec: an unknown key, a value of the wrong type, two members of a oneof; `path` names the place.
    """
    return message_from_dict(run_spec_pb2.RunSpec, data)


def plan_of(
    answer: estimate_pb2.Estimate | recommendation_pb2.RecommendResponse,
    *,
    dataset_profile: training_data_pb2.DatasetProfile | None = None,
) -> run_spec_pb2.Plan:
    """Make the plan of an estimate or a recommendation, to be approved.

    Args:
        answer: what the estimator or the recommender answered.
        dataset_profile: the profile that the question gave; None means that it gave none.
    """
    spec = answer.resolved_spec if isinstance(answer, estimate_pb2.Estimate) else answer.spec
    return run_spec_pb2.Plan(
        spec=spec, dataset_profile=dataset_profile, revision=answer.revision, digest=answer.plan_digest
    )


def recommendation_of(answer: recommendation_pb2.RecommendResponse) -> job_pb2.JobRecommendation:
    """Take what a job keeps of a recommendation: for a TrainTask that is built by hand."""
    return job_pb2.JobRecommendation(
        method=answer.verdict.method,
        headline=answer.verdict.headline,
        summary=answer.summary,
        rule_pack=answer.revision.pack.id,
        rule_id=answer.verdict.rule_id,
        cautions=[check_pb2.Remark(code=each.code, message=each.message) for each in answer.cautions],
        revision=answer.revision,
    )


def kept_sources(
    sources: Iterable[check_pb2.SettingSource], recommended: run_spec_pb2.RunSpec, spec: run_spec_pb2.RunSpec
) -> list[check_pb2.SettingSource]:
    """Choose the reasons of a recommendation that hold for a spec which a caller has changed: those of equal values.

    Args:
        sources: where the recommended values come from.
        recommended: the spec with those values.
        spec: the spec that is to be trained. The trainer counts what has no source here as stated by the request.
    """
    return [each for each in sources if _equal(spec, recommended, each.field_path)]


def model_of(job: job_pb2.Job) -> model_pb2.ModelSource:
    """Take the base model of a job that trains, at the commit that the job used: a branch may have moved on since."""
    source = job.train.spec.model
    if job.base.revision and source.WhichOneof("source") in ("hub", "name"):
        return model_pb2.ModelSource(hub=model_pb2.HubModel(id=job.base.hub_id, revision=job.base.revision))
    return source


def message_from_dict(cls: type[M], data: Mapping[str, Any], *, prefix: str = "") -> M:
    """Make any message of the contract from its strict proto JSON; `prefix` begins the paths of errors.

    Raises:
        InvalidSpec: as for `spec_from_dict`.
    """
    message = cls()
    _fill(message, data, prefix)
    return message


def coerce(cls: type[M], value: M | Mapping[str, Any], *, prefix: str = "") -> M:
    """Return a message as it is, or make one from a dict.

    Raises:
        InvalidSpec: as for `spec_from_dict`, or the value is neither.
    """
    if isinstance(value, cls):
        return value
    return message_from_dict(cls, value, prefix=prefix)  # type: ignore[arg-type]  # what else it may be is refused there


def _equal(one: Any, other: Any, path: str) -> bool:
    """Tell whether two messages have the same value at a path; one that is not of plain fields counts as such."""
    for name in path.split("."):
        if not isinstance(one, Message) or name not in one.DESCRIPTOR.fields_by_name:
            return True
        one, other = getattr(one, name), getattr(other, name)
    return bool(one == other)


def _fill(message: Message, data: Any, path: str) -> None:
    if not isinstance(data, Mapping):
        raise _wrong(path, f"expected a mapping with the fields of {message.DESCRIPTOR.name}, got {_kind(data)}")
    chosen: dict[str, str] = {}
    for key, value in data.items():
        field = _field(message.DESCRIPTOR, key, path)
        where = _join(path, field.name)
        if value is None:
            continue
        if (group := field.containing_oneof) is not None and not group.name.startswith("_"):
            if group.name in chosen:
                raise _wrong(where, f"only one of {chosen[group.name]} and {field.name} may be given")
            chosen[group.name] = field.name
        _set(message, field, value, where)


def _field(descriptor: Any, key: Any, path: str) -> Any:
    field = descriptor.fields_by_name.get(key) or descriptor.fields_by_camelcase_name.get(key)
    if field is not None:
        return field
    names = [each.name for each in descriptor.fields]
    near = difflib.get_close_matches(str(key), names, 1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(names)}"
    raise _wrong(_join(path, str(key)), f"unknown key; {hint}")


def _set(message: Message, field: Any, value: Any, path: str) -> None:
    inner = field.message_type
    if inner is None or inner.GetOptions().map_entry or inner.full_name.startswith(LEAVES):
        _leaf(message, field, value, path)
    elif field.is_repeated:
        for index, each in enumerate(_items(value, path)):
            _fill(getattr(message, field.name).add(), each, f"{path}[{index}]")
    else:
        target = getattr(message, field.name)
        target.SetInParent()
        _fill(target, value, path)


def _items(value: Any, path: str) -> Sequence[Any]:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence):
        raise _wrong(path, f"expected a list, got {_kind(value)}")
    return value


def _leaf(message: Message, field: Any, value: Any, path: str) -> None:
    if field.is_repeated and field.message_type is None:
        for index, each in enumerate(_items(value, path)):
            _parse(message, field, [each], each, f"{path}[{index}]")
    else:
        _parse(message, field, value, value, path)


def _parse(message: Message, field: Any, content: Any, value: Any, path: str) -> None:
    if field.message_type is money_pb2.Money.DESCRIPTOR and isinstance(content, str):
        _parse_text(parse_money, getattr(message, field.name), content, path)
        return
    if field.message_type is duration_pb2.Duration.DESCRIPTOR and isinstance(content, str):
        _parse_text(parse_duration, getattr(message, field.name), content, path)
        return
    # Into a message of its own: ParseDict empties a list before it fills it.
    parsed = type(message)()
    try:
        json_format.ParseDict({field.name: content}, parsed)
    except (json_format.ParseError, TypeError, ValueError, AttributeError) as error:
        raise _wrong(path, f"{_expected(field)}, got {value!r}") from error
    if field.type in (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT) and not field.is_repeated:
        number = getattr(parsed, field.name)
        if not math.isfinite(number):
            raise _wrong(path, f"expected a finite number, got {value!r}")
    message.MergeFrom(parsed)


def _parse_text(parse: Callable[[str], Message], target: Any, text: str, path: str) -> None:
    try:
        target.CopyFrom(parse(text))
    except ValueError as error:
        raise _wrong(path, str(error)) from error


def _expected(field: Any) -> str:
    if field.enum_type is not None:
        names = [each.name for each in field.enum_type.values if each.number]
        return f"expected one of {', '.join(names)}"
    if field.message_type is money_pb2.Money.DESCRIPTOR:
        return "expected an amount with a currency, such as '50 USD'"
    if field.message_type is duration_pb2.Duration.DESCRIPTOR:
        return "expected a duration, such as '8h' or '3600s'"
    if field.message_type is not None:
        return f"expected a {field.message_type.name}"
    kinds = {
        FieldDescriptor.CPPTYPE_STRING: "text",
        FieldDescriptor.CPPTYPE_BOOL: "true or false",
        FieldDescriptor.CPPTYPE_DOUBLE: "a number",
        FieldDescriptor.CPPTYPE_FLOAT: "a number",
    }
    return f"expected {kinds.get(field.cpp_type, 'a whole number')}"


def _kind(value: Any) -> str:
    names = {str: "text", int: "a number", float: "a number", bool: "true or false", list: "a list", dict: "a mapping"}
    return names.get(type(value), "nothing" if value is None else type(value).__name__)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _wrong(path: str, text: str) -> InvalidSpec:
    message = f"{path}: {text}" if path else text
    return InvalidSpec(message, path=path, violations=(Violation(path, text),))
