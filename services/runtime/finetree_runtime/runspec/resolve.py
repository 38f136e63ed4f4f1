# SPDX-License-Identifier: Apache-2.0
"""Resolving a RunSpec: filling in the suite's defaults.

The recommender, the estimator and the trainer never import each other, yet must agree on what an unset field means.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple, TypeVar

from finetree_api.types.v1 import check_pb2, hardware_pb2, run_spec_pb2, training_data_pb2

from finetree_runtime.runspec.defaults import UNKNOWN_SEQUENCE_LENGTH, Default, defaults_for, suggested_sequence_length
from finetree_runtime.runspec.paths import canonical, difference, set_paths

__all__ = ["canonical", "difference", "set_paths"]


@dataclass(frozen=True, slots=True)
class Resolved:
    """A RunSpec with every default filled in."""

    spec: run_spec_pb2.RunSpec
    """A copy; the message that was given is not changed."""
    sources: tuple[check_pb2.SettingSource, ...]
    """Where each value comes from, whether given or filled in, in field order."""


def resolve_spec(
    spec: run_spec_pb2.RunSpec,
    *,
    profile: training_data_pb2.DatasetProfile | None = None,
    positions: int = 0,
    matrix_rates: hardware_pb2.MatrixRates | None = None,
) -> Resolved:
    """Fill in every unset field that has a default.

    A spec without a method stays without one: choosing it is the recommender's work, refusing it the caller's.

    Args:
        spec: What was asked for.
        profile: What is known of the training data, for the sequence length; None means the spec's own.
        positions: Longest sequence of the model in tokens, which limits that default; 0 when unknown.
        matrix_rates: Measured rates of the CPU that trains, for the precision on a CPU.
    """
    resolved = run_spec_pb2.RunSpec()
    resolved.CopyFrom(spec)
    defaults = defaults_for(
        resolved,
        suggested_length=suggested_sequence_length(profile if profile is not None else spec_profile(spec)),
        positions=positions,
        matrix_rates=matrix_rates,
    )
    taken = {default.field_path: default for default in defaults if _fill(resolved, default)}
    paths = set_paths(resolved)
    return Resolved(resolved, tuple(taken[path].setting() if path in taken else given(path) for path in paths))


def given(path: str) -> check_pb2.SettingSource:
    """Source of a value that the request set."""
    return check_pb2.SettingSource(field_path=path, rule_id="request", reason="given in the request")


def spec_profile(spec: run_spec_pb2.RunSpec) -> training_data_pb2.DatasetProfile | None:
    """Dataset profile that a spec carries itself, if any."""
    return spec.dataset.profile if spec.dataset.WhichOneof("source") == "profile" else None


def optimizer_steps(spec: run_spec_pb2.RunSpec, examples: int) -> int:
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


def _fill(spec: run_spec_pb2.RunSpec, default: Default) -> bool:
    """Set a default's field unless it is set, and return whether it was filled in."""
    *parents, name = default.field_path.split(".")
    target: Any = spec
    for parent in parents:
        target = getattr(target, parent)
    field = target.DESCRIPTOR.fields_by_name[name]
    if field.is_repeated:
        if getattr(target, name):
            return False
        getattr(target, name).extend(default.value)
        return True
    if field.containing_oneof is not None:  # of explicit presence too, which is a oneof of one field
        is_set = target.WhichOneof(field.containing_oneof.name) is not None
    else:
        is_set = getattr(target, name) != field.default_value
    if not is_set:
        setattr(target, name, default.value)
    return not is_set


# For services that still keep what they made of settings by their bytes.

NAMES: tuple[Literal["model"], Literal["dataset"]] = ("model", "dataset")
LONGEST_KEPT = 4096
_Made = TypeVar("_Made")


def resolved_spec(
    spec: run_spec_pb2.RunSpec, *, profile: training_data_pb2.DatasetProfile | None = None, positions: int = 0
) -> run_spec_pb2.RunSpec:
    """Resolve a spec, without the sources."""
    return resolve_spec(spec, profile=profile, positions=positions).spec


