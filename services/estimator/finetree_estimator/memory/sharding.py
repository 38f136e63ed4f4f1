# SPDX-License-Identifier: Apache-2.0
"""What of a sharded model is unsharded on a device, and when: weights that are gathered, gradients until reduced.

FullyShardedDataParallel and fully_shard have a unit for each layer. Embeddings and head are in the root, which is not
sharded again between the passes, and whose gradients come last; or they are units of their own.
"""

from dataclasses import dataclass

from finetree_estimator import constants as c
from finetree_estimator.run import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsharded:
    """Bytes of one device that are whole though weights are sharded; none where they are not."""

    kept_weights: float = 0.0
    """Weights from the forward pass to the end of the backward pass."""
    fetched_weights: float = 0.0
    """Weights of layers while one is computed: not at the loss."""
    head_weights: float = 0.0
    """The output head at the loss, where it is a unit of its own."""
    gradients: float = 0.0
    """A layer's while it is differentiated, and the head's where its unit is reduced last."""
    unreduced_gradients: float = 0.0
    """All gradients, where micro-batches are added up before anything is reduced; 0 where each is reduced."""
    root_gradients: float = 0.0
    """What the reduction of the embeddings' and the head's gradients needs beyond `gradients`, after the last layer."""
    root_shards: float = 0.0
    """Shards of those gradients, which are not there while a layer of the first micro-batch is differentiated."""
    setup: float = 0.0
    """While a model is cut into shards: all that is sharded so far, and copies of the largest unit."""


def unsharded(run: Run) -> Unsharded:
    """Bytes of one device that are whole though weights are sharded."""
    if not run.sharded:
        return Unsharded()
    trains_base, apart = run.method.trains_base, _has_embedding_units(run)
    whole = run.method.whole_parameters(run.stored_shape)
    return Unsharded(
        kept_weights=_kept_weights(run),
        fetched_weights=0.0 if _keeps_all_weights(run) else c.GATHERED_LAYERS * run.method.gathered_layer(run),
        head_weights=float(run.gathered_bytes * run.parameters.lm_head) if apart else 0.0,
        # Beside adapters, of trained embeddings and head alone.
        gradients=_gradients(run) if trains_base else float(run.compute_bytes * whole),
        unreduced_gradients=_unreduced_gradients(run),
        root_gradients=_root_gradients(run) if trains_base else 0.0,
        root_shards=run.gradient_bytes * _root_weights(run) / run.devices if trains_base else 0.0,
        setup=_setup(run),
    )


def _has_embedding_units(run: Run) -> bool:
    """Whether embeddings and head are units of their own, which weights in both places cannot be."""
    return run.program.shards_embeddings and not run.program.copies_to_shard and not run.stored_shape.tied


def _keeps_all_weights(run: Run) -> bool:
    """Whether all layers stay whole from the forward pass to the end of the backward pass."""
    return run.program.keeps_frozen_whole and not run.method.trains_base and not run.method.packs_base


def _kept_weights(run: Run) -> float:
    """Bytes of weights that stay gathered between the passes: the root's, or all of them."""
    if _keeps_all_weights(run):
        return float(run.gathered_bytes * run.parameters.total)
    if _has_embedding_units(run):
        return 0.0
    size = run.weight_bytes if run.method.packs_base else run.gathered_bytes
    return float(size * run.parameters.outside_layers)


def _gradients(run: Run) -> float:
    """Bytes of a layer's gradients in the type of the reduction, of the next one's as computed, and of the head's.

    `fully_shard` drops what it reduced only after the next layer's backward pass (FSDPParamGroup.post_backward).
    """
    head = 0 if _has_embedding_units(run) else run.compute_bytes * run.shape.vocab * run.shape.hidden
    computed = 0 if run.program.casts_module else run.compute_bytes
    layer = run.parameters.in_layers / run.shape.layers
    return (_reduced_bytes(run) + computed) * layer + head


def _reduced_bytes(run: Run) -> int:
    """Bytes per number of gradients that are reduced."""
    own = run.gradient_bytes
    return own if run.program.reduces_float32 else min(own, run.compute_bytes)


def _unreduced_gradients(run: Run) -> float:
    """Bytes of all gradients in the type of the computation, of programs that add up whole ones.

    accelerate enters no_sync for all but the last of a batch's micro-batches unless sync_each_batch is set; for FSDP
    that means whole gradients (its guide on gradient synchronization: Mixtral's 69 GB a device are too many with two).
    """
    if not run.program.adds_whole_gradients or run.program.casts_module:
        return 0.0
    return float(run.compute_bytes * run.trainable_parameters)


def _root_gradients(run: Run) -> float:
    """Bytes that the reduction of the root's gradients needs beyond those of a layer."""
    root, apart = _root_weights(run), _has_embedding_units(run)
    # The root's 16-bit ones take the place of its weights.
    fresh = (_reduced_bytes(run) + (run.compute_bytes if apart else 0)) * root
    if run.stored_shape.tied:
        # The head's, the embeddings', and their sum.
        fresh = max(fresh, 3 * run.compute_bytes * root)
    return max(0.0, float(fresh) - _gradients(run))


def _root_weights(run: Run) -> int:
    """Weights whose gradients are reduced after the last layer's."""
    return run.parameters.embeddings if _has_embedding_units(run) else run.parameters.outside_layers


def _setup(run: Run) -> float:
    """Bytes while a model is cut into shards."""
    # A packed base is loaded packed and never raised when it is sharded.
    if not (run.program.sharded_master and run.program.copies_to_shard) or run.method.packs_base:
        return 0.0
    # What 2 x 8 devices hold beyond that of a frozen base of 70B is as much as its shards once more; why is not known.
    shards = run.weight_bytes if not run.method.trains_base and run.nodes == 1 else 4
    return c.SETUP_COPIES * 4.0 * run.parameters.outside_layers + shards * run.parameters.total / run.devices
