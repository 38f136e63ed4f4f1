# SPDX-License-Identifier: Apache-2.0
"""Whether a spec certainly keeps the rules of the contract, told by its names and its settings, which come again.

Each rule of the contract is about a single field, so that a spec keeps them when its names do and the rest of it does.
"""

from functools import lru_cache

from finetree_api.types.v1 import run_spec_pb2 as rs

from finetree_runtime.runspec.naming import Split
from finetree_runtime.server.validation import certain

LONGEST_KEPT = 512
"""Bytes of a part up to which it is remembered; what is longer is validated as a whole."""
_ANY = "any"
"""A name that stands for those that are not looked at: without one a spec would break a rule."""


def sound(split: Split) -> bool:
    """Whether a spec is certainly valid; False where that would have to be looked at."""
    (model, dataset, accelerator), settings = split
    if model is None or len(model) > LONGEST_KEPT or len(settings) > LONGEST_KEPT:
        return False
    if dataset is not None and (len(dataset) > LONGEST_KEPT or not _dataset(dataset)):
        return False
    if accelerator is not None and (len(accelerator) > LONGEST_KEPT or not _accelerator(accelerator)):
        return False
    return _model(model) and _settings(settings)


@lru_cache(maxsize=1024)
def _model(raw: bytes) -> bool:
    return certain(rs.ModelSource.FromString(raw))


@lru_cache(maxsize=256)
def _dataset(raw: bytes) -> bool:
    return certain(rs.DatasetSource.FromString(raw))


@lru_cache(maxsize=1024)
def _accelerator(name: str) -> bool:
    return certain(rs.Hardware(accelerator=name))


@lru_cache(maxsize=4096)
def _settings(raw: bytes) -> bool:
    spec = rs.RunSpec.FromString(raw)
    spec.model.name = _ANY
    if spec.hardware.WhichOneof("device") == "accelerator":
        spec.hardware.accelerator = _ANY
    return certain(spec)
