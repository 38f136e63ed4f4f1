# SPDX-License-Identifier: Apache-2.0
"""Exact number of parameters of a decoder-only transformer, from its dimensions."""

from dataclasses import dataclass, field

from finetree_estimator.shapes.architecture import Shape, norm_parameters
from finetree_estimator.shapes.projections import layout


@dataclass(frozen=True, slots=True)
class Parameters:
    """Number of parameters by part.

    A tied output head, learned positions and the table of layers' inputs with its projection count as embeddings.
    """

    embeddings: int
    attention: int
    mlp: int
    router: int
    norms: int
    lm_head: int
    extra: int = 0
    total: int = field(init=False)
    """Number of all parameters."""

    @property
    def outside_layers(self) -> int:
        """Parameters of embeddings and output head."""
        return self.embeddings + self.lm_head

    @property
    def in_layers(self) -> int:
        """Parameters of the decoder layers and the last norm."""
        return self.total - self.outside_layers

    def __post_init__(self) -> None:
        layers = self.attention + self.mlp + self.router + self.norms + self.extra
        object.__setattr__(self, "total", self.embeddings + layers + self.lm_head)


def count(shape: Shape) -> Parameters:
    """Count parameters by part; biases count with their projection."""
    kinds = shape.layer_kinds
    outer_norms = 2 if layout(shape.family).embedding_norm else 1
    return Parameters(
        embeddings=(shape.vocab + shape.learned_positions) * shape.hidden + _layer_inputs(shape),
        attention=sum(kind.layers * kind.attention for kind in kinds),
        mlp=sum(kind.layers * kind.mlp for kind in kinds),
        router=sum(kind.layers * kind.router for kind in kinds),
        norms=sum(kind.layers * kind.norms for kind in kinds)
        + outer_norms * norm_parameters(shape)
        + shape.layer_inputs,
        lm_head=(0 if shape.tied else shape.vocab * shape.hidden) + (shape.vocab if shape.lm_head_bias else 0),
        extra=shape.extra,
    )


def layer_input_projection(shape: Shape) -> int:
    """Weights of the projection that gives the inputs of all layers of the embeddings (per_layer_model_projection)."""
    return shape.hidden * shape.layers * shape.layer_inputs


def _layer_inputs(shape: Shape) -> int:
    """Parameters of the inputs of layers outside of these: a table of as many tokens, and the projection."""
    return shape.vocab * shape.layers * shape.layer_inputs + layer_input_projection(shape)


def active_parameters(shape: Shape) -> int:
    """Number of parameters that one token uses; in a mixture only those of its active experts."""
    idle = shape.experts - max(1, shape.active_experts)
    if idle <= 0:
        return count(shape).total
    routed = 0
    for kind in shape.layer_kinds:
        experts = [part for part in kind.linears if part.routed]
        biases = kind.mlp_biases if experts else 0
        routed += kind.layers * (sum(part.weights for part in experts) + biases)
    return count(shape).total - idle * routed // shape.experts


def routed_weights(shape: Shape) -> int:
    """Number of weights of all routed experts, which transformers 5 stacks into parameters outside linear layers."""
    return sum(kind.layers * sum(part.weights for part in kind.linears if part.routed) for kind in shape.layer_kinds)


def linear_weights(shape: Shape) -> int:
    """Number of weights of all decoder projections and that of layers' inputs, the ones that quantization packs."""
    layers = sum(kind.layers * sum(part.weights for part in kind.linears) for kind in shape.layer_kinds)
    return layers + layer_input_projection(shape)
