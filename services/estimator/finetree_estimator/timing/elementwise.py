# SPDX-License-Identifier: Apache-2.0
"""Bytes that a decoder layer's operations between its products move, counted from the modules' source.

Norms, rotary embedding, the MLP's activation, residual additions: each kernel reads its inputs from the memory and
writes its output back. Counted are transformers' modules, whose steps autograd differentiates one by one; hand-fused
kernels, one for each of them (Unsloth, Liger; for norms, other programs' own classes); and what torch.compile leaves.
Attention's kernel is not in it: it is bound by its products.
"""

from dataclasses import dataclass

from finetree_estimator import constants as c
from finetree_estimator.memory.activations import PLAIN_GELU
from finetree_estimator.memory.token_mixers import attending_share, kept_per_token
from finetree_estimator.run import Run
from finetree_estimator.shapes.projections import Role, layout

_NO_ROTARY = frozenset({"mpt", "bloom", "gpt2", "gpt_bigcode", "opt"})
"""Families whose positions are learned, or slopes of attention's scores."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes per token of a forward and of a backward pass."""

    forward: float = 0.0
    backward: float = 0.0

    def __add__(self, other: "Traffic") -> "Traffic":
        """Both together."""
        return Traffic(self.forward + other.forward, self.backward + other.backward)

    def times(self, width: float) -> "Traffic":
        """Traffic of so many features."""
        return Traffic(self.forward * width, self.backward * width)


def layer_traffic(run: Run) -> Traffic:
    """Bytes per token that the operations of one layer move between its products."""
    norms = run.program.compiled or run.program.fused_norms
    activation = run.program.compiled or run.program.fused_activation
    kernels = _norms(run, fused=norms) + _rotary(run, fused=norms) + _mlp(run, fused=activation)
    return kernels + _residual(run) + _casts(run) + _mixer(run)


def cached_share(run: Run, tokens: float) -> float:
    """Share of a micro-batch's traffic that a cache spares the memory: what one kernel wrote, the next finds there.

    The stream's and the MLP's tensors come in turn; of larger ones a cache keeps no more than it has room for.
    """
    s = run.shape
    tensor = tokens * (s.hidden + s.mean_mlp_width) / 2 * run.compute_bytes
    return c.CACHED_TRAFFIC * min(1.0, c.CACHE_SHARE * run.device.cache_bytes / tensor)


def _norms(run: Run, *, fused: bool) -> Traffic:
    """Bytes per token of the norms: LayerNorm and a fused RMSNorm are one kernel, LlamaRMSNorm eight steps in float32.

    Forward: to float32 (6), square (8), mean (4), times the root's inverse (8), back to the stream's type (6), times
    the scale. Backward: the casts', of the product its two factors' (8, 16), of the mean and the square (8, 8, 12), and
    the sum of both ways to the input (12).
    """
    s, stream = run.shape, run.stream_bytes
    heads = s.mean_q_width + s.mean_kv_width if s.head_norms else 0
    width = s.norms_per_layer * s.hidden + attending_share(s) * heads
    scale = 2 * stream if run.method.trains_base else 0
    if s.norm_bias or fused or run.program.rms_norm_bytes == 2:
        return Traffic(2 * stream, 3 * stream + scale).times(width)
    casts = 2 * (2 + 4) if stream == 2 else 0
    return Traffic(casts + 4 + 8 + 8 + 2 * stream, casts + 64 + 2 * stream + scale).times(width)


def _rotary(run: Run, *, fused: bool) -> Traffic:
    """Bytes per token of the rotary embedding.

    Queries and keys times cosines, their turned halves times sines, and the sum (apply_rotary_pos_emb).
    """
    s = run.shape
    if s.learned_positions or s.family in _NO_ROTARY:
        return Traffic()
    numbers = Traffic(2, 2) if fused else Traffic(10, 15)
    return numbers.times(attending_share(s) * run.compute_bytes * (s.mean_q_width + s.mean_kv_width))


def _mixer(run: Run) -> Traffic:
    """Bytes per token of other mixers outside of their projections, in the mean of all layers: own assumption.

    What is kept is written and read twice forward; backward, each with its gradient.
    """
    kept = kept_per_token(run) * (1.0 - attending_share(run.shape))
    return Traffic(3.0, 6.0).times(kept)


def _residual(run: Run) -> Traffic:
    """Bytes per token of additions to the stream, and of its gradients from several projections of one input."""
    s, stream, size = run.shape, run.stream_bytes, run.compute_bytes
    if run.program.compiled:
        # One kernel with the norm that follows: it reads the branch and writes the sum beside what it does anyway.
        return Traffic(2 * (size + stream), 2 * (size + stream)).times(s.hidden)
    roles = _roles(run)
    shared = sum(role in roles for role in (Role.KEY, Role.VALUE)) + (s.gated and Role.GATE in roles)
    # Unsloth's functions of several adapted projections add up in place.
    added = 0 if run.program.fuses_adapters else 3 * size * shared
    return Traffic(2 * (2 * stream + size), 2 * 3 * stream + added).times(s.hidden)


def _mlp(run: Run, *, fused: bool) -> Traffic:
    """Bytes per token of the activation, times the other half where there is a gate; copies for each expert."""
    s, size = run.shape, run.compute_bytes
    routed = Traffic(8, 8).times(size * s.hidden * s.active_experts) if s.experts else Traffic()
    if s.gated:
        numbers = Traffic(3, 6) if fused else Traffic(5, 9)
    else:
        # Written out as a cube, products and a tanh in some families (NewGELUActivation).
        steps = s.family in PLAIN_GELU and not run.program.own_classes and not fused
        numbers = Traffic(18, 25) if steps else Traffic(2, 3)
    return numbers.times(size * (s.mean_mlp_width + s.layer_inputs)) + routed


def _casts(run: Run) -> Traffic:
    """Bytes per token that autocast moves around each product that reads a float32 stream, and for its gradient."""
    stream, size = run.stream_bytes, run.compute_bytes
    # Behind a raised base the packed layers cast for themselves (methods/qlora.py); compilation fuses casts.
    if stream <= size or run.raises_base or run.program.compiled:
        return Traffic()
    gated = run.shape.gated
    readers = sum(r not in (Role.OUTPUT, Role.DOWN) and (gated or r is not Role.GATE) for r in _roles(run))
    return Traffic(stream + size, stream + size).times(readers * run.shape.hidden)


def _roles(run: Run) -> list[Role]:
    """What a layer's projections compute."""
    parts = layout(run.shape.family)
    return [role for _, role in (*parts.attention, *parts.mlp)]
