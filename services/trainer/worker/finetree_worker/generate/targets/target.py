# SPDX-License-Identifier: Apache-2.0
"""Trained weights as they are computed with beside others: what they change where, for the rows that are theirs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from finetree_api.trainer.v1 import serving_pb2
from finetree_api.types.v1 import method_pb2
from torch import Tensor

from finetree_worker.errors import ModelError


class Change(Protocol):
    """What trained weights make of one module of the base."""

    def __call__(self, output: Tensor, inputs: Tensor) -> None:
        """Change the module's output (rows, tokens, features) in place, given its input, both of the same rows."""

    def tensors(self) -> Iterable[Tensor]:
        """Yield the tensors that it holds."""


@dataclass(frozen=True, slots=True)
class Target:
    """Trained weights on a base, by the module that they change; a prefix changes none and stands in the cache.

    `prefix` are keys and values by layer, each (heads, tokens, head size).
    """

    method: method_pb2.Method.ValueType
    changes: Mapping[str, Change] = field(default_factory=dict)
    prefix: tuple[tuple[Tensor, Tensor], ...] = ()
    rank: int = 0

    @property
    def prefix_tokens(self) -> int:
        """Number of virtual tokens before every prompt."""
        return int(self.prefix[0][0].shape[1]) if self.prefix else 0

    @property
    def size_bytes(self) -> int:
        """Bytes of its tensors, tied ones once."""
        held = [tensor for change in self.changes.values() for tensor in change.tensors()]
        held += [part for pair in self.prefix for part in pair]
        return sum(tensor.numel() * tensor.element_size() for tensor in {id(each): each for each in held}.values())

    def message(self, shown: serving_pb2.ServeTarget) -> serving_pb2.LoadedTarget:
        """Return what is told of it under the name and weights of a request."""
        return serving_pb2.LoadedTarget(
            name=shown.name,
            weights=shown.weights,
            size_bytes=self.size_bytes,
            method=self.method,
            rank=self.rank,
        )


def wrong_base(problem: str) -> ModelError:
    """Return the error for weights of another base; `problem` is a sentence."""
    return ModelError("WRONG_BASE", problem, field="weights", remedy="Load it on the base that it was trained on.")


def unreadable(problem: str) -> ModelError:
    """Return the error for weights that cannot be served; `problem` is a sentence's end."""
    text = f"The adapter cannot be served: {problem}."
    remedy = "Fetch it again, whole; or save it with peft's LoRA or prefix tuning, whose usual settings are served."
    return ModelError("WEIGHTS_UNREADABLE", text, field="weights", remedy=remedy)
