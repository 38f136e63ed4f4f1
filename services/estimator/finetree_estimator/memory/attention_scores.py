# SPDX-License-Identifier: Apache-2.0
"""What attention keeps for the backward pass where no fused kernel computes it: its scores, and keys for each query."""

from finetree_estimator import constants as c
from finetree_estimator.run import Run


def score_bytes(run: Run) -> float:
    """Bytes per token of what a layer keeps of its scores, repeated keys and values included; 0 in a fused kernel."""
    heads = run.shape.heads
    if run.on_cpu:
        return heads * _cpu_score_bytes(run)
    length = score_length(run)
    repeated = _repeated_bytes(run) if length or _beyond_kernels(run) else 0.0
    return max(repeated + heads * _bytes_of_one(run) * length, _mask_bytes(run))


def shared_mask_bytes(run: Run) -> float:
    """Bytes per token of the mask that all layers with a sliding window share: a boolean for each token of the row."""
    return float(run.longest_attended) if run.masks_windows else 0.0


def _mask_bytes(run: Run) -> float:
    """Bytes per token that a layer keeps on average since layers with a window attend under a mask.

    torch's attention makes numbers of the compute type of a boolean mask, one for each token of the row, and keeps them
    for the backward pass (convert_boolean_attn_mask in its attention.cpp); transformers repeats grouped keys and values
    where there is a mask (use_gqa_in_sdpa).
    """
    if not run.masks_windows:
        return 0.0
    kept = run.activation_bytes * float(run.longest_attended) + _repeated_bytes(run)
    return kept * run.shape.windowed_layers / run.shape.layers


def score_length(run: Run) -> int:
    """Tokens that each token of a GPU's run has a score for where scores are kept; 0 where none are."""
    if run.eager_attention or (_beyond_kernels(run) and _unmasked(run)):
        return run.longest_row
    return 0


def _beyond_kernels(run: Run) -> bool:
    """Whether float32 queries share keys and values that the program leaves to torch's attention to spread.

    Of its kernels for GPUs only that of FlashAttention takes groups, and it takes no float32: without a mask torch
    computes scores one by one (its scaled_dot_product_attention says so of enable_gqa). With one, transformers repeats
    keys and values first (its sdpa_attention, use_gqa_in_sdpa), for the kernel that takes them then. A quantized base
    that was raised to float32 is left out: published runs of such have kept scores, and have not.
    """
    s = run.shape
    grouped = run.program.hands_over_groups and s.kv_width < s.q_width and run.compute_bytes == 4
    return grouped and not run.method.joins_keys_and_values


def _unmasked(run: Run) -> bool:
    """Whether no row of a micro-batch is padded, so that none needs a mask."""
    rows = run.rows
    whole = rows is not None and rows.mean_known and rows.longest_known and rows.mean == rows.longest
    return run.rows_at_once == 1 or (whole and not run.packing)


def _repeated_bytes(run: Run) -> float:
    """Bytes per token of keys and values that are there once for each query head, beyond those of the groups."""
    s, repeats = run.shape, run.program.hands_over_groups
    return 2.0 * run.activation_bytes * (s.mean_q_width - s.mean_kv_width) if repeats else 0.0


def _bytes_of_one(run: Run) -> int:
    """Bytes of a score that is kept: eager attention has its softmax in float32 and once more in the compute type."""
    return 4 + run.activation_bytes if run.eager_attention else 4


def _cpu_score_bytes(run: Run) -> float:
    """Bytes per token and head of a CPU, whose kernels keep the scores of short rows."""
    if run.eager_attention:
        return float(_bytes_of_one(run) * run.sequence_length)
    span = run.rows.attention_span if run.rows is not None else float(run.sequence_length)
    return c.SHORT_ROW_SCORES_BYTES * span if span <= c.SHORT_ROW_TOKENS else 0.0
