# SPDX-License-Identifier: Apache-2.0
"""Tensors of the worker on a CPU, token by token: what a layer keeps, and what exists inside one for a moment."""

from functools import lru_cache

from finetree_estimator.catalog.architecture import Shape
from finetree_estimator.catalog.projections import Role
from finetree_estimator.memory.weights import is_mixed
from finetree_estimator.methods.base import (
    Bottleneck,
    Full,
    LoraAdapters,
    Method,
    Prefix,
    QuantizedLora,
    target_linears,
)
from finetree_estimator.methods.base import trainable_parameters as count_trainable
from finetree_estimator.run import Rows, Run

FLOAT = 4
"""Bytes of a float32 number."""
SHORT_TOKENS = 256
"""Documents up to this length attend by plain matrix products in float32 (the worker's attention.SHORT_TOKENS)."""
SAME_LENGTH = 1.02
"""Longest row over the mean one below which rows count as equally long: micro-batches are filled up to 32 tokens."""
GROUP_SPREAD = 1.25
"""Longest document of an attention group over the mean one, where lengths vary: a group takes in documents down to 0.6
of its longest (the worker's attention), 0.8 in the mean."""


def kept_per_token(run: Run) -> float:
    """Bytes per token that one decoder layer keeps for its backward pass, adapters included."""
    length, padding = document_length(run.rows, run.sequence_length)
    short = length <= SHORT_TOKENS
    kept, attended = _kept(run.shape, run.method, run.compute_bytes, stream_bytes(run), short)
    # Probabilities in float32, or of the fused kernel one normaliser per row.
    scores = (FLOAT + run.compute_bytes) * length if run.eager_attention else FLOAT * (length if short else 1.0)
    # The output projection's input is the attention's output, unless documents are put together or cast in between.
    apart = isinstance(run.method, Full) and (short or padding > 1)
    output = run.compute_bytes * run.shape.q_width if apart else 0
    return kept + output + padding * (attended + run.shape.heads * scores)


def document_length(rows: Rows | None, limit: int) -> tuple[float, float]:
    """Length to which a token's document is padded for attention, and the tokens so padded per real one."""
    if rows is None:
        return float(limit), 1.0
    padding = min(GROUP_SPREAD, rows.longest / rows.mean)
    if padding < SAME_LENGTH:
        return float(rows.longest), 1.0
    return min(rows.attention_span * padding, float(rows.longest)), padding


def stream_bytes(run: Run) -> int:
    """Bytes per number of the residual stream: float32 under autocast, which casts for products alone."""
    return run.master_bytes if is_mixed(run) else run.compute_bytes


def cast_weights(run: Run) -> float:
    """Bytes of the copies in the compute type that products with trained float32 weights keep for their backward pass.

    Those of a whole model are let go layer by layer before its gradients are complete.
    """
    if run.compute_bytes >= run.master_bytes:
        return 0.0
    copies = float(run.compute_bytes * count_trainable(run.method, run.shape))
    return copies / run.shape.layers if run.checkpointing and isinstance(run.method, Full) else copies


def outside_layers(run: Run) -> float:
    """Bytes per token of the last norm, and of what the dropout masks' source holds, less what the first layer spares.

    The source holds a hashed table (16 bits per feature of the widest input) and the newest input, with its dropped
    copy where checkpointing does not let the last layer keep that anyway. The first norm of a frozen model keeps
    nothing, since nothing below it is trained; nor does anything else below the first bottleneck.
    """
    hidden, size = run.shape.hidden, run.compute_bytes
    if isinstance(run.method, Full):
        return float(hidden * (FLOAT + 2 * stream_bytes(run)))
    if isinstance(run.method, Bottleneck) and not run.checkpointing:
        return hidden * FLOAT - _below_bottleneck(run, run.method)
    norm = hidden * FLOAT if run.checkpointing else 0
    lora = run.method.lora if isinstance(run.method, QuantizedLora) else run.method
    if not isinstance(lora, LoraAdapters) or not lora.dropout:
        return float(norm)
    widths = [linear.d_in for linear in target_linears(run.shape, lora.targets)]
    first_mask = 0 if run.checkpointing else size * hidden
    newest = size * widths[-1] * (2 if run.checkpointing else 1)
    return float(norm + 2 * max(widths) + newest - first_mask)