def resolved_settings(
    spec: run_spec_pb2.RunSpec, *, profile: training_data_pb2.DatasetProfile | None = None, positions: int = 0
) -> bytes:
    """Resolve a spec without its names (model, dataset, accelerator), as bytes."""
    return settings_of(bare_of(spec, profile=profile, positions=positions))


class Bare(NamedTuple):
    """What of a spec its defaults read: specs of which it is the same have the same settings, from the same sources."""

    settings: bytes
    """The spec without the names in it, as bytes of the wire."""
    length: int
    """Suggested length of sequences in tokens; 0 where none is asked for."""
    positions: int
    """Those of the model, where they limit the length; else 0."""


def unnamed(spec: run_spec_pb2.RunSpec) -> bytes:
    """A spec without the names in it, as bytes of the wire: they are what differs from request to request."""
    settings = run_spec_pb2.RunSpec()
    settings.CopyFrom(spec)
    for name in NAMES:
        settings.ClearField(name)
    if settings.hardware.WhichOneof("device") == "accelerator":
        settings.hardware.accelerator = ""
    return settings.SerializeToString()


def bare_of(
    spec: run_spec_pb2.RunSpec,
    *,
    profile: training_data_pb2.DatasetProfile | None = None,
    positions: int = 0,
    settings: bytes | None = None,
) -> Bare:
    """What the defaults of a spec read, which are no names; arguments as those of `resolve_spec`.

    `settings` is what `unnamed` makes of it, where that is at hand.
    """
    if profile is None:
        profile = spec_profile(spec)
    length = 0 if spec.training.sequence_length else suggested_sequence_length(profile)
    limit = positions if 0 < positions < (length or UNKNOWN_SEQUENCE_LENGTH) else 0
    return Bare(unnamed(spec) if settings is None else settings, length, limit)


def settings_of(bare: Bare) -> bytes:
    """The `resolved_settings` of a spec."""
    return _kept_or_made(_resolved, bare)


def resolution_of(bare: Bare) -> tuple[bytes, tuple[check_pb2.SettingSource, ...]]:
    """The `settings_of` a spec and where each value of them comes from, in field order.

    The sources are kept, so whoever takes one copies it.
    """
    return _kept_or_made(_resolution, bare)


def named_paths(spec: run_spec_pb2.RunSpec) -> list[str]:
    """Paths of what a spec sets of its names, which are the first in it."""
    parts = ((name, getattr(spec, name)) for name in NAMES if spec.HasField(name))
    return [path for name, part in parts for path in set_paths(part, f"{name}.") or [name]]


def _kept_or_made(function: Callable[[Bare], _Made], bare: Bare) -> _Made:
    """What a function makes of settings; `function` keeps what it made, except of long ones."""
    return function(bare) if len(bare.settings) <= LONGEST_KEPT else function.__wrapped__(bare)  # type: ignore[attr-defined]  # of lru_cache


def named_spec(settings: bytes, spec: run_spec_pb2.RunSpec) -> run_spec_pb2.RunSpec:
    """The resolved spec of `resolved_settings`, with the names that `spec` has."""
    resolved = run_spec_pb2.RunSpec.FromString(settings)
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
    resolved = run_spec_pb2.RunSpec.FromString(bare.settings)
    for _ in _fill_in(resolved, bare.length, bare.positions):
        pass
    return resolved.SerializeToString()


@lru_cache(maxsize=4096)
def _resolution(bare: Bare) -> tuple[bytes, tuple[check_pb2.SettingSource, ...]]:
    """Settings with every default in its place, and where each value comes from, in field order."""
    resolved = run_spec_pb2.RunSpec.FromString(bare.settings)
    filled = {default.field_path: default for default in _fill_in(resolved, bare.length, bare.positions)}
    sources = [filled[path].setting() if path in filled else given(path) for path in set_paths(resolved)]
    return resolved.SerializeToString(), tuple(sources)


def _fill_in(spec: run_spec_pb2.RunSpec, suggested_length: int, positions: int) -> Iterator[Default]:
    """Put every default in its place; the ones that were taken."""
    return (
        default
        for default in defaults_for(spec, suggested_length=suggested_length, positions=positions, matrix_rates=None)
        if _fill(spec, default)
    )
