# SPDX-License-Identifier: Apache-2.0
"""Activation memory: what a decoder layer keeps for its backward pass, tensor by tensor, in bytes per token.

A frozen linear layer keeps nothing: the gradient of its input needs its weight alone. What is kept, then, are norms'
inputs, queries, keys, values and the attention's output, the MLP's gate, its activation and its other half, and the
inputs of whatever is trained (each method's `saved_inputs`). For transformers' Llama the sums are exact: a traced step
gives the same numbers.
"""

from dataclasses import dataclass

from finetree_estimator import constants as c
from finetree_estimator.memory.attention_scores import score_bytes
from finetree_estimator.memory.token_mixers import attending_share, mean_of_layers
from finetree_estimator.run import Run

PLAIN_GELU = frozenset({"gpt2", "phi", "gptj", "codegen"})
"""Families whose activation is written out as products and a tanh, which keep their inputs (NewGELUActivation)."""
_FLOAT32_SCALES = frozenset(
    {"gemma", "gemma2", "gemma3", "gemma3_text", "gemma4_text", "gemma4_unified_text", "olmo2", "olmo3"}
)
"""Families whose norms multiply by their scale before they return to 16 bits (transformers' modules)."""
_PARALLEL_NORMS = frozenset({"gpt_neox"})
"""Families whose attention and MLP start from one tensor, each with a norm of its own (use_parallel_residual)."""
_SPLIT_PROJECTIONS = frozenset({"gpt_neox", "phi3"})
"""Families that join queries and keys, parts of one projection, anew when they turn them, but not the values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerActivations:
    """Bytes per token that a decoder layer keeps and needs, where nothing else is said."""

    norms: float
    attention: float
    """Queries, keys, values, output and the softmax's normalizer."""
    mlp: float
    trained_inputs: float
    """Inputs that gradients of trained weights need."""
    scores: float
    """Attention's scores, where no fused kernel computes them."""
    gradients: float
    """What exists at once while the layer is differentiated: the MLP's three wide tensors (one, where it overwrites
    what it kept), and four of the residual stream's width (traced: 3.7 to 3.8 wide ones)."""
    expert_copies: float
    """Bytes, not per token, that adapters of experts cost in all layers until the backward pass."""
    expert_copy: float
    """Bytes, not per token, that adapters of experts cost in the layer that is differentiated."""

    @property
    def saved(self) -> float:
        """Bytes per token that the layer keeps for its backward pass."""
        return self.norms + self.attention + self.mlp + self.trained_inputs + self.scores


def layer_activations(run: Run) -> LayerActivations:
    """Bytes per token that a decoder layer of a run keeps and needs."""
    expert_copies, expert_copy = run.method.expert_copies(run)
    return LayerActivations(
        norms=_norms(run),
        attention=mean_of_layers(run, _attention(run)),
        mlp=_mlp(run),
        trained_inputs=run.method.saved_inputs(run),
        scores=attending_share(run.shape) * score_bytes(run),
        gradients=run.stream_bytes * (_wide_features(run) + 4 * run.shape.hidden),
        expert_copies=expert_copies,
        expert_copy=expert_copy,
    )


def _norms(run: Run) -> float:
    """Bytes per token that norms keep: their inputs, and the normalized ones where a scale is trained."""
    s, stream = run.shape, run.stream_bytes
    kept = stream if s.norm_bias else max(stream, run.program.rms_norm_bytes)
    # A trained scale needs the normalized input as well.
    trained = 4 if s.family in _FLOAT32_SCALES else stream
    scales = trained if run.method.trains_base and not (s.norm_bias or run.program.fused_norms) else 0
    heads = (s.mean_q_width + s.mean_kv_width) if s.head_norms or s.family in {"olmo2", "olmo3"} else 0
    inputs = 1 if s.family in _PARALLEL_NORMS else s.norms_per_layer
    latents = s.latent.query_rank + s.latent.key_value_rank if s.latent else 0
    return float((kept + scales) * (inputs * s.hidden + latents + attending_share(s) * heads))


def _attention(run: Run) -> float:
    """Bytes per token of queries, keys, values, the output and the softmax's normalizer."""
    s, size = run.shape, run.activation_bytes
    kv = 2 * (s.mean_q_width if run.program.expands_kv else s.mean_kv_width)
    fused = size * (2 * s.mean_q_width + kv) + c.NORMALIZER_BYTES * s.heads
    if s.latent:
        # Values are a view of one product with the keys' plain part; the output is as wide as the values.
        latent = s.latent
        narrower = 2 * (latent.head_dim - latent.value_head_dim) - latent.plain_head_dim
        fused -= size * s.heads * narrower
        if run.method.trains_base:
            # The output has the layout of the joined queries here too.
            fused += size * s.heads * latent.value_head_dim
    split = s.family in _SPLIT_PROJECTIONS and not run.program.own_classes
    if split and run.method.trains_base:
        # The output has the layout of the joined queries: a copy in rows is what the output projection reads.
        fused += size * s.mean_q_width
    if run.program.keeps_fused_projection or split:
        # Values are a view of the joint buffer: its queries and keys stay with them.
        fused += size * (s.mean_q_width + s.mean_kv_width)
    return fused


def _mlp(run: Run) -> float:
    """Bytes per token of the activation's input and, behind a gate, its output and other half; copies for experts.

    So for a layer's own input, whose gate is as an MLP's.
    """
    s = run.shape
    written_out = s.family in PLAIN_GELU and not run.program.own_classes
    tensors = 3 if s.gated else 4 if written_out else 1
    if run.method.fuses_mlp(run) or (s.gated and run.program.overwrites_halves):
        tensors = 2
    if run.program.compiled:
        # The gate's activation and a written-out GELU's steps are computed again from their inputs.
        tensors = 2 if s.gated else 1
    return float(run.stream_bytes * (tensors * s.mean_mlp_width + 3 * s.layer_inputs + _routed(run)))


def _routed(run: Run) -> int:
    """Features per token that a mixture's layer keeps beside its experts' own, for each expert that a token uses.

    Grouped, the experts' outputs, which the gradient of the router's weights needs, and where experts are trained their
    inputs in the experts' order (a traced step of transformers 5.24's Qwen3-MoE and Mixtral). In turn, both.
    """
    s = run.shape
    if not s.experts:
        return 0
    inputs = run.program.experts_in_turn or run.method.trains_base
    return (2 if inputs else 1) * s.hidden * s.active_experts


def _wide_features(run: Run) -> float:
    """Features of the tensors that the MLP's backward pass makes, for each token: three of its width.

    One, where it overwrites what it kept. Where experts come in turn, a token has its share of one of them at a time.
    Grouped, each token has as many rows as experts, which are first put back into their order: three of the stream's
    width, where that is more than the experts' own (a traced step of transformers 5.24's Qwen3-MoE).
    """
    s = run.shape
    halves = s.gated and run.program.overwrites_halves
    wide = s.widest_mlp * (1.0 if halves or run.method.fuses_mlp(run) else 3.0)
    if not s.experts:
        return wide
    if run.program.experts_in_turn:
        return wide * s.active_experts / s.experts
    return max(wide, 3.0 * s.hidden) * s.active_experts
