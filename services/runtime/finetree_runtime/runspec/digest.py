# SPDX-License-Identifier: Apache-2.0
"""The digest of a plan: what was approved, whoever computes it and wherever."""

import hashlib
from functools import lru_cache
from typing import Any

from finetree_api.types.v1 import evidence_pb2 as ev
from finetree_api.types.v1 import run_spec_pb2 as rs
from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from finetree_runtime.runspec.naming import Names
from finetree_runtime.runspec.resolve import LONGEST_KEPT

_MODEL, _DATASET, _HARDWARE = (rs.RunSpec.DESCRIPTOR.fields_by_name[name] for name in ("model", "dataset", "hardware"))
_ACCELERATOR = rs.Hardware.DESCRIPTOR.fields_by_name["accelerator"]


def plan_digest(spec: rs.RunSpec, profile: rs.DatasetProfile | None, revision: ev.Revision) -> str:
    """Hash of a resolved spec, its dataset profile and the revisions: "sha256:" and 64 hex digits.

    The rule pack is left out: it decides which plan is proposed, not what the plan is, so a plan that a person wrote
    by hand and the same plan from a recommendation have the same digest. What was learned from observed runs is left
    out too: it changes with every run that ends, and no approval would outlive the next one.
    """
    return _digest(_text(spec), profile, revision_text(revision))


def settings_digest(settings: bytes, names: Names, profile: rs.DatasetProfile | None, revision: str) -> str:
    """The `plan_digest` of the `plan.named_spec`, whose text is put together instead: settings and names come again.

    `revision` is its `revision_text`. Names stand first in a spec (model, dataset) and in its hardware (accelerator).
    """
    before, hardware, after = _kept_settings(settings) if len(settings) <= LONGEST_KEPT else _settings_parts(settings)
    model, dataset, accelerator = names
    parts = [] if model is None else [_kept_part(_MODEL, model)]
    if dataset is not None:
        parts.append(_kept_part(_DATASET, dataset))
    parts += before
    if accelerator is not None:
        hardware = [f"{_ACCELERATOR.number}={accelerator!r}", *(hardware or ())]
    if hardware is not None:
        parts.append(f"{_HARDWARE.number}={{{','.join(hardware)}}}")
    return _digest(f"{{{','.join([*parts, *after])}}}", profile, revision)


def _digest(of_spec: str, profile: rs.DatasetProfile | None, revision: str) -> str:
    text = f"spec{of_spec};profile{'' if profile is None else _text(profile)};{revision}"
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def revision_text(revision: ev.Revision) -> str:
    """What a digest covers of a revision, for `settings_digest`."""
    return _revision_text(revision.SerializeToString())


@lru_cache(maxsize=16)
def _revision_text(raw: bytes) -> str:
    """The same of a revision's bytes; a service has one for days."""
    revision = ev.Revision.FromString(raw)
    return "".join(f"{name}{_text(getattr(revision, name))};" for name in ("engine", "catalogue", "price_book"))


def _settings_parts(settings: bytes) -> tuple[list[str], list[str] | None, list[str]]:
    """Texts of the fields before hardware, in it (None without any), and after it; those of names are left out."""
    spec = rs.RunSpec.FromString(settings)
    fields = [(field.number, _part(field, value)) for field, value in spec.ListFields()]
    before = [text for number, text in fields if number < _HARDWARE.number]
    after = [text for number, text in fields if number > _HARDWARE.number]
    if not spec.HasField("hardware"):
        return before, None, after
    if spec.hardware.WhichOneof("device") == "accelerator":
        spec.hardware.ClearField("accelerator")
    return before, _parts(spec.hardware), after


_kept_settings = lru_cache(maxsize=4096)(_settings_parts)


def _text(message: Message) -> str:
    """What is set in a message, by field number: the same text whatever process, version or library writes it.

    The contract's numbers never change their meaning. Protobuf's own bytes promise less, and its JSON takes longer.
    """
    return f"{{{','.join(_parts(message))}}}"


def _parts(message: Message) -> list[str]:
    return [_part(field, value) for field, value in message.ListFields()]


def _part(field: FieldDescriptor, value: Any) -> str:
    """The text of a field that is set."""
    if field.message_type is None:
        return f"{field.number}={list(value) if field.is_repeated else value!r}"
    if field.is_repeated:
        return f"{field.number}=[{','.join(map(_text, value))}]"
    return _kept_part(field, value.SerializeToString(deterministic=True))


@lru_cache(maxsize=4096)
def _kept_part(field: FieldDescriptor, raw: bytes) -> str:
    """The text of a field that holds a message, by its bytes: specs that are asked about in turn share most of them."""
    kind = field.message_type
    assert kind is not None  # noqa: S101  # it holds a message
    return f"{field.number}={_text(message_factory.GetMessageClass(kind).FromString(raw))}"
