# SPDX-License-Identifier: Apache-2.0
"""`finetree estimate --compare`: one run by every method on several accelerators."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from finetree import FinetreeError
    from finetree_api.estimator.v1 import estimator_pb2
    from finetree_api.types.v1 import run_spec_pb2

    from finetree_cli.backends.estimator import Engine

METHODS = ("full", "lora", "qlora", "prefix", "adapter")
ACCELERATORS = ("rtx-4090", "l40s", "a100-80gb", "h100")
"""Compared where none are named: a consumer card, and what is most rented."""
BATCH = 100
"""Rows of one call."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A method on an accelerator; the answer, or why there is none."""

    method: str
    accelerator: str
    estimate: "estimator_pb2.Estimate | None" = None
    error: "FinetreeError | None" = None


def compare(
    request: "estimator_pb2.EstimateRunRequest", engine: "Engine", methods: Sequence[str], accelerators: Sequence[str]
) -> list[Cell]:
    """Every method on every accelerator, all else as the request says; by accelerator, then by method."""
    from finetree import FinetreeError

    rows = {
        f"{method}/{accelerator}": _changed(request, method, accelerator)
        for accelerator in accelerators
        for method in methods
    }
    found: list[Cell] = []
    for part in _parts(list(rows)):
        answers = engine.estimate_batch({key: rows[key] for key in part})
        for key in part:
            method, _, accelerator = key.partition("/")
            item = answers[key]
            if isinstance(item, FinetreeError):
                found.append(Cell(method, accelerator, error=item))
            else:
                found.append(Cell(method, accelerator, item))
    return found


def named_accelerators(request: "estimator_pb2.EstimateRunRequest", given: Sequence[str]) -> tuple[str, ...]:
    """The accelerators to compare: those given, else the run's own beside the usual ones."""
    own = request.spec.hardware.accelerator
    return tuple(given) or tuple(dict.fromkeys([*([own] if own else []), *ACCELERATORS]))


def _parts(keys: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(keys), BATCH):
        yield keys[start : start + BATCH]


def _changed(
    request: "estimator_pb2.EstimateRunRequest", method: str, accelerator: str
) -> "estimator_pb2.EstimateRunRequest":
    from finetree_api.estimator.v1 import estimator_pb2

    changed = estimator_pb2.EstimateRunRequest()
    changed.CopyFrom(request)
    changed.view = estimator_pb2.ESTIMATE_VIEW_BASIC
    _set_method(changed.spec, method)
    if changed.spec.hardware.accelerator != accelerator:
        changed.spec.hardware.accelerator = accelerator
        if changed.spec.ownership.HasField("rented"):
            changed.spec.ownership.rented.price_id = ""  # the price that was chosen is for the other one
    return changed


def _set_method(spec: "run_spec_pb2.RunSpec", method: str) -> None:
    """Another method with its own defaults; LoRA and QLoRA share their adapters' settings."""
    from finetree_api.types.v1 import run_spec_pb2 as rs

    present = spec.WhichOneof("method")
    if method == "prefix":
        # Prefix tuning never goes with it; what a run by another method has of it is not meant for this one.
        spec.gradient_checkpointing = rs.GRADIENT_CHECKPOINTING_OFF
    if present == method:
        return
    spec.training.ClearField("learning_rate")
    lora = rs.Lora()
    lora.CopyFrom(spec.qlora.lora if present == "qlora" else spec.lora)
    if method == "lora":
        spec.lora.CopyFrom(lora)
    elif method == "qlora":
        spec.qlora.lora.CopyFrom(lora)
    else:
        getattr(spec, method).SetInParent()
