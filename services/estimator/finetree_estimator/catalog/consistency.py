# SPDX-License-Identifier: Apache-2.0
"""Dimensions that contradict each other, whoever named them: a request, a config.json or the catalogue."""

from collections.abc import Mapping
from dataclasses import dataclass

from finetree_estimator.catalog.architecture import Shape

SHORTEST_ROW = 8
"""Tokens that the contract's sequence_length is at the least: a model with fewer positions could not be asked for."""


@dataclass(frozen=True, slots=True)
class Contradiction:
    """What is wrong with a field of the contract's ModelShape."""

    field: str
    text: str

    def in_words(self, names: Mapping[str, str]) -> str:
        """As a sentence, with the field's name in another vocabulary."""
        return f"{names.get(self.field, self.field)} {self.text}"


def contradiction(shape: Shape) -> Contradiction | None:
    """The first contradiction in a shape; None where it can be a model."""
    if shape.heads > shape.hidden:
        return Contradiction("attention_heads", f"is more than the hidden size of {shape.hidden}")
    if shape.kv_heads > shape.heads or shape.heads % shape.kv_heads:
        return Contradiction("kv_heads", f"does not divide {shape.heads} attention heads")
    if 0 < shape.max_positions < SHORTEST_ROW:
        return Contradiction("max_position_embeddings", f"is less than the {SHORTEST_ROW} tokens of the shortest row")
    return _of_experts(shape) if shape.experts else _of_dense(shape)


def _of_experts(shape: Shape) -> Contradiction | None:
    if shape.active_experts > shape.experts:
        return Contradiction("active_experts", f"exceeds the {shape.experts} experts of a layer")
    if shape.active_experts < 1:
        return Contradiction("active_experts", f"is needed: how many of the {shape.experts} experts a token uses")
    if shape.dense_layers >= shape.layers:
        return Contradiction("dense_layers", f"leaves none of the {shape.layers} layers to the experts")
    if shape.dense_intermediate and not shape.dense_layers:
        return Contradiction("dense_intermediate_size", "is the width of dense_layers, of which there are none")
    return None


def _of_dense(shape: Shape) -> Contradiction | None:
    for field, value in (
        ("active_experts", shape.active_experts),
        ("shared_expert_size", shape.shared_expert),
        ("dense_layers", shape.dense_layers),
        ("dense_intermediate_size", shape.dense_intermediate),
    ):
        if value:
            return Contradiction(field, "needs experts: a dense model has none")
    return None
