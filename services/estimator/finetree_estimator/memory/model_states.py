# SPDX-License-Identifier: Apache-2.0
"""Weights, gradients, optimizer states and quantization constants: what a device holds beside activations, in bytes.

Shards count as what one device has of them.
"""

from dataclasses import dataclass

from finetree_estimator import constants as c
from finetree_estimator.memory.sharding import Unsharded, unsharded
from finetree_estimator.run import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStates:
    """Bytes of one device."""

    base_weights: float
    """With those that are unsharded at the loss, and those of a vision tower."""
    vision_weights: float
    """Those of the vision tower among them."""
    trainable_weights: float
    """Adapters, or master copies of a fully trained model."""
    optimizer_states: float
    quantization: float
    """Constants of a packed base, and the room in which it is unpacked."""
    gradients: float
    """All of them, or one layer's and the embeddings' where each weight is updated at once; with unsharded ones."""
    head_gradient: float
    """That of a trained output head, to which a loss in chunks adds each chunk's."""
    chunk_gradient: float
    """That of a trained output head for one chunk of a loss."""
    tied_gradient: float
    """Gradient of a matrix that is embeddings and head: each of the two makes one, and the sum may be a third."""
    unsharded: Unsharded
    update_copies: float
    """What an optimizer step adds for a moment."""
    collectives: float
    """Buffers of the communication between devices."""
    whole_weights: float
    """Base weights of the whole model as they are stored in a file."""
    paged_states: float
    """Optimizer states that the host has room for; 0 where they stay on the device."""

    @property
    def kept_for_the_step(self) -> float:
        """Bytes that stay for the whole step and are counted exactly."""
        return self.base_weights + self.trainable_weights + self.optimizer_states


def model_states(run: Run) -> ModelStates:
    """Bytes that one device of a run holds beside activations."""
    head = run.shape.vocab * run.shape.hidden if run.method.trains_head else 0
    states = _states(run)
    spread = run.devices if run.sharding != "replicated" else 1
    shards = run.devices if run.sharding == "full" else 1
    whole = unsharded(run)
    paged = run.optimizer == "paged-adamw-8bit"
    vision = run.method.vision_weights(run) / shards
    return ModelStates(
        base_weights=run.method.base_weights(run) / shards + whole.kept_weights + vision,
        vision_weights=vision,
        # Master copies are spread with the optimizer's states, adapters with the weights.
        trainable_weights=_separate_weights(run) / (spread if run.method.trains_base else shards),
        # Paged states live in memory of the driver that moves to the host where the device needs the room.
        optimizer_states=0.0 if paged and not run.on_cpu else states / spread,
        quantization=run.method.quantization_overhead(run) / shards,
        gradients=_gradients(run) + whole.gradients,
        # What is gathered from shards is of 16 bits, and so is its gradient until it is reduced.
        head_gradient=float(head * (run.compute_bytes if run.sharded else _head_bytes(run))),
        chunk_gradient=float(head * run.compute_bytes),
        tied_gradient=_tied_gradient(run),
        unsharded=whole,
        update_copies=_update_copies(run, spread),
        collectives=_collectives(run),
        whole_weights=(run.parameters.total + run.shape.vision) * float(run.weight_bytes),
        paged_states=states if paged else 0.0,
    )


def _collectives(run: Run) -> float:
    """Bytes of the buffers of the library that devices communicate by; on a CPU gloo has none to speak of."""
    if run.on_cpu or run.devices == 1:
        return 0.0
    return c.COLLECTIVES + (c.COLLECTIVES_ACROSS if run.nodes > 1 else 0.0)


def state_bytes(run: Run) -> float:
    """Bytes that the optimizer keeps for each trained parameter, on the device or the host."""
    return {
        "adamw": 2.0 * run.trained_bytes,
        "adamw-8bit": c.EIGHT_BIT_STATE,
        "paged-adamw-8bit": c.EIGHT_BIT_STATE,
        "adafactor": c.ADAFACTOR_SHARE,
        "sgd": 0.0,
    }[run.optimizer]


def _states(run: Run) -> float:
    """Bytes of the optimizer's states of all that is trained."""
    if run.optimizer == "adamw":
        return 2.0 * run.trained_size(run.trained_bytes)
    return run.trainable_parameters * state_bytes(run)


def _head_bytes(run: Run) -> int:
    """Bytes per number of the gradient of a trained output head."""
    return run.trained_bytes if run.method.trains_base else run.whole_bytes


def _separate_weights(run: Run) -> int:
    """Bytes of weights beside the base: adapters, or a fully trained model's master copy where it has another type."""
    if run.method.trains_base and run.weight_bytes == run.master_bytes:
        return 0
    return run.trained_size(run.trained_bytes)


def _gradients(run: Run) -> float:
    """Bytes of the gradients that one device holds at the end of the backward pass."""
    size = run.trained_size(run.gradient_bytes)
    if run.optimizer_in_backward and run.one_micro_batch:
        trained = run.trainable_parameters
        size = min(size, (trained // run.shape.layers + run.parameters.embeddings) * run.gradient_bytes)
    spread = run.devices if run.sharding in ("gradients", "full") else 1
    # Replicas reduce copies of their gradients (DDP's buckets).
    copies = 2 if run.devices > 1 and run.sharding in ("replicated", "optimizer") else 1
    return size * copies / spread


def _tied_gradient(run: Run) -> float:
    """Bytes of one gradient of a trained matrix that is embeddings and head."""
    shape = run.stored_shape
    trained = run.method.trains_base or run.method.whole_parameters(shape)
    if not (shape.tied and trained) or run.sharded:
        return 0.0
    return float(shape.vocab * shape.hidden * _head_bytes(run))


def _update_copies(run: Run, spread: int) -> float:
    """Bytes that an optimizer step adds for a moment."""
    if run.optimizer == "adafactor" and run.method.trains_base:
        shape = run.stored_shape
        largest = max(shape.vocab * shape.hidden, shape.hidden * shape.widest_mlp)
        return c.ADAFACTOR_UPDATE[run.trained_bytes] * largest / spread
    if run.program.casts_module and run.autocasts_trained_weights:
        share = run.trainable_parameters / spread
        return 4.0 * (min(share, c.ZERO_GROUP) if run.sharded else share)
    if run.program.fused_optimizer or run.optimizer_in_backward or run.optimizer != "adamw":
        return 0.0
    return c.FOREACH_COPIES * run.trained_size(run.trained_bytes) / spread
