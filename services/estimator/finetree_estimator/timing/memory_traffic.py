# SPDX-License-Identifier: Apache-2.0
"""Bytes that a step moves outside of matrix products and layers: attention's scores, the loss, the optimizer's update.

What is small in FLOPs need not be small in time: an optimizer goes over its numbers many times, a softmax that no
kernel fuses goes over every score. Each of these is bound by the memory's bandwidth, whatever the rate of the matrix
units. What adapters and packed weights move, each method says (methods/lora.py, methods/qlora.py).
"""

from finetree_estimator import constants as c
from finetree_estimator.run import Rows, Run


def score_traffic(run: Run) -> float:
    """Bytes per token that attention's scores move in a step where each operation goes over them by itself.

    Of all scores of a padded row, masked ones too.
    """
    forward, backward = _bytes_per_score(run)
    moved = forward * (2 if run.checkpointing else 1) + backward
    return float(run.shape.layers * run.shape.heads * run.longest_row * moved)


def _bytes_per_score(run: Run) -> tuple[int, int]:
    """Bytes moved per attention score, forward and backward."""
    if run.program.compiled:
        return c.COMPILED_SCORE_TRAFFIC
    if run.compute_bytes > 2:
        return c.FLOAT32_SCORE_TRAFFIC
    # Shards, and what DeepSpeed holds, are of 16 bits without autocast.
    autocast = run.autocasts_trained_weights and not run.sharded and not run.program.casts_module
    return c.AUTOCAST_SCORE_TRAFFIC if autocast and run.program.own_classes else c.EAGER_SCORE_TRAFFIC


def loss_traffic(run: Run, rows: Rows, *, whole: bool = False) -> float:
    """Bytes per token that a loss of written logits moves, which no cache holds; `whole`: compiled with the model."""
    if run.loss == "fused":
        return 0.0
    compiled = run.program.compiled and (whole or run.program.compiles_loss)
    per_logit = c.COMPILED_LOSS_TRAFFIC if compiled else c.LOSS_TRAFFIC
    if run.loss == "in-place":
        per_logit = min(per_logit, _in_place_traffic(run))
    return per_logit * run.shape.vocab * loss_share(run, rows)


def _in_place_traffic(run: Run) -> float:
    """Bytes moved per logit by a loss that overwrites logits with their gradient.

    Read for the sum, read again and overwritten, read and scaled by the loss's own gradient (Liger's
    ops/cross_entropy.py); copied to float32 before, and back, where the program does that.
    """
    size = run.activation_bytes
    raised = 4 if run.program.raises_logits else size
    return float(5 * raised + (2 * (size + raised) if raised > size else 0))


def loss_share(run: Run, rows: Rows) -> float:
    """Share of tokens whose logits are computed, 0 to 1."""
    return rows.target_fraction if run.loss == "completion-only" else 1.0


def update_traffic(run: Run) -> float:
    """Bytes that an optimizer step moves: clipping of the gradients, and the update."""
    numbers, states = _moved_per_weight(run)
    # A CPU's bandwidth was measured with both.
    clipped = 0 if run.on_cpu else c.CLIPPING_TRAFFIC
    trained = run.method.trainable_parameters(run.shape)
    return run.trained_size(run.master_bytes) * (numbers + clipped) + trained * states


def _moved_per_weight(run: Run) -> tuple[int, int]:
    """Numbers of the weights' own size, and further bytes of moments, that an update moves for each weight."""
    if run.optimizer in ("adamw-8bit", "paged-adamw-8bit"):
        # One kernel goes over everything once: weight in and out, gradient in, two bytes of moments in and out.
        return 3, 4
    if run.optimizer == "sgd":
        return 3, 0
    if run.optimizer == "adafactor":
        return c.ADAFACTOR_TRAFFIC, 0
    return (c.OPTIMIZER_TRAFFIC if run.program.fused_optimizer else c.UNFUSED_OPTIMIZER_TRAFFIC), 0


def weight_cast_traffic(run: Run) -> float:
    """Bytes of a micro-batch in which autocast copies trained float32 weights to 16 bits, and gradients to float32.

    0 where a library shards the work: it casts what it gathers (FSDP's mixed precision, DeepSpeed's engine).
    """
    if run.sharded or run.program.casts_module or not run.autocasts_trained_weights:
        return 0.0
    passes = 3 if run.checkpointing else 2
    trained = run.method.trainable_parameters(run.shape)
    return float(passes * trained * (run.master_bytes + run.compute_bytes))