def _below_bottleneck(run: Run, method: Bottleneck) -> float:
    """Bytes per token that the first layer spares: its attention, and its MLP too unless a bottleneck comes before."""
    whole, shape = kept_per_token(run), run.shape
    if method.places == 1:
        return whole - _adapter_inputs(shape, method, run.compute_bytes)
    rest, _ = _kept(shape, method, run.compute_bytes, stream_bytes(run), short=True)
    head_norms = shape.q_width + shape.kv_width if shape.head_norms else 0
    return whole - rest + FLOAT * (shape.hidden + head_norms)


def layer_transient(run: Run, size: int = 0) -> float:
    """Bytes per token of the gradients inside one MLP, where a layer's backward pass begins; of its tensors forward.

    `size` is bytes per number, the compute type's by itself.
    """
    wide = (3 if run.shape.gated else 2) * run.shape.intermediate * max(1, run.shape.active_experts)
    return float((size or run.compute_bytes) * (wide + 2 * run.shape.hidden))


@lru_cache(maxsize=4096)
def _kept(shape: Shape, method: Method, size: int, stream: int, short: bool) -> tuple[float, float]:  # noqa: FBT001  # a key
    """What a layer keeps: bytes per token, and bytes per padded token of queries, keys and values in attention."""
    full = isinstance(method, Full)
    # A norm keeps its float32 input, and for its weight's gradient the normalised one.
    normed = shape.norms_per_layer * shape.hidden + (shape.q_width + shape.kv_width if shape.head_norms else 0)
    norms = normed * (FLOAT + (stream if full else 0))
    wide = shape.intermediate * max(1, shape.active_experts)
    # Gated: gate, activated gate and up. Their product is the down-projection's input and counted there.
    inside = size * (3 if shape.gated else 1) * wide
    inputs = _full_inputs(shape, size, stream, wide) if full else _adapter_inputs(shape, method, size)
    # Keys and values are repeated to one per query head. Plain products work in float32 and have no use for their
    # output; the fused kernel keeps it.
    attended = shape.q_width * (3 * FLOAT if short else 4 * size)
    return float(norms + inside + inputs), float(attended)


def _full_inputs(shape: Shape, size: int, stream: int, wide: int) -> float:
    """Inputs of projections for their weights' gradients: one of attention and MLP, a cast each under autocast."""
    copies = (3 + (2 if shape.gated else 1)) if stream > size else 2
    return float(size * (copies * shape.hidden + wide))


def _adapter_inputs(shape: Shape, method: Method, size: int) -> float:
    """What adapters keep; the frozen projections themselves keep nothing."""
    method = method.lora if isinstance(method, QuantizedLora) else method
    if isinstance(method, LoraAdapters):
        return _lora_inputs(shape, method, size)
    if isinstance(method, Prefix):
        return float(size * 2 * shape.kv_width)
    # The narrow part's rectified output is the input of the product behind it, too.
    return float(method.places * size * (shape.hidden + method.size)) if isinstance(method, Bottleneck) else 0.0


def _lora_inputs(shape: Shape, method: LoraAdapters, size: int) -> float:
    """Each adapter's input (projections that read the same tensor share it) with its dropout mask, and A's output."""
    targets = target_linears(shape, method.targets)
    read = {_READS.get(linear.role, linear.role): linear.d_in for linear in targets}
    return float(size * (sum(read.values()) * (2 if method.dropout > 0 else 1) + method.rank * len(targets)))


_READS = {Role.KEY: Role.QUERY, Role.VALUE: Role.QUERY, Role.GATE: Role.UP}
"""Projections that read the same tensor as another one."""
