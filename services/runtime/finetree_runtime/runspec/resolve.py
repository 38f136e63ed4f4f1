# SPDX-License-Identifier: Apache-2.0
"""Resolving a RunSpec: filling in the suite's defaults.

The recommender, the estimator and the trainer never import each other, yet must agree on what an unset field means.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from finetree_api.types.v1 import check_pb2, hardware_pb2, run_spec_pb2, training_data_pb2
from google.protobuf.descriptor import Descriptor

from finetree_runtime.runspec.defaults import Default, defaults_for, suggested_sequence_length
from finetree_runtime.runspec.device_names import counted
from finetree_runtime.runspec.paths import set_paths


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
    filled = fill_defaults(spec, profile=profile, positions=positions, matrix_rates=matrix_rates)
    resolved, taken = filled.spec, {default.field_path: default for default in filled.defaults}
    paths = set_paths(resolved)
    return Resolved(resolved, tuple(taken[path].setting() if path in taken else given(path) for path in paths))


class Filled(NamedTuple):
    """A copy of a spec with every default filled in, and the defaults that were."""

    spec: run_spec_pb2.RunSpec
    defaults: tuple[Default, ...]


def fill_defaults(
    spec: run_spec_pb2.RunSpec,
    *,
    profile: training_data_pb2.DatasetProfile | None = None,
    positions: int = 0,
    matrix_rates: hardware_pb2.MatrixRates | None = None,
) -> Filled:
    """Copy a spec and fill in its defaults, for callers that need no sources; arguments as of `resolve_spec`."""
    resolved = run_spec_pb2.RunSpec()
    resolved.CopyFrom(spec)
    _split_count(resolved.hardware)
    defaults = defaults_for(
        resolved,
        suggested_length=suggested_sequence_length(profile if profile is not None else spec_profile(spec)),
        positions=positions,
        matrix_rates=matrix_rates,
    )
    return Filled(resolved, tuple(default for default in defaults if _fill(resolved, default)))


def _split_count(hardware: hardware_pb2.Hardware) -> None:
    """Move a count from the accelerator's name, such as "4x RTX 4090", to its own field; a stated count is kept."""
    count, name = counted(hardware.accelerator)
    if count:
        hardware.accelerator = name
        if not hardware.HasField("count"):
            hardware.count = count


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


class _Place(NamedTuple):
    """Where a setting stands, as the descriptor says: read once, since a plan has thirty of them to fill in."""

    parents: tuple[str, ...]
    name: str
    oneof: str
    """What its presence is asked by; one of explicit presence is a oneof of one field. Empty where 0 means unset."""


def _places(message: Descriptor, parents: tuple[str, ...] = ()) -> Iterator[tuple[str, _Place]]:
    for field in message.fields:
        path = (*parents, field.name)
        if field.message_type is not None and not field.is_repeated:
            yield from _places(field.message_type, path)
        oneof = field.containing_oneof.name if field.containing_oneof is not None else ""
        yield ".".join(path), _Place(parents, field.name, oneof)


_PLACES = dict(_places(run_spec_pb2.RunSpec.DESCRIPTOR))


def _fill(spec: run_spec_pb2.RunSpec, default: Default) -> bool:
    """Set a default's field unless it is set, and return whether it was filled in."""
    parents, name, oneof = _PLACES[default.field_path]
    target: Any = spec
    for parent in parents:
        target = getattr(target, parent)
    if target.WhichOneof(oneof) is not None if oneof else getattr(target, name):
        return False
    if isinstance(default.value, list):
        getattr(target, name).extend(default.value)
    else:
        setattr(target, name, default.value)
    return True
