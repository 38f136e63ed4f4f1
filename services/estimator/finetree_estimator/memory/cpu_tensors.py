# SPDX-License-Identifier: Apache-2.0
"""Tensors of the worker on a CPU, in bytes per token: what a layer keeps, and what exists inside one for a moment."""

from finetree_estimator import constants as c
from finetree_estimator.memory.token_mixers import attending_share, mean_of_layers
from finetree_estimator.methods.base import FirstLayer
from finetree_estimator.run import Rows, Run

FLOAT = 4
"""Bytes of a float32 number."""
SAME_LENGTH = 1.02
"""Longest row over the mean one below which rows count as equally long: micro-batches are filled up to 32 tokens."""
NORMS_BY_HAND = frozenset({"", "llama", "mistral", "qwen2", "qwen3", "smollm3"})
"""Families whose norms keep their input as it came, in the worker; others keep it in float32. "": an unnamed Llama."""
QUERY_BLOCK = 64
"""Queries whose scores the worker's own attention computes at once where rows are short."""
GROUP_SPREAD = 1.25
"""Longest document of an attention group over the mean one, where lengths vary: a group takes in documents down to 0.6
of its longest (the worker's attention), 0.8 in the mean."""


def kept_per_token(run: Run) -> float:
    """Bytes per token that one decoder layer keeps for its backward pass, adapters included."""
    shape, size = run.shape, run.compute_bytes
    length, padding = document_length(run.rows, run.sequence_length)
    short = length <= c.SHORT_ROW_TOKENS
    if run.eager_attention:
        # Keys and values are repeated to one per query head; products are in float32 and have no use for their output.
        attended, scores = float(shape.mean_q_width * 3 * FLOAT), (FLOAT + size) * length
    elif short or size < FLOAT:
        # The worker's own: nothing is repeated; probabilities of the keys that a block of queries sees.
        attended = float(size * (shape.mean_q_width + 2 * shape.mean_kv_width))
        scores = size * (length + QUERY_BLOCK) / 2 if short else 0.0
    else:
        # torch's fused kernel: keys and values repeated, its output, and a normalizer per row.
        attended, scores = float(shape.mean_q_width * 4 * size), float(FLOAT)
    # The output projection's input is the attention's output, unless documents are put together or cast in between.
    kernel = not run.eager_attention and not short and size == FLOAT
    apart = run.method.trains_base and (not kernel or padding > 1)
    output = size * shape.mean_q_width if apart else 0
    attention = output + padding * (attended + shape.heads * scores)
    return _kept_outside_attention(run) + mean_of_layers(run, attention)


def _kept_outside_attention(run: Run) -> float:
    """Bytes per token of norms, MLP and inputs of what is trained; queries, keys, values and scores left out."""
    shape, size, stream = run.shape, run.compute_bytes, stream_bytes(run)
    norms = (shape.norms_per_layer * shape.hidden + _head_norms(run)) * norm_bytes(run)
    # Gated: gate, activated gate and up. Their product is the down-projection's input and counted there.
    mlp = size * ((3 if shape.gated else 1) * shape.mean_mlp_width + 3 * shape.layer_inputs)
    inputs = run.method.saved_inputs_on_cpu(shape, compute_bytes=size, stream_bytes=stream)
    return float(norms + mlp + inputs)


def norm_bytes(run: Run) -> int:
    """Bytes per feature that a norm keeps: its input, as it came.

    A plain norm turns it into float32, and keeps for its weight's gradient the normalized input too. Layers of a
    sharded model are computed the plain way.
    """
    if run.shape.family in NORMS_BY_HAND and not run.sharded:
        return stream_bytes(run)
    return FLOAT + (stream_bytes(run) if run.method.trains_base else 0)


def _head_norms(run: Run) -> float:
    """Features of queries and keys, or of their latents, that norms of their own go over, in the mean of all layers."""
    if latent := run.shape.latent:
        return float(latent.query_rank + latent.key_value_rank)
    return (
        attending_share(run.shape) * (run.shape.mean_q_width + run.shape.mean_kv_width) if run.shape.head_norms else 0.0
    )


def document_length(rows: Rows | None, limit: int) -> tuple[float, float]:
    """Tokens to which a token's document is padded for attention, and the tokens so padded per real one."""
    if rows is None:
        return float(limit), 1.0
    padding = min(GROUP_SPREAD, rows.longest / rows.mean)
    if padding < SAME_LENGTH:
        return float(rows.longest), 1.0
    return min(rows.attention_span * padding, float(rows.longest)), padding


def stream_bytes(run: Run) -> int:
    """Bytes per number of the worker's residual stream: float32 under autocast, which casts for products alone."""
    return run.master_bytes if run.autocasts_trained_weights else run.compute_bytes


def cast_weights(run: Run) -> float:
    """Bytes of the copies in the compute type that products with trained float32 weights keep for their backward pass.

    Those of a whole model are let go layer by layer before its gradients are complete.
    """
    if run.compute_bytes >= run.master_bytes:
        return 0.0
    copies = float(run.compute_bytes * run.method.trainable_parameters(run.shape))
    return copies / run.shape.layers if run.checkpointing and run.method.trains_base else copies


def outside_layers(run: Run) -> float:
    """Bytes per token of the last norm and of what the source of dropout masks holds, less what layer 0 spares.

    The first norm of a frozen model keeps nothing, since nothing below it is trained; nor does anything else below the
    first bottleneck. With checkpointing nothing is spared: a layer's input is all that it keeps.
    """
    hidden = run.shape.hidden
    if run.method.trains_base:
        return float(hidden * (norm_bytes(run) + stream_bytes(run)))
    last_norm = hidden * norm_bytes(run) - (0.0 if run.checkpointing else _spared_in_first_layer(run))
    return last_norm + run.method.dropout_source(
        run.shape, compute_bytes=run.compute_bytes, checkpointing=run.checkpointing
    )


def _spared_in_first_layer(run: Run) -> float:
    whole, rest = kept_per_token(run), _kept_outside_attention(run)
    trained = run.method.saved_inputs_on_cpu(run.shape, compute_bytes=run.compute_bytes, stream_bytes=stream_bytes(run))
    attention = whole - rest + norm_bytes(run) * _head_norms(run)
    norm = float(norm_bytes(run) * run.shape.hidden)
    return run.method.spared_in_first_layer(FirstLayer(norm=norm, attention=attention, frozen=whole - trained))


def layer_transient(run: Run, number_bytes: int = 0) -> float:
    """Bytes per token of the gradients inside one MLP, where a layer's backward pass begins; of its tensors forward.

    `number_bytes` are bytes per number; 0 means those of the compute type.
    """
    wide = (3 if run.shape.gated else 2) * run.shape.max_mlp_width
    return float((number_bytes or run.compute_bytes) * (wide + 2 * run.shape.hidden))
