# SPDX-License-Identifier: Apache-2.0
"""`finetree estimate --compare`: one run with every method on several accelerators."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from finetree import FinetreeError
    from finetree_api.estimator.v1 import estimate_pb2
    from finetree_api.types.v1 import run_spec_pb2

    from finetree_cli.backends.estimator import Estimator

ACCELERATORS = ("rtx-4090", "l40s", "a100-80gb", "h100")
"""Default accelerators: a consumer card, and the cards that are rented most."""
BATCH = 100
"""Number of rows in one call."""


@dataclass(frozen=True, slots=True)
class Cell:
    """The estimate of a method on an accelerator, or the error in its place."""

    method: str
    accelerator: str
    estimate: "estimate_pb2.Estimate | None" = None
    error: "FinetreeError | None" = None


def compare(
    request: "estimate_pb2.EstimateRunRequest",
    estimator: "Estimator",
    *,
    methods: Sequence[str],
    accelerators: Sequence[str],
) -> list[Cell]:
    """Estimate every method on every accelerator; all else as in the request. Sorted by accelerator, then method."""
    from finetree import FinetreeError

    rows = {
        f"{method}/{accelerator}": _changed(request, method, accelerator)
        for accelerator in accelerators
        for method in methods
    }
    found: list[Cell] = []
    for part in _parts(list(rows)):
        answers = estimator.estimate_batch({key: rows[key] for key in part})
        for key in part:
            method, _, accelerator = key.partition("/")
            item = answers[key]
            if isinstance(item, FinetreeError):
                found.append(Cell(method, accelerator, error=item))
            else:
                found.append(Cell(method, accelerator, item))
    return found


def accelerators_of(request: "estimate_pb2.EstimateRunRequest", given: Sequence[str]) -> tuple[str, ...]:
    """Return the accelerators to compare: those given, else the request's own and the default ones."""
    own = request.spec.hardware.accelerator
    return tuple(given) or tuple(dict.fromkeys([*([own] if own else []), *ACCELERATORS]))


def _parts(keys: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(keys), BATCH):
        yield keys[start : start + BATCH]


def _changed(
    request: "estimate_pb2.EstimateRunRequest", method: str, accelerator: str
) -> "estimate_pb2.EstimateRunRequest":

    from finetree_api.estimator.v1 import estimate_pb2

    changed = estimate_pb2.EstimateRunRequest()
    changed.CopyFrom(request)
    changed.view = estimate_pb2.ESTIMATE_VIEW_BASIC
    _set_method(changed.spec, method)
    if changed.spec.hardware.accelerator != accelerator:
        changed.spec.hardware.accelerator = accelerator
        if changed.spec.ownership.HasField("rented"):
            changed.spec.ownership.rented.price_id = ""  # the chosen price is the other accelerator's
    return changed


def _set_method(spec: "run_spec_pb2.RunSpec", method: str) -> None:
    """Set the method with its own defaults; LoRA and QLoRA keep each other's adapter settings."""
    from finetree_api.types.v1 import method_pb2, training_pb2

    present = spec.WhichOneof("method")
    if method == "prefix":
        # Prefix tuning does not work with gradient checkpointing: another method's setting does not apply.
        spec.gradient_checkpointing = training_pb2.GRADIENT_CHECKPOINTING_OFF
    if present == method:
        return
    spec.training.ClearField("learning_rate")
    lora = method_pb2.Lora()
    lora.CopyFrom(spec.qlora.lora if present == "qlora" else spec.lora)
    if method == "lora":
        spec.lora.CopyFrom(lora)
    elif method == "qlora":
        spec.qlora.lora.CopyFrom(lora)
    else:
        getattr(spec, method).SetInParent()
