# SPDX-License-Identifier: Apache-2.0
"""What a device holds whatever the rows: weights, gradients, optimizer states, quantisation constants, in bytes.

All of it follows from a run's recipe, so it is counted once for each. Shards count as what one device has of them.
"""

from functools import lru_cache
from typing import NamedTuple

from finetree_estimator import constants as c
from finetree_estimator.catalog.parameters import count
from finetree_estimator.memory.sharding import Whole, whole
from finetree_estimator.memory.weights import (
    base_weights,
    gradient_bytes,
    is_mixed,
    packed_weights,
    stored_shape,
    trained_bytes,
)
from finetree_estimator.methods.base import Full, QuantizedLora, trainable_parameters
from finetree_estimator.recipe import Recipe


class Held(NamedTuple):
    """Bytes of one device, and the parameters that get a gradient."""

    trainable_parameters: int
    base_weights: float
    trainable_weights: float
    """Adapters, or master copies of a fully trained model."""
    optimizer_states: float
    quantization: float
    gradients: float
    """All of them, or one layer's and the embeddings' where each weight is updated at once."""
    head_gradient: float
    """That of a trained output head, to which a loss in chunks adds each chunk's."""
    chunk_gradient: float
    """A chunk's gradient of the same."""
    tied_gradient: float
    """Of a trained matrix that is the embeddings and the head: each makes one, and the sum may be a third."""
    whole: Whole
    """What of sharded weights and gradients is whole. `base_weights` and `gradients` include what is so at the loss."""
    update_copies: float
    """What an optimizer step adds for a moment."""
    collectives: float
    """Buffers of the communication between devices."""
    whole_weights: float
    """Base weights of the whole model as they are stored in a file."""
    paged_states: float
    """Optimizer states that the host has room for; 0 where they stay on the device."""


class Moment(NamedTuple):
    """What is alive beside weights and optimizer states at one moment of a step, bytes."""

    gradients: float
    activations: float
    transient: float
    cached: float = 0.0
    """What the step asks for beyond all that at other moments, and cannot take from what this one leaves: the
    allocator's, and nobody's."""

    @property
    def total(self) -> float:
        """All of it that is alive."""
        return self.gradients + self.activations + self.transient


@lru_cache(maxsize=4096)
def held(recipe: Recipe) -> Held:
    """What one device of a run holds."""
    trainable = trainable_parameters(recipe.method, stored_shape(recipe))
    head = _trained_head(recipe)
    spread = recipe.devices if recipe.sharding != "replicated" else 1
    shards = recipe.devices if recipe.sharding == "full" else 1
    gathered = whole(recipe)
    return Held(
        trainable_parameters=trainable,
        base_weights=base_weights(recipe) / shards + gathered.kept,
        trainable_weights=_separate_weights(recipe, trainable) / (spread if _has_master(recipe) else shards),
        # Paged states live in memory of the driver that moves to the host where the device needs the room.
        optimizer_states=0.0 if _pages(recipe) and not recipe.on_cpu else trainable * state_bytes(recipe) / spread,
        quantization=_quantization(recipe) / shards,
        gradients=_gradients(recipe, trainable) + gathered.gradients,
        # What is gathered from shards is of 16 bits, and so is its gradient until it is reduced.
        head_gradient=float(head * (recipe.compute_bytes if recipe.sharded else trained_bytes(recipe))),
        chunk_gradient=float(head * recipe.compute_bytes),
        tied_gradient=_tied_gradient(recipe),
        whole=gathered,
        update_copies=_update_copies(recipe, trainable, spread),
        collectives=_collectives(recipe),
        whole_weights=count(stored_shape(recipe)).total * float(recipe.weight_bytes),
        paged_states=trainable * state_bytes(recipe) if _pages(recipe) else 0.0,
    )


def _gradients(recipe: Recipe, trainable: int) -> float:
    if recipe.in_backward and recipe.one_micro_batch:
        trainable = min(trainable, trainable // recipe.shape.layers + count(stored_shape(recipe)).embeddings)
    spread = recipe.devices if recipe.sharding in ("gradients", "full") else 1
    # Replicas reduce copies of their gradients (DDP's buckets).
    copies = 2 if recipe.devices > 1 and recipe.sharding in ("replicated", "optimizer") else 1
    return trainable * gradient_bytes(recipe) * copies / spread


def _trained_head(recipe: Recipe) -> int:
    """Weights of the output head, tied or not, where they are trained."""
    return recipe.shape.vocab * recipe.shape.hidden if isinstance(recipe.method, Full) else 0


def _tied_gradient(recipe: Recipe) -> float:
    shape = stored_shape(recipe)
    if not (shape.tied and isinstance(recipe.method, Full)) or recipe.sharded:
        return 0.0
    return float(shape.vocab * shape.hidden * trained_bytes(recipe))


def _update_copies(recipe: Recipe, trainable: int, spread: int) -> float:
    if recipe.optimizer == "adafactor" and isinstance(recipe.method, Full):
        shape = stored_shape(recipe)
        largest = max(shape.vocab * shape.hidden, shape.hidden * shape.intermediate)
        return c.ADAFACTOR_UPDATE[trained_bytes(recipe)] * largest / spread
    if recipe.program.casts_module and is_mixed(recipe):
        share = trainable / spread
        return 4.0 * (min(share, c.ZERO_GROUP) if recipe.sharded else share)
    if recipe.program.fused_optimizer or recipe.in_backward or recipe.optimizer != "adamw":
        return 0.0
    return c.FOREACH_COPIES * trainable * trained_bytes(recipe) / spread


def _collectives(recipe: Recipe) -> float:
    return (c.COLLECTIVES if recipe.devices > 1 else 0.0) + (c.COLLECTIVES_ACROSS if recipe.nodes > 1 else 0.0)


def _has_master(recipe: Recipe) -> bool:
    """Whether separate weights are master copies of a fully trained model."""
    return isinstance(recipe.method, Full)


def _separate_weights(recipe: Recipe, trainable: int) -> int:
    """Adapters are weights of their own; a fully trained model needs a master copy only in another type."""
    if isinstance(recipe.method, Full) and recipe.weight_bytes == recipe.master_bytes:
        return 0
    return trainable * trained_bytes(recipe)


def _pages(recipe: Recipe) -> bool:
    return recipe.optimizer == "paged-adamw-8bit"


def state_bytes(recipe: Recipe) -> float:
    """Bytes that the optimizer keeps for each trained parameter, wherever."""
    return {
        "adamw": 2.0 * trained_bytes(recipe),
        "adamw-8bit": c.EIGHT_BIT_STATE,
        "paged-adamw-8bit": c.EIGHT_BIT_STATE,
        "adafactor": c.ADAFACTOR_SHARE,
        "sgd": 0.0,
    }[recipe.optimizer]


def _quantization(recipe: Recipe) -> float:
    if not isinstance(recipe.method, QuantizedLora):
        return 0.0
    constants = 0.0 if recipe.method.grouped else c.INT8_CONSTANTS
    if recipe.method.bits == 4 and not recipe.method.grouped:
        constants = c.NF4_DOUBLE_CONSTANTS if recipe.method.double else c.NF4_CONSTANTS
    # One weight matrix at a time is unpacked to the compute type: the largest is an MLP's, or the head.
    shape = recipe.shape
    widest = max(shape.intermediate, shape.vocab if recipe.program.quantizes_head else 0)
    return packed_weights(recipe) * constants + recipe.compute_bytes * shape.hidden * widest
