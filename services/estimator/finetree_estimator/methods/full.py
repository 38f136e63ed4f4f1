# SPDX-License-Identifier: Apache-2.0
"""Full fine-tuning: all weights are trained, but for the lowest layers if asked."""

from dataclasses import dataclass
from typing import ClassVar

from finetree_estimator.methods.base import Method, Setup
from finetree_estimator.shapes.architecture import Shape
from finetree_estimator.shapes.parameters import count

_FLOAT32_ROUTERS = frozenset({"deepseek_v2", "deepseek_v3", "glm4_moe", "glm4_moe_lite"})
"""Families whose router reads a float32 copy of the stream (transformers' modules)."""
_FLOAT = 4
"""Bytes of a float32 number."""


@dataclass(frozen=True)
class Full(Method):
    """All weights, but for the lowest `frozen_layers` (with them the input embeddings below)."""

    frozen_layers: int = 0

    name: ClassVar[str] = "full"
    trained_part: ClassVar[str] = "full"
    described: ClassVar[str] = "full training"
    trains_base: ClassVar[bool] = True

    @property
    def counted_spread(self) -> float:
        """Half-width, as a share, of the interval of what is counted.

        3 rows were measured on one GPU. It was moved outward from 0.05 once ten of 129 peaks of other sources lay above
        the end (23 sources: loops of one's own and programs that share a model over devices), and from 0.12 once twelve
        of 237 did; expected values know nothing of those rows.
        """
        return 0.14

    def trainable_parameters(self, shape: Shape) -> int:
        """Parameters that get a gradient: learned positions are trained even where the layers above them are not."""
        if self.frozen_layers == 0:
            return count(shape).total
        kinds = shape.layer_kinds
        layers = sum(kind.total * sum(place < self.frozen_layers for place in kind.places) for kind in kinds)
        return count(shape).total - layers - shape.vocab * shape.hidden

    @property
    def trains_embeddings(self) -> bool:
        """Whether the input embeddings get a gradient."""
        return self.frozen_layers == 0

    @property
    def layers_without_gradient(self) -> int:
        """Lowest decoder layers that no gradient passes through."""
        return self.frozen_layers

    def base_weights(self, setup: Setup) -> float:
        """Bytes of the weights beside their master copies, before they are spread over devices."""
        total = setup.parameters.total
        if setup.on_cpu and setup.autocasts_trained_weights and setup.weight_bytes < setup.master_bytes:
            # What is not trained of the worker's float32 weights. Its 16-bit copies come and go with each micro-batch.
            return float((total - self.trainable_parameters(setup.shape)) * setup.master_bytes)
        return float(total * setup.weight_bytes)

    def vision_weights(self, setup: Setup) -> float:
        """Bytes of a vision tower's weights: on a processor float32 where the trained ones are."""
        if setup.on_cpu and setup.autocasts_trained_weights and setup.weight_bytes < setup.master_bytes:
            return float(setup.shape.vision * setup.master_bytes)
        return super().vision_weights(setup)

    def saved_inputs(self, setup: Setup) -> float:
        """Bytes per token of the inputs of a layer's projections.

        One for query, key and value together, those of the MLP's first and of its last layer. The output projection's
        is the attention's output, which is kept anyway.
        """
        shape = setup.shape
        latents = shape.latent.query_rank + shape.latent.key_value_rank if shape.latent else 0
        router = _FLOAT * shape.hidden if shape.family in _FLOAT32_ROUTERS and shape.experts else 0
        features = 2 * shape.hidden + shape.mean_mlp_width + _layer_inputs(shape) + latents
        return float(setup.compute_bytes * features + router)

    def saved_inputs_on_cpu(self, shape: Shape, *, compute_bytes: int, stream_bytes: int) -> float:
        """Bytes per token of projections' inputs: one of attention and one of the MLP, or a cast each by autocast."""
        wide = shape.mean_mlp_width + _layer_inputs(shape)
        copies = (3 + (2 if shape.gated else 1)) if stream_bytes > compute_bytes else 2
        return float(compute_bytes * (copies * shape.hidden + wide))

    def backward_flops_factor(self, shape: Shape) -> float:
        """FLOPs of the backward pass in units of the forward pass: inputs' gradients once, trained weights' once."""
        return 2.0 - self.frozen_layers / shape.layers


def _layer_inputs(shape: Shape) -> int:
    """Features per token that the projections of a layer's own input read: the stream, and the gated input."""
    return shape.hidden + shape.layer_inputs if shape.layer_inputs else 0
