# SPDX-License-Identifier: Apache-2.0
"""What a layer without softmax attention keeps for its backward pass, and what is the mean of such layers and others.

Counted from the modules' source, transformers 5.24's Gated DeltaNet: computed by torch's operations it keeps float32
copies, with queries and keys repeated to one for each head of values, and scores and states by chunk; a traced layer
keeps as much within 4 % (tests). A kernel of flash-linear-attention keeps what its backward pass reads. A gated
convolution (LFM2) keeps what its two products and the convolution read.
"""

from finetree_estimator.run import Run
from finetree_estimator.shapes.architecture import Shape
from finetree_estimator.shapes.mixers import LinearAttention

CHUNK = 64
"""Tokens of a chunk, within which linear attention has scores (transformers' chunk_size)."""
_FLOAT = 4


def attending_share(shape: Shape) -> float:
    """Share of layers that have softmax attention."""
    return 1.0 - shape.mixer_layers / shape.layers


def mean_of_layers(run: Run, attention: float) -> float:
    """Bytes per token that a layer keeps on average, where one with attention keeps `attention` of it."""
    if run.shape.mixer is None:
        return attention
    share = attending_share(run.shape)
    return share * attention + (1.0 - share) * kept_per_token(run)


def kept_per_token(run: Run) -> float:
    """Bytes per token that a layer keeps of what stands in place of attention; 0 where all layers have attention."""
    if run.shape.convolution:
        # Both gates and what they gate, the gated one that the convolution reads, and what it gives.
        return float(run.compute_bytes * 5 * run.shape.hidden)
    return _kept_by_linear_attention(run, run.shape.linear) if run.shape.linear else 0.0


def _kept_by_linear_attention(run: Run, linear: LinearAttention) -> float:
    """Bytes per token: beside the inputs of convolution and activation, the output and its gate."""
    size = run.compute_bytes
    chunk = linear.value_heads * CHUNK
    if not run.program.mixes_tokens_by_torch:
        inner = float(size) * (2 * linear.key_width + linear.value_width + chunk)
        return float(size * (2 * linear.mixed + linear.value_width) + inner)
    keys = linear.value_heads * linear.key_head_dim
    states = keys * linear.value_head_dim / CHUNK
    # In float32 nothing is cast, and what was cast elsewhere is kept before and behind the norms of queries and keys.
    uncast = 4 * keys if size == _FLOAT else 0
    inner = _FLOAT * (8 * keys + 6 * linear.value_width + 5 * chunk + states + uncast)
    return float(size * (2 * linear.mixed + linear.value_width) + inner)


def forward_flops(shape: Shape) -> float:
    """FLOPs per token of a forward pass of all layers' other mixers, outside of their projections.

    Of each head of values of linear attention: four products within a chunk (keys by keys, queries by keys, two
    solutions, values), three with the state, and the convolution. Of a gated convolution: itself and two products.
    """
    if shape.convolution:
        return 2.0 * shape.convolution.layers * shape.hidden * (shape.convolution.kernel + 1)
    linear = shape.linear
    if linear is None:
        return 0.0
    key, value = linear.key_head_dim, linear.value_head_dim
    head = CHUNK * (3 * key + 2 * value) + 3 * key * value
    return 2.0 * linear.layers * (linear.value_heads * head + linear.conv_kernel * linear.mixed)
