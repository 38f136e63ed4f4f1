# SPDX-License-Identifier: Apache-2.0
"""Prefix tuning: trained keys and values of virtual tokens (Li and Liang 2021), as PEFT stores them."""

from dataclasses import dataclass
from typing import ClassVar

from finetree_estimator.methods.base import ELEMENTWISE_TRAFFIC, FEW_MEASURED, Method, Setup
from finetree_estimator.remarks import Remark
from finetree_estimator.shapes.architecture import Shape
from finetree_estimator.shapes.projections import layout

_NOT_TRAINED = Remark(
    "PREFIX_NOT_TRAINED",
    "prefix tuning needs keys and values of one shape in every layer, which this model does not have: the trainer "
    "refuses it",
    "spec.prefix",
)


@dataclass(frozen=True)
class Prefix(Method):
    """Trained keys and values of `virtual_tokens`, without a projection that makes them."""

    virtual_tokens: int

    name: ClassVar[str] = "prefix"
    trained_part: ClassVar[str] = "prefix"
    described: ClassVar[str] = "prefix tuning"
    allows_checkpointing: ClassVar[bool] = False
    """Its keys and values are in the cache, which checkpointing drops."""
    joins_keys_and_values: ClassVar[bool] = True

    @property
    def counted_spread(self) -> float:
        """Half-width, as a share, of the interval of what is counted: 8 rows were measured."""
        return 0.05

    def remarks(self, setup: Setup) -> tuple[Remark, ...]:
        """Remarks for people: how little was measured, and which models are not trained so."""
        return (FEW_MEASURED, _NOT_TRAINED) if setup.shape.uneven_keys else (FEW_MEASURED,)

    def trainable_parameters(self, shape: Shape) -> int:
        """Parameters of a key and a value for each virtual token and layer."""
        width = shape.q_width if layout(shape.family).expanded_keys else shape.kv_width
        return self.virtual_tokens * 2 * shape.layers * width

    @property
    def prefix_tokens(self) -> int:
        """Virtual tokens that every token looks at beside those of its row."""
        return self.virtual_tokens

    def saved_inputs(self, setup: Setup) -> float:
        """Bytes per token of a layer's keys and values, which are copied to join the prefix."""
        return setup.compute_bytes * 2 * setup.shape.mean_kv_width

    def saved_inputs_on_cpu(self, shape: Shape, *, compute_bytes: int, stream_bytes: int) -> float:  # noqa: ARG002
        """Bytes per token of a layer's keys and values, which are copied to join the prefix."""
        return compute_bytes * 2 * shape.mean_kv_width

    def elementwise_traffic(self, setup: Setup) -> float:
        """Bytes per token, step and layer that joining the prefix moves."""
        return ELEMENTWISE_TRAFFIC * self.saved_inputs(setup)
