# SPDX-License-Identifier: Apache-2.0
"""What a device holds whatever the rows: weights, gradients, optimizer states, quantisation constants, in bytes.

All of it follows from a run's recipe, so it is counted once for each. Shards count as what one device has of them.
"""

from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from finetree_estimator import constants as c
from finetree_estimator.methods import Full, QuantizedLora, trainable_parameters
from finetree_estimator.parameters import count, linear_weights, routed_weights
from finetree_estimator.recipe import Recipe
from finetree_estimator.run import Run
from finetree_estimator.shapes import Shape


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
    whole: float
    """Weights and gradients that are whole while layers are computed, and in shards again at the update."""
    update_copies: float
    """What an optimizer step adds for a moment."""
    collectives: float
    """Buffers of the communication between devices."""
    setup: float
    """While a model is cut into shards: all that is sharded so far, and copies of the largest unit."""
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
    """What the update asks for beyond all that, since weights and gradients that were whole leave blocks that do not
    fit: the allocator's, and nobody's."""

    @property
    def total(self) -> float:
        """All of it that is alive."""
        return self.gradients + self.activations + self.transient


@lru_cache(maxsize=4096)
def held(recipe: Recipe) -> Held:
    """What one device of a run holds."""
    trainable = trainable_parameters(recipe.method, _shape(recipe))
    head = _trained_head(recipe)
    spread = recipe.devices if recipe.sharding != "replicated" else 1
    whole = recipe.devices if recipe.sharding == "full" else 1
    return Held(
        trainable_parameters=trainable,
        base_weights=_base_weights(recipe) / whole + _gathered(recipe),
        trainable_weights=_separate_weights(recipe, trainable) / (spread if _has_master(recipe) else whole),
        # Paged states live in memory of the driver that moves to the host where the device needs the room.
        optimizer_states=0.0 if _pages(recipe) and not recipe.on_cpu else trainable * state_bytes(recipe) / spread,
        quantization=_quantization(recipe) / whole,
        gradients=_gradients(recipe, trainable),
        head_gradient=float(head * _trained_bytes(recipe)),
        chunk_gradient=float(head * recipe.compute_bytes),
        tied_gradient=_tied_gradient(recipe),
        whole=_gathered(recipe) + _whole_gradients(recipe),
        update_copies=_update_copies(recipe, trainable, spread),
        collectives=_collectives(recipe),
        setup=_setup(recipe),
        whole_weights=count(_shape(recipe)).total * float(recipe.weight_bytes),
        paged_states=trainable * state_bytes(recipe) if _pages(recipe) else 0.0,
    )


def packed_bytes(method: QuantizedLora) -> float:
    """Bytes of a quantised weight without its constants; GPTQ's include them."""
    if method.grouped:
        return c.GPTQ_BYTES
    return c.NF4_BYTES if method.bits == 4 else c.INT8_BYTES


@lru_cache(maxsize=4096)
def _shape(recipe: Recipe) -> Shape:
    """The model as the program holds it: some have no tied embeddings."""
    if recipe.program.unties_head and recipe.shape.tied:
        return replace(recipe.shape, tied=False)
    return recipe.shape


def is_mixed(run: Recipe | Run) -> bool:
    """Whether a fully trained model has float32 weights that autocast copies to 16 bits for each product."""
    return isinstance(run.method, Full) and run.compute_bytes < run.master_bytes


