# SPDX-License-Identifier: Apache-2.0
"""What a plan is: a spec with the suite's defaults in it.

The recommender, the estimator and the trainer never import each other, yet must agree on what an unset field means.
That agreement lives here; that on which settings exclude each other, in `combinations`.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Literal, NamedTuple, TypeVar

from finetree_api.types.v1 import evidence_pb2 as ev
from finetree_api.types.v1 import run_spec_pb2 as rs
from google.protobuf import json_format
from google.protobuf.message import Message

from finetree_runtime.runspec.defaults import UNKNOWN_SEQUENCE_LENGTH, Default, defaults_for, suggested_sequence_length

NAMES: tuple[Literal["model"], Literal["dataset"]] = ("model", "dataset")
"""Fields of a RunSpec, its first, that say what is trained and not how."""
LONGEST_KEPT = 4096
"""Bytes of settings up to which what follows from them is kept: a few hundred are usual, long texts come once."""

_Made = TypeVar("_Made")


@dataclass(frozen=True, slots=True)
class Resolved:
    """A run with every default filled in."""

    spec: rs.RunSpec
    """A copy; the request's own message is never changed."""
    sources: tuple[ev.SettingSource, ...]
    """One entry for every value that was set or filled in, in field order; kept, so whoever takes one copies it."""


def resolve_spec(spec: rs.RunSpec, *, profile: rs.DatasetProfile | None = None, positions: int = 0) -> Resolved:
    """Fill in every unset field that matters.

    `profile` sizes the sequence length when the spec leaves it open, `positions` (the longest sequence of the model in
    tokens, 0 when unknown) limits it. A spec without a method stays without one: choosing it is the recommender's work,
    refusing it the caller's.
    """
    bare = bare_of(spec, profile=profile, positions=positions)
    settings, sources = resolution_of(bare)
    return Resolved(named_spec(settings, spec), (*map(given, named_paths(spec)), *sources))


def resolved_spec(spec: rs.RunSpec, *, profile: rs.DatasetProfile | None = None, positions: int = 0) -> rs.RunSpec:
    """The spec of `resolve_spec` alone: most of its time goes into saying where each value comes from."""
    return named_spec(resolved_settings(spec, profile=profile, positions=positions), spec)


def resolved_settings(spec: rs.RunSpec, *, profile: rs.DatasetProfile | None = None, positions: int = 0) -> bytes:
    """A resolved spec without the names in it (model, dataset, accelerator), as bytes of the wire.

    Specs that differ in nothing else have the same ones, so that what follows from settings can be kept by them.
    """
    return settings_of(bare_of(spec, profile=profile, positions=positions))


class Bare(NamedTuple):
    """What of a spec its defaults read: specs of which it is the same have the same settings, from the same sources."""

    settings: bytes
    """The spec without the names in it, as bytes of the wire."""
    length: int
    """Suggested length of sequences in tokens; 0 where none is asked for."""
    positions: int
    """Those of the model, where they limit the length; else 0."""


def unnamed(spec: rs.RunSpec) -> bytes:
    """A spec without the names in it, as bytes of the wire: they are what differs from request to request."""
    settings = rs.RunSpec()
    settings.CopyFrom(spec)
    for name in NAMES:
        settings.ClearField(name)
    if settings.hardware.WhichOneof("device") == "accelerator":
        settings.hardware.accelerator = ""
    return settings.SerializeToString()


def bare_of(
    spec: rs.RunSpec,
    *,
    profile: rs.DatasetProfile | None = None,
    positions: int = 0,
    settings: bytes | None = None,
) -> Bare:
    """What the defaults of a spec read, which are no names; arguments as those of `resolve_spec`.

    `settings` is what `unnamed` makes of it, where that is at hand.
    """
    length = 0 if spec.training.sequence_length else _suggested(spec, profile)
    limit = positions if 0 < positions < (length or UNKNOWN_SEQUENCE_LENGTH) else 0
    return Bare(unnamed(spec) if settings is None else settings, length, limit)


def settings_of(bare: Bare) -> bytes:
    """The `resolved_settings` of a spec."""
    return _kept_or_made(_resolved, bare)


def resolution_of(bare: Bare) -> tuple[bytes, tuple[ev.SettingSource, ...]]:
    """The `settings_of` a spec and where each value of them comes from, in field order.

    The sources are kept, so whoever takes one copies it.
    """
    return _kept_or_made(_resolution, bare)


def named_paths(spec: rs.RunSpec) -> list[str]:
    """Paths of what a spec sets of its names, which are the first in it."""
    parts = ((name, getattr(spec, name)) for name in NAMES if spec.HasField(name))
    return [path for name, part in parts for path in set_paths(part, f"{name}.") or [name]]


def _kept_or_made(function: Callable[[Bare], _Made], bare: Bare) -> _Made:
    """What a function makes of settings; `function` keeps what it made, except of long ones."""
    return function(bare) if len(bare.settings) <= LONGEST_KEPT else function.__wrapped__(bare)  # type: ignore[attr-defined]  # of lru_cache


def named_spec(settings: bytes, spec: rs.RunSpec) -> rs.RunSpec:
    """The resolved spec of `resolved_settings`, with the names that `spec` has."""
    resolved = rs.RunSpec.FromString(settings)
    if spec.HasField("model"):
        resolved.model.CopyFrom(spec.model)
    if spec.HasField("dataset"):
        resolved.dataset.CopyFrom(spec.dataset)
    if spec.hardware.WhichOneof("device") == "accelerator":
        resolved.hardware.accelerator = spec.hardware.accelerator
    return resolved


