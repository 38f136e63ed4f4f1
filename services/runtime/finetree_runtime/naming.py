# SPDX-License-Identifier: Apache-2.0
"""A resolved spec as bytes of the wire, from its settings and its names: settings come again, names differ."""

from functools import lru_cache

from finetree_api.types.v1 import run_spec_pb2 as rs

from finetree_runtime.plan import LONGEST_KEPT
from finetree_runtime.wire import delimited, key

_MODEL, _DATASET, _HARDWARE = (key(rs.RunSpec, name) for name in ("model", "dataset", "hardware"))
_ACCELERATOR = key(rs.Hardware, "accelerator")


def named_bytes(settings: bytes, spec: rs.RunSpec) -> bytes:
    """The `plan.named_spec` as bytes of the wire, put together instead of read and written: settings come again.

    Names stand first in a spec, and in its hardware.
    """
    before, hardware, after = _split(settings) if len(settings) <= LONGEST_KEPT else _split.__wrapped__(settings)
    parts = [before]
    if spec.HasField("dataset"):
        parts.insert(0, delimited(_DATASET, spec.dataset.SerializeToString(deterministic=True)))
    if spec.HasField("model"):
        parts.insert(0, delimited(_MODEL, spec.model.SerializeToString(deterministic=True)))
    if spec.hardware.WhichOneof("device") == "accelerator":
        hardware = delimited(_ACCELERATOR, spec.hardware.accelerator.encode()) + (hardware or b"")
    if hardware is not None:
        parts.append(delimited(_HARDWARE, hardware))
    parts.append(after)
    return b"".join(parts)


@lru_cache(maxsize=4096)
def _split(settings: bytes) -> tuple[bytes, bytes | None, bytes]:
    """Settings before hardware, in it without the accelerator's name (None without any), and after it."""
    spec = rs.RunSpec.FromString(settings)
    hardware: bytes | None = None
    if spec.HasField("hardware"):
        if spec.hardware.WhichOneof("device") == "accelerator":
            spec.hardware.ClearField("accelerator")
        hardware = spec.hardware.SerializeToString(deterministic=True)
        spec.ClearField("hardware")
    whole = spec.SerializeToString(deterministic=True)
    for field, _ in spec.ListFields():
        if field.number > rs.RunSpec.HARDWARE_FIELD_NUMBER:
            spec.ClearField(field.name)  # type: ignore[arg-type]  # a field of its own
    spec.DiscardUnknownFields()  # they stand last
    before = spec.SerializeToString(deterministic=True)
    return before, hardware, whole[len(before) :]
