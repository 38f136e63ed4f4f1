# SPDX-License-Identifier: Apache-2.0
"""Bottleneck adapters: small layers behind the MLP, and behind attention too (Houlsby et al. 2019, Pfeiffer 2021)."""

from dataclasses import dataclass
from typing import ClassVar

from finetree_estimator.methods.base import ELEMENTWISE_TRAFFIC, FEW_MEASURED, FirstLayer, Method, Setup
from finetree_estimator.remarks import Remark
from finetree_estimator.shapes.architecture import Shape


@dataclass(frozen=True)
class Adapter(Method):
    """Down to `size`, non-linearity, up, with both biases; `places` of them in a decoder layer.

    One place is behind (or beside) the MLP, two are behind attention and behind the MLP.
    """

    size: int
    places: int = 1

    name: ClassVar[str] = "adapter"
    trained_part: ClassVar[str] = "adapter"
    described: ClassVar[str] = "bottleneck adapters"

    @property
    def counted_spread(self) -> float:
        """Half-width, as a share, of the interval of what is counted.

        No row was measured. It was moved outward from 0.06 with LoRA's, whose frozen base it shares.
        """
        return 0.07

    def remarks(self, setup: Setup) -> tuple[Remark, ...]:  # noqa: ARG002
        """Remarks for people: how little was measured."""
        return (FEW_MEASURED,)

    def trainable_parameters(self, shape: Shape) -> int:
        """Parameters of both projections and both biases of all adapters."""
        return shape.layers * self.places * (2 * shape.hidden * self.size + self.size + shape.hidden)

    def saved_inputs(self, setup: Setup) -> float:
        """Bytes per token of a layer's adapters' inputs and narrow tensors, before and after the non-linearity."""
        return float(self.places * setup.compute_bytes * (setup.shape.hidden + 2 * self.size))

    def saved_inputs_on_cpu(self, shape: Shape, *, compute_bytes: int, stream_bytes: int) -> float:  # noqa: ARG002
        """Bytes per token of the adapters' inputs and narrow tensors.

        The rectified narrow tensor is the input of the product behind it, too.
        """
        return float(self.places * compute_bytes * (shape.hidden + self.size))

    def spared_in_first_layer(self, kept: FirstLayer) -> float:
        """Bytes per token that the lowest layer does not keep below its first adapter."""
        return kept.frozen if self.places == 1 else kept.attention + kept.norm

    def adapter_flops(self, setup: Setup) -> float:
        """FLOPs per token and step: two per parameter forward, four backward, two where it is computed again."""
        return (6.0 + (2.0 if setup.checkpointing else 0.0)) * self.trainable_parameters(setup.shape)

    def elementwise_traffic(self, setup: Setup) -> float:
        """Bytes per token, step and layer that the adapters move."""
        return ELEMENTWISE_TRAFFIC * self.saved_inputs(setup)
