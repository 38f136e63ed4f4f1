# SPDX-License-Identifier: Apache-2.0
"""Whether the dimensions of a model agree with each other."""

from collections.abc import Mapping
from dataclasses import dataclass

from finetree_estimator.shapes.architecture import Shape
from finetree_estimator.shapes.mixers import FullAttention, LatentAttention, LinearAttention, ShortConvolution

SHORTEST_ROW = 8
"""Least sequence_length of the contract in tokens; models with fewer positions are refused."""


@dataclass(frozen=True, slots=True)
class Contradiction:
    """An inconsistent field of the contract's ModelShape."""

    field: str
    text: str

    def in_words(self, names: Mapping[str, str]) -> str:
        """Format as a sentence, with another name for the field."""
        return f"{names.get(self.field, self.field)} {self.text}"


def contradiction(shape: Shape) -> Contradiction | None:
    """First inconsistency of a shape; None where there is none."""
    if shape.heads > shape.hidden:
        return Contradiction("attention_heads", f"is more than the hidden size of {shape.hidden}")
    if shape.kv_heads > shape.heads or shape.heads % shape.kv_heads:
        return Contradiction("kv_heads", f"does not divide {shape.heads} attention heads")
    if 0 < shape.max_positions < SHORTEST_ROW:
        return Contradiction("max_position_embeddings", f"is less than the {SHORTEST_ROW} tokens of the shortest row")
    return _of_mixers(shape) or _of_windows(shape) or (_of_experts(shape) if shape.experts else _of_dense(shape))


def _of_mixers(shape: Shape) -> Contradiction | None:
    found = _of_linear(shape, shape.linear) if shape.linear else None
    if found is None and shape.convolution:
        found = _of_convolution(shape, shape.convolution)
    if found is None and shape.latent:
        found = _of_latent(shape, shape.latent)
    return found


def _of_linear(shape: Shape, linear: LinearAttention) -> Contradiction | None:
    if linear.layers >= shape.layers:
        text = f"must be less than the {shape.layers} layers: one at least has softmax attention"
        return Contradiction("linear_attention.layers", text)
    if linear.value_heads % linear.key_heads:
        return Contradiction("linear_attention.value_heads", f"is not a multiple of {linear.key_heads} key_heads")
    if shape.window or shape.full_attention or shape.kv_shared_layers:
        return Contradiction("linear_attention", "cannot be together with sliding_window")
    return None


def _of_convolution(shape: Shape, convolution: ShortConvolution) -> Contradiction | None:
    if convolution.layers >= shape.layers:
        text = f"must be less than the {shape.layers} layers: one at least has softmax attention"
        return Contradiction("convolution.layers", text)
    if shape.linear or shape.window or shape.full_attention or shape.kv_shared_layers:
        return Contradiction("convolution", "cannot be together with linear_attention or sliding_window")
    return None


def _of_latent(shape: Shape, latent: LatentAttention) -> Contradiction | None:
    if shape.mixer or shape.window or shape.kv_shared_layers:
        text = "cannot be together with linear_attention, convolution or sliding_window"
        return Contradiction("latent_attention", text)
    if shape.kv_heads != shape.heads:
        return Contradiction(
            "kv_heads", f"must be the {shape.heads} attention heads: latent attention has a key for each"
        )
    if shape.head_dim != latent.head_dim:
        text = f"must be {latent.head_dim}, plain_head_dim and rotary_head_dim of latent_attention together"
        return Contradiction("head_dim", text)
    return None


def _of_windows(shape: Shape) -> Contradiction | None:
    if shape.full_attention_layers > shape.layers:
        return Contradiction("full_attention_layers", f"is more than the {shape.layers} layers")
    if shape.full_attention_layers and not shape.window:
        return Contradiction("full_attention_layers", "needs sliding_window; without one all layers attend to all")
    if shape.full_attention and (found := _of_full_attention(shape, shape.full_attention)) is not None:
        return found
    if shape.kv_shared_layers >= shape.layers:
        text = f"must be less than the {shape.layers} layers: one at least has keys and values of its own"
        return Contradiction("kv_shared_layers", text)
    if shape.wide_shared_mlp and not shape.kv_shared_layers:
        return Contradiction("wide_shared_mlp", "needs kv_shared_layers, whose MLP it is")
    return None


def _of_full_attention(shape: Shape, full: FullAttention) -> Contradiction | None:
    if not shape.full_attention_layers:
        return Contradiction("full_attention", "needs full_attention_layers, whose attention it is")
    if full.kv_heads > shape.heads or shape.heads % full.kv_heads:
        return Contradiction("full_attention.kv_heads", f"does not divide {shape.heads} attention heads")
    return None


def _of_experts(shape: Shape) -> Contradiction | None:
    if shape.active_experts > shape.experts:
        return Contradiction("active_experts", f"exceeds the {shape.experts} experts of a layer")
    if shape.active_experts < 1:
        return Contradiction(
            "active_experts", f"is required: the number of the {shape.experts} experts that a token uses"
        )
    if shape.dense_layers >= shape.layers:
        return Contradiction("dense_layers", f"must be less than the {shape.layers} layers: one at least has experts")
    if shape.dense_intermediate and not shape.dense_layers:
        return Contradiction("dense_intermediate_size", "needs dense_layers, whose width it is")
    return None


def _of_dense(shape: Shape) -> Contradiction | None:
    for name, value in (
        ("active_experts", shape.active_experts),
        ("shared_expert_size", shape.shared_expert),
        ("dense_layers", shape.dense_layers),
        ("dense_intermediate_size", shape.dense_intermediate),
    ):
        if value:
            return Contradiction(name, "needs experts; a dense model has none")
    return None
