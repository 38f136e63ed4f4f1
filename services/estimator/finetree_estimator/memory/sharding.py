# SPDX-License-Identifier: Apache-2.0
"""What of a sharded model is whole on a device, and when: weights that are gathered, gradients until they are reduced.

FullyShardedDataParallel and fully_shard have a unit for each layer. Embeddings and head are in the root, which is not
sharded again between the passes, and whose gradients come last; or they are units of their own.
"""

from functools import lru_cache
from typing import NamedTuple

from finetree_estimator import constants as c
from finetree_estimator.catalog.parameters import count
from finetree_estimator.memory.weights import base_weights, gradient_bytes, layer_weights, outside_weights, stored_shape
from finetree_estimator.methods.base import Full, QuantizedLora, trainable_parameters
from finetree_estimator.recipe import Recipe


class Whole(NamedTuple):
    """Bytes of one device; none where weights are not sharded."""

    kept: float = 0.0
    """Weights from the forward pass to the end of the backward pass."""
    fetched: float = 0.0
    """Weights of layers while one is computed: not at the loss."""
    head: float = 0.0
    """The output head at the loss, where it is a unit of its own."""
    gradients: float = 0.0
    """A layer's while it is differentiated, and the head's where its unit is reduced last."""
    unreduced: float = 0.0
    """All gradients, where micro-batches are added up before anything is reduced; 0 where each is reduced."""
    root_gradients: float = 0.0
    """What the reduction of the embeddings' and the head's gradients needs beyond `gradients`, after the last layer."""
    root_shards: float = 0.0
    """Shards of those gradients, which are not there while a layer of the first micro-batch is differentiated."""
    setup: float = 0.0
    """While a model is cut into shards: all that is sharded so far, and copies of the largest unit."""


_NOTHING = Whole()


@lru_cache(maxsize=4096)
def whole(recipe: Recipe) -> Whole:
    """What of a run's model is whole on a device."""
    if not recipe.sharded:
        return _NOTHING
    trained = isinstance(recipe.method, Full)
    return Whole(
        kept=_kept(recipe),
        fetched=_fetched(recipe),
        head=float(recipe.compute_bytes * count(stored_shape(recipe)).lm_head) if _apart(recipe) else 0.0,
        gradients=_gradients(recipe) if trained else 0.0,
        unreduced=_unreduced(recipe),
        root_gradients=_root_gradients(recipe) if trained else 0.0,
        root_shards=gradient_bytes(recipe) * _last_weights(recipe) / recipe.devices if trained else 0.0,
        setup=_setup(recipe),
    )


def _apart(recipe: Recipe) -> bool:
    """Whether embeddings and head are units of their own, which weights in both places cannot be."""
    program = recipe.program
    return program.shards_embeddings and not program.copies_to_shard and not stored_shape(recipe).tied


def _kept(recipe: Recipe) -> float:
    if _stays_whole(recipe):
        return float(recipe.compute_bytes * count(stored_shape(recipe)).total)
    if _apart(recipe):
        return 0.0
    packs = isinstance(recipe.method, QuantizedLora)
    return float((recipe.weight_bytes if packs else recipe.compute_bytes) * outside_weights(recipe))


def _stays_whole(recipe: Recipe) -> bool:
    return recipe.program.keeps_frozen_whole and not isinstance(recipe.method, Full | QuantizedLora)


def _fetched(recipe: Recipe) -> float:
    if _stays_whole(recipe):
        return 0.0
    layer = recipe.compute_bytes * layer_weights(recipe)
    if isinstance(recipe.method, QuantizedLora):
        # Shards of packed weights travel packed, and each product unpacks its own.
        layer = (base_weights(recipe) - outside_weights(recipe) * recipe.weight_bytes) / recipe.shape.layers
    return c.GATHERED_LAYERS * layer


def _gradients(recipe: Recipe) -> float:
    """A layer's in the type of the reduction, while the next one's appear in that of the computation; and the head's.

    `fully_shard` drops what it reduced only after the next layer's backward pass (FSDPParamGroup.post_backward).
    """
    head = 0 if _apart(recipe) else recipe.compute_bytes * recipe.shape.vocab * recipe.shape.hidden
    computed = 0 if recipe.program.casts_module else recipe.compute_bytes
    return (_reduced_bytes(recipe) + computed) * layer_weights(recipe) + head


def _reduced_bytes(recipe: Recipe) -> int:
    """Bytes per number of gradients that are reduced."""
    own = gradient_bytes(recipe)
    return own if recipe.program.reduces_float32 else min(own, recipe.compute_bytes)


def _unreduced(recipe: Recipe) -> float:
    """All gradients in the type of the computation, of programs that add up whole ones.

    accelerate enters no_sync for all but the last of a batch's micro-batches unless sync_each_batch is set; for FSDP
    that means whole gradients (its guide on gradient synchronisation: Mixtral's 69 GB a device are too many with two).
    """
    if not recipe.program.adds_whole_gradients or recipe.program.casts_module:
        return 0.0
    return float(recipe.compute_bytes * trainable_parameters(recipe.method, stored_shape(recipe)))


def _root_gradients(recipe: Recipe) -> float:
    # The root's 16-bit ones take the place of its weights.
    fresh = (_reduced_bytes(recipe) + (recipe.compute_bytes if _apart(recipe) else 0)) * _last_weights(recipe)
    if stored_shape(recipe).tied:
        # The head's, the embeddings', and their sum.
        fresh = max(fresh, 3 * recipe.compute_bytes * _last_weights(recipe))
    return max(0.0, float(fresh) - _gradients(recipe))


def _last_weights(recipe: Recipe) -> int:
    """Weights whose gradients are reduced after the last layer's."""
    return count(stored_shape(recipe)).embeddings if _apart(recipe) else outside_weights(recipe)


def _setup(recipe: Recipe) -> float:
    # A quantised base is loaded packed and never raised when it is sharded.
    program = recipe.program
    if not (program.sharded_master and program.copies_to_shard) or isinstance(recipe.method, QuantizedLora):
        return 0.0
    frozen = not isinstance(recipe.method, Full)
    # What 2 x 8 devices hold beyond that of a frozen base of 70B is as much as its shards once more; why is not known.
    shards = recipe.weight_bytes if frozen and recipe.nodes == 1 else 4
    total = count(stored_shape(recipe)).total
    return c.SETUP_COPIES * 4.0 * outside_weights(recipe) + shards * total / recipe.devices