def _gradients(recipe: Recipe, trainable: int) -> float:
    if recipe.in_backward and recipe.one_micro_batch:
        trainable = min(trainable, trainable // recipe.shape.layers + count(_shape(recipe)).embeddings)
    spread = recipe.devices if recipe.sharding in ("gradients", "full") else 1
    # Replicas reduce copies of their gradients (DDP's buckets).
    copies = 2 if recipe.devices > 1 and recipe.sharding in ("replicated", "optimizer") else 1
    return trainable * _gradient_bytes(recipe) * copies / spread + _whole_gradients(recipe)


def _gradient_bytes(recipe: Recipe) -> int:
    """Bytes per number of gradients: those of 16-bit weights beside float32 masters stay in 16 bits."""
    return recipe.compute_bytes if recipe.program.casts_module and is_mixed(recipe) else _trained_bytes(recipe)


def _trained_head(recipe: Recipe) -> int:
    """Weights of the output head, tied or not, where they are trained."""
    return recipe.shape.vocab * recipe.shape.hidden if isinstance(recipe.method, Full) else 0


def _whole_gradients(recipe: Recipe) -> float:
    """Bytes of a fully trained model's gradients that are whole before they are reduced to shards.

    Those of embeddings, head and one layer, and those that wait for a slow network.
    """
    if not recipe.sharded or not isinstance(recipe.method, Full):
        return 0.0
    counted = count(_shape(recipe))
    outside = counted.embeddings + counted.lm_head
    waiting = c.WAITING_GRADIENTS * counted.total * recipe.compute_bytes if recipe.nodes > 1 else 0.0
    return _gradient_bytes(recipe) * (outside + (counted.total - outside) / recipe.shape.layers) + waiting


def _tied_gradient(recipe: Recipe) -> float:
    shape = _shape(recipe)
    if not (shape.tied and isinstance(recipe.method, Full)) or recipe.sharded:
        return 0.0
    return float(shape.vocab * shape.hidden * _trained_bytes(recipe))


def _update_copies(recipe: Recipe, trainable: int, spread: int) -> float:
    if recipe.optimizer == "adafactor" and isinstance(recipe.method, Full):
        shape = _shape(recipe)
        largest = max(shape.vocab * shape.hidden, shape.hidden * shape.intermediate)
        return c.ADAFACTOR_UPDATE[_trained_bytes(recipe)] * largest / spread
    if recipe.program.casts_module and is_mixed(recipe):
        share = trainable / spread
        return 4.0 * (min(share, c.ZERO_GROUP) if recipe.sharded else share)
    if recipe.program.fused_optimizer or recipe.in_backward or recipe.optimizer != "adamw":
        return 0.0
    return c.FOREACH_COPIES * trainable * _trained_bytes(recipe) / spread


def _gathered(recipe: Recipe) -> float:
    """Bytes of weights that are whole for a while although they are sharded: some layers, embeddings and head."""
    if not recipe.sharded:
        return 0.0
    counted = count(_shape(recipe))
    outside = counted.embeddings + counted.lm_head
    if isinstance(recipe.method, QuantizedLora):
        # Shards of packed weights travel packed, and each product unpacks its own.
        plain = outside * recipe.weight_bytes
        return c.GATHERED_LAYERS * (_base_weights(recipe) - plain) / recipe.shape.layers + plain
    layer = (counted.total - outside) / recipe.shape.layers
    if recipe.program.keeps_frozen_whole and not isinstance(recipe.method, Full):
        return float(recipe.compute_bytes * counted.total)
    return recipe.compute_bytes * (c.GATHERED_LAYERS * layer + outside)


def _setup(recipe: Recipe) -> float:
    # A quantised base is loaded packed and never raised when it is sharded.
    program = recipe.program
    if not (recipe.sharded and program.sharded_master and program.copies_to_shard) or isinstance(
        recipe.method, QuantizedLora
    ):
        return 0.0
    counted = count(_shape(recipe))
    outside = counted.embeddings + counted.lm_head
    frozen = not isinstance(recipe.method, Full)
    # What 2 x 8 devices hold beyond that of a frozen base of 70B is as much as its shards once more; why is not known.
    shards = recipe.weight_bytes if frozen and recipe.nodes == 1 else 4
    return c.SETUP_COPIES * 4.0 * outside + shards * counted.total / recipe.devices


def _collectives(recipe: Recipe) -> float:
    return (c.COLLECTIVES if recipe.devices > 1 else 0.0) + (c.COLLECTIVES_ACROSS if recipe.nodes > 1 else 0.0)


def _base_weights(recipe: Recipe) -> float:
    counted = count(_shape(recipe))
    if recipe.on_cpu and is_mixed(recipe):
        # What is not trained of the worker's float32 weights. Its 16-bit copies come and go with each micro-batch.
        return float((counted.total - trainable_parameters(recipe.method, recipe.shape)) * recipe.master_bytes)
    if not isinstance(recipe.method, QuantizedLora):
        return float(counted.total * recipe.weight_bytes) + _cast_weights(recipe, counted.total)
    packed = _packed(recipe)
    outside = c.RAISED_BYTES if recipe.raised else recipe.weight_bytes
    return packed * packed_bytes(recipe.method) + (counted.total - packed) * outside


def _packed(recipe: Recipe) -> int:
    """Weights of a quantised base that are packed."""
    packed = linear_weights(recipe.shape)
    if recipe.program.quantizes_head:
        packed += count(_shape(recipe)).lm_head
    return packed if recipe.program.packs_experts else packed - routed_weights(recipe.shape)


def _cast_weights(recipe: Recipe, total: int) -> float:
    """Bytes of 16-bit copies of a frozen float32 base: each product keeps its own until the backward pass."""
    if isinstance(recipe.method, Full) or recipe.weight_bytes <= recipe.compute_bytes:
        return 0.0
    return total * recipe.compute_bytes / (recipe.shape.layers if recipe.checkpointing else 1)


def _has_master(recipe: Recipe) -> bool:
    """Whether separate weights are master copies of a fully trained model."""
    return isinstance(recipe.method, Full)


def _separate_weights(recipe: Recipe, trainable: int) -> int:
    """Adapters are weights of their own; a fully trained model needs a master copy only in another type."""
    if isinstance(recipe.method, Full) and recipe.weight_bytes == recipe.master_bytes:
        return 0
    return trainable * _trained_bytes(recipe)


def _trained_bytes(recipe: Recipe) -> int:
    """Bytes per number of trained weights and gradients: the program may have a type of its own for adapters."""
    if not isinstance(recipe.method, Full) and recipe.program.adapter_bytes:
        return min(recipe.program.adapter_bytes, recipe.master_bytes)
    return recipe.master_bytes


def _pages(recipe: Recipe) -> bool:
    return recipe.optimizer == "paged-adamw-8bit"


def state_bytes(recipe: Recipe) -> float:
    """Bytes that the optimizer keeps for each trained parameter, wherever."""
    return {
        "adamw": 2.0 * _trained_bytes(recipe),
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
    return _packed(recipe) * constants + recipe.compute_bytes * shape.hidden * widest
