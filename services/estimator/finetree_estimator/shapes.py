# SPDX-License-Identifier: Apache-2.0
"""What a decoder-only transformer consists of, counted exactly from its dimensions."""

from dataclasses import dataclass
from functools import lru_cache

ATTENTION_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj")
"""Attention projections by transformers' Llama names; fused ones count as their parts."""
MLP_LINEARS = ("gate_proj", "up_proj", "down_proj")
"""MLP projections; a plain (not gated) MLP has no gate_proj."""
SYNONYMS = {
    "dense": "o_proj",
    "out_proj": "o_proj",
    "fc1": "up_proj",
    "fc2": "down_proj",
    "dense_h_to_4h": "up_proj",
    "dense_4h_to_h": "down_proj",
    "w1": "gate_proj",
    "w3": "up_proj",
    "w2": "down_proj",
}
"""Other families' module names for the same projections (transformers' module names)."""


@dataclass(frozen=True, slots=True)
class Linear:
    """A projection of one decoder layer, `d_in` to `d_out` features, `copies` of it (experts)."""

    name: str
    d_in: int
    d_out: int
    copies: int = 1

    @property
    def weights(self) -> int:
        """Weights of all copies, biases left out."""
        return self.d_in * self.d_out * self.copies


@dataclass(frozen=True, slots=True)
class Shape:
    """Dimensions as in config.json. Zero `kv_heads` and `head_dim` must be resolved before (see `resolved`)."""

    hidden: int
    layers: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool = False
    gated: bool = True
    max_positions: int = 0
    experts: int = 0
    active_experts: int = 0
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    norms_per_layer: int = 2
    norm_bias: bool = False
    head_norms: bool = False
    lm_head_bias: bool = False

    @property
    def q_width(self) -> int:
        """Features of all query heads."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Features of all key heads; the value heads have as many."""
        return self.kv_heads * self.head_dim

    @property
    def mlp_copies(self) -> int:
        """Experts of a layer; 1 in a dense model."""
        return max(1, self.experts)


@dataclass(frozen=True, slots=True)
class Parameters:
    """Parameters by part; a tied output head counts as embedding."""

    embeddings: int
    attention: int
    mlp: int
    router: int
    norms: int
    lm_head: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.embeddings + self.attention + self.mlp + self.router + self.norms + self.lm_head


@lru_cache(maxsize=1024)
def linears(shape: Shape) -> tuple[Linear, ...]:
    """Projections of one decoder layer in forward order, routers left out."""
    attention = (
        Linear("q_proj", shape.hidden, shape.q_width),
        Linear("k_proj", shape.hidden, shape.kv_width),
        Linear("v_proj", shape.hidden, shape.kv_width),
        Linear("o_proj", shape.q_width, shape.hidden),
    )
    wide = ("gate_proj", "up_proj") if shape.gated else ("up_proj",)
    mlp = tuple(Linear(name, shape.hidden, shape.intermediate, shape.mlp_copies) for name in wide)
    return (*attention, *mlp, Linear("down_proj", shape.intermediate, shape.hidden, shape.mlp_copies))


@lru_cache(maxsize=1024)
def count(shape: Shape) -> Parameters:
    """Parameters by part, biases with the projection that they belong to."""
    parts = linears(shape)
    attention = sum(linear.weights for linear in parts if linear.name in ATTENTION_LINEARS)
    mlp = sum(linear.weights for linear in parts if linear.name in MLP_LINEARS)
    norm = shape.hidden * (2 if shape.norm_bias else 1)
    norms = shape.norms_per_layer * norm + (2 * shape.head_dim if shape.head_norms else 0)
    head = 0 if shape.tied else shape.vocab * shape.hidden
    return Parameters(
        embeddings=shape.vocab * shape.hidden,
        attention=shape.layers * (attention + _attention_biases(shape)),
        mlp=shape.layers * (mlp + _mlp_biases(shape)),
        router=shape.layers * shape.hidden * shape.experts,
        norms=shape.layers * norms + norm,
        lm_head=head + (shape.vocab if shape.lm_head_bias else 0),
    )


def active_parameters(shape: Shape) -> int:
    """Parameters that one token uses: all of a dense model's, the chosen experts' of a mixture."""
    counted = count(shape)
    if not shape.experts:
        return counted.total
    idle = counted.mlp * (shape.experts - max(1, shape.active_experts)) // shape.experts
    return counted.total - idle


@lru_cache(maxsize=1024)
def linear_weights(shape: Shape) -> int:
    """Weights of all decoder projections: what a quantised base packs."""
    return shape.layers * sum(linear.weights for linear in linears(shape))


def _attention_biases(shape: Shape) -> int:
    qkv = shape.q_width + 2 * shape.kv_width if shape.qkv_bias else 0
    return qkv + (shape.hidden if shape.output_bias else 0)


def _mlp_biases(shape: Shape) -> int:
    if not shape.mlp_bias:
        return 0
    wide = shape.intermediate * (2 if shape.gated else 1)
    return (wide + shape.hidden) * shape.mlp_copies