@lru_cache(maxsize=4096)
def _resolved(bare: Bare) -> bytes:
    """Settings with every default in its place, as bytes of the wire."""
    resolved = rs.RunSpec.FromString(bare.settings)
    for _ in _fill_in(resolved, bare.length, bare.positions):
        pass
    return resolved.SerializeToString()


@lru_cache(maxsize=4096)
def _resolution(bare: Bare) -> tuple[bytes, tuple[ev.SettingSource, ...]]:
    """Settings with every default in its place, and where each value comes from, in field order."""
    resolved = rs.RunSpec.FromString(bare.settings)
    filled = {default.field_path: default for default in _fill_in(resolved, bare.length, bare.positions)}
    sources = [_source(filled[path]) if path in filled else given(path) for path in set_paths(resolved)]
    return resolved.SerializeToString(), tuple(sources)


def _suggested(spec: rs.RunSpec, profile: rs.DatasetProfile | None) -> int:
    return suggested_sequence_length(profile if profile is not None else spec_profile(spec))


def _fill_in(spec: rs.RunSpec, suggested_length: int, positions: int) -> Iterator[Default]:
    """Put every default in its place; the ones that were taken."""
    return (default for default in defaults_for(spec, suggested_length, positions) if _fill(spec, default))


def spec_profile(spec: rs.RunSpec) -> rs.DatasetProfile | None:
    """The dataset profile that a spec carries itself, if it does."""
    return spec.dataset.profile if spec.dataset.WhichOneof("source") == "profile" else None


def optimizer_steps(spec: rs.RunSpec, examples: int) -> int:
    """Optimizer steps of a resolved spec over `examples` rows."""
    if spec.training.WhichOneof("length") == "max_steps":
        return int(spec.training.max_steps)
    return steps_of(examples, batch=spec.training.effective_batch_size, epochs=spec.training.epochs)


def steps_of(examples: int, *, batch: int, epochs: float) -> int:
    """Optimizer steps of `epochs` over `examples` rows in batches of `batch`; a last, smaller batch is a step too.

    With `epochs` = 2.5 the data is seen two and a half times; steps are counted per epoch, as the trainer batches.
    """
    per_epoch = max(1, math.ceil(examples / max(1, batch)))
    return max(1, math.ceil(per_epoch * epochs - 1e-9))


def canonical(message: Message) -> dict[str, Any]:
    """A message as a dictionary whose JSON is the same in every process (map order does not matter)."""
    document: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return document


def difference(left: Message, right: Message) -> dict[str, tuple[str, str]]:
    """Fields in which two messages differ: path to the JSON of either side ("" where a side has none)."""
    a, b = _flatten(canonical(left)), _flatten(canonical(right))
    return {path: (a.get(path, ""), b.get(path, "")) for path in sorted(a | b) if a.get(path) != b.get(path)}


def set_paths(message: Message, prefix: str = "") -> list[str]:
    """Paths of the leaves that are set in a message, in field order; lists count as leaves."""
    paths: list[str] = []
    for field, value in message.ListFields():
        path = f"{prefix}{field.name}"
        if field.message_type is not None and not field.is_repeated:
            # A message without fields of its own, such as `full: {}`, is itself the choice that was made.
            paths.extend(set_paths(value, f"{path}.") or [path])
        else:
            paths.append(path)
    return paths


def _fill(spec: rs.RunSpec, default: Default) -> bool:
    """Set a default's field unless it is set; say whether it was."""
    place = _place(default.field_path)
    target: Any = spec
    for parent in place.parents:
        target = getattr(target, parent)
    if place.repeated:
        if getattr(target, place.name):
            return False
        getattr(target, place.name).extend(default.value)
        return True
    if place.group and target.WhichOneof(place.group) is not None:
        return False
    if not place.presence and getattr(target, place.name) != place.unset:
        return False
    setattr(target, place.name, default.value)
    return True


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a field is and how it tells that it is unset."""

    parents: tuple[str, ...]
    name: str
    repeated: bool
    group: str
    """Its oneof, explicit presence included; empty for none."""
    presence: bool
    unset: Any


@cache
def _place(path: str) -> _Place:
    *parents, name = path.split(".")
    owner = rs.RunSpec.DESCRIPTOR
    for parent in parents:
        below = owner.fields_by_name[parent].message_type
        assert below is not None  # noqa: S101 - the paths of defaults lead through messages
        owner = below
    field = owner.fields_by_name[name]
    group = field.containing_oneof.name if field.containing_oneof is not None else ""
    return _Place(tuple(parents), name, field.is_repeated, group, field.has_presence, field.default_value)


def _source(default: Default) -> ev.SettingSource:
    return _source_of(default._replace(value=None))


@lru_cache(maxsize=1024)
def _source_of(default: Default) -> ev.SettingSource:
    """The source of a default, whatever its value is: there are few."""
    return ev.SettingSource(
        field_path=default.field_path,
        rule_id=default.rule_id,
        reason=default.reason,
        provenance=default.provenance(),
    )


@lru_cache(maxsize=1024)
def given(path: str) -> ev.SettingSource:
    """The source of a value that was given; kept, so whoever takes one copies it."""
    return ev.SettingSource(field_path=path, rule_id="request", reason="given in the request")


def _flatten(value: Any, prefix: str = "") -> dict[str, str]:
    if isinstance(value, dict):
        flat: dict[str, str] = {}
        for key, item in value.items():
            flat |= _flatten(item, f"{prefix}.{key}" if prefix else str(key))
        return flat or {prefix: "{}"}
    return {prefix: json.dumps(value, sort_keys=True)}
