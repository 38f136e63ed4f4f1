# SPDX-License-Identifier: Apache-2.0
"""A resolved spec as bytes of the wire, from its settings and its names: settings come again, names differ."""

from functools import lru_cache
from typing import NamedTuple

from finetree_api.types.v1 import hardware_pb2, run_spec_pb2

from finetree_runtime.runspec.resolve import LONGEST_KEPT, unnamed
from finetree_runtime.runspec.wire import delimited, key

_MODEL, _DATASET, _HARDWARE = (key(run_spec_pb2.RunSpec, name) for name in ("model", "dataset", "hardware"))
_ACCELERATOR = key(hardware_pb2.Hardware, "accelerator")


class Names(NamedTuple):
    """The names in a spec, messages as bytes of the wire; None of what it does not name."""

    model: bytes | None
    dataset: bytes | None
    accelerator: str | None


def names_of(spec: run_spec_pb2.RunSpec) -> Names:
    """The names in a spec, read once for all that is put together of them and of its settings."""
    hardware = spec.hardware
    return Names(
        spec.model.SerializeToString(deterministic=True) if spec.HasField("model") else None,
        spec.dataset.SerializeToString(deterministic=True) if spec.HasField("dataset") else None,
        hardware.accelerator if hardware.WhichOneof("device") == "accelerator" else None,
    )


class Split(NamedTuple):
    """A spec in two, each of which comes again in other specs."""

    names: Names
    settings: bytes
    """What `plan.unnamed` makes of it."""


def split(spec: run_spec_pb2.RunSpec) -> Split:
    """The names of a spec, and the rest of it."""
    return Split(names_of(spec), unnamed(spec))


def named_bytes(settings: bytes, names: Names) -> bytes:
    """The `plan.named_spec` as bytes of the wire, put together instead of read and written: settings come again.

    Names stand first in a spec, and in its hardware.
    """
    before, hardware, after = (
        _around_names(settings) if len(settings) <= LONGEST_KEPT else _around_names.__wrapped__(settings)
    )
    model, dataset, accelerator = names
    return b"".join(
        (
            delimited(_MODEL, model) if model is not None else b"",
            delimited(_DATASET, dataset) if dataset is not None else b"",
            before,
            _hardware(accelerator, hardware),
            after,
        )
    )


@lru_cache(maxsize=1024)
def _hardware(accelerator: str | None, other: bytes | None) -> bytes:
    """The field that says what is trained on: the accelerator's name, and what else is said of hardware."""
    if accelerator is not None:
        other = delimited(_ACCELERATOR, accelerator.encode()) + (other or b"")
    return b"" if other is None else delimited(_HARDWARE, other)


@lru_cache(maxsize=4096)
def _around_names(settings: bytes) -> tuple[bytes, bytes | None, bytes]:
    """Settings before hardware, in it without the accelerator's name (None without any), and after it."""
    spec = run_spec_pb2.RunSpec.FromString(settings)
    hardware: bytes | None = None
    if spec.HasField("hardware"):
        if spec.hardware.WhichOneof("device") == "accelerator":
            spec.hardware.ClearField("accelerator")
        hardware = spec.hardware.SerializeToString(deterministic=True)
        spec.ClearField("hardware")
    whole = spec.SerializeToString(deterministic=True)
    for field, _ in spec.ListFields():
        if field.number > run_spec_pb2.RunSpec.HARDWARE_FIELD_NUMBER:
            spec.ClearField(field.name)  # type: ignore[arg-type]  # a field of its own
    spec.DiscardUnknownFields()  # they stand last
    before = spec.SerializeToString(deterministic=True)
    return before, hardware, whole[len(before) :]
