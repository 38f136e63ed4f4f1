# SPDX-License-Identifier: Apache-2.0
"""What a decoder layer keeps for its backward pass, tensor by tensor, in bytes per token.

A frozen linear layer keeps nothing: the gradient of its input needs its weight alone. What is kept, then, are norms'
inputs, queries, keys, values and the attention's output, the MLP's gate, its activation and its other half, and the
inputs of whatever is trained. For transformers' Llama the sums are exact: a traced step gives the same numbers.
"""

from functools import lru_cache
from typing import NamedTuple

from finetree_estimator import constants as c
from finetree_estimator.catalog.projections import Role
from finetree_estimator.memory.attention_scores import score_bytes
from finetree_estimator.methods.base import Full, LoraAdapters, Prefix, QuantizedLora, target_linears
from finetree_estimator.recipe import Recipe
from finetree_estimator.run import Run


class Layer(NamedTuple):
    """What a decoder layer keeps and needs, bytes per token where nothing else is said; attention's scores left out."""

    norms: float
    attention: int
    mlp: float
    trained: float
    """Inputs that gradients of trained weights need."""
    gradients: float
    """What exists at once while the layer is differentiated: the MLP's three wide tensors (one, where it overwrites
    what it kept), and four of the residual stream's width (traced: 3.7 to 3.8 wide ones)."""
    stream: int
    """Bytes per number of the residual stream."""
    experts: float
    """Bytes that adapters of experts cost until the backward pass, whatever the tokens: of all layers."""
    one_layer: float
    """The same of the one layer that is differentiated."""
    saved: float
    """What the layer keeps in all."""


@lru_cache(maxsize=4096)
def layer_of(recipe: Recipe) -> Layer:
    """What a decoder layer of a run keeps and needs."""
    stream = stream_bytes(recipe)
    norms, attention, mlp, trained = _norms(recipe), _attention(recipe), _mlp(recipe), _trained_inputs(recipe)
    return Layer(
        norms,
        attention,
        mlp,
        trained,
        stream * (_wide_at_once(recipe) * recipe.shape.intermediate + 4 * recipe.shape.hidden),
        stream,
        *_adapted_expert_bytes(recipe),
        norms + attention + mlp + trained,
    )


def _wide_at_once(recipe: Recipe) -> float:
    """Tensors of the MLP's width that its backward pass makes, for each token."""
    return 1.0 if _fused_mlp(recipe) else 3 * _experts_at_once(recipe)


def _experts_at_once(recipe: Recipe) -> float:
    """MLPs that a token is in while they are differentiated: where experts come in turn, only its share of one."""
    s = recipe.shape
    active = float(max(1, s.active_experts))
    return active / s.experts if s.experts and recipe.program.experts_in_turn else active


def saved_per_layer(run: Run) -> float:
    """Bytes per token that one decoder layer keeps, what is trained included."""
    return saved_by(layer_of(run.recipe), run)


def saved_by(layer: Layer, run: Run) -> float:
    """The same where the layer is known: what the run's rows add to it are attention's scores."""
    scores = score_bytes(run)
    return layer.saved + scores if scores else layer.saved


def stream_bytes(run: Recipe) -> int:
    """Bytes per number of the residual stream: float32 where the program raises a quantised base."""
    if run.raised:
        return 4
    if not run.sharded and run.program.mixed_base_bytes > run.compute_bytes and stored_bytes(run) > run.compute_bytes:
        # Embeddings in float32 make the stream float32; products are cast down. Shards are cast as they are gathered.
        return stored_bytes(run)
    return run.compute_bytes


def stored_bytes(run: Recipe) -> int:
    """Bytes per number of embeddings, norms and head as the model holds them."""
    if run.raised:
        return 4
    if run.program.casts_module:
        return run.compute_bytes
    return run.master_bytes if isinstance(run.method, Full) else run.weight_bytes


_FLOAT32_SCALES = frozenset({"gemma", "gemma2", "gemma3", "gemma3_text", "olmo2", "olmo3"})
"""Families whose norms multiply by their scale before they return to 16 bits (transformers' modules)."""
PLAIN_GELU = frozenset({"gpt2", "phi", "gptj", "codegen"})
"""Families whose activation is written out as products and a tanh, which keep their inputs (NewGELUActivation)."""


_PARALLEL_NORMS = frozenset({"gpt_neox"})
"""Families whose attention and MLP start from one tensor, each with a norm of its own (use_parallel_residual)."""
_SPLIT_PROJECTIONS = frozenset({"gpt_neox", "phi3"})
"""Families that join queries and keys, parts of one projection, anew when they turn them, but not the values."""


def _norms(run: Recipe) -> float:
    s, stream = run.shape, stream_bytes(run)
    kept = stream if s.norm_bias else max(stream, run.program.rms_norm_bytes)
    # A trained scale needs the normalised input as well.
    trained = 4 if s.family in _FLOAT32_SCALES else stream
    scales = trained if isinstance(run.method, Full) and not s.norm_bias else 0
    heads = (s.q_width + s.kv_width) if s.head_norms or s.family in {"olmo2", "olmo3"} else 0
    inputs = 1 if s.family in _PARALLEL_NORMS else s.norms_per_layer
    return float((kept + scales) * (inputs * s.hidden + heads))


def _attention(run: Recipe) -> int:
    """Queries, keys, values, output and the softmax's normaliser; scores, where they are kept, come on top."""
    s, size = run.shape, run.activation_bytes
    kv = 2 * (s.q_width if run.program.expands_kv else s.kv_width)
    fused = size * (2 * s.q_width + kv) + c.NORMALIZER_BYTES * s.heads
    split = s.family in _SPLIT_PROJECTIONS and not run.program.own_classes
    if split and isinstance(run.method, Full):
        # The output has the layout of the joined queries: a copy in rows is what the output projection reads.
        fused += size * s.q_width
    if run.program.keeps_fused_projection or split:
        # Values are a view of the joint buffer: its queries and keys stay with them.
        fused += size * (s.q_width + s.kv_width)
    return fused


def _mlp(run: Recipe) -> float:
    """The activation's input and, behind a gate, its output and the other half; copies of the tokens for experts."""
    s = run.shape
    written_out = s.family in PLAIN_GELU and not run.program.own_classes
    tensors = 3 if s.gated else 4 if written_out else 1
    if _fused_mlp(run):
        tensors = 2
    if run.program.compiled:
        # The gate's activation and a written-out GELU's steps are computed again from their inputs.
        tensors = 2 if s.gated else 1
    routed = 2 * s.hidden * s.active_experts if s.experts else 0
    return float(stream_bytes(run) * (tensors * s.intermediate * max(1, s.active_experts) + routed))


def _trained_inputs(run: Recipe) -> float:
    """Inputs that gradients of trained weights need."""
    s, size = run.shape, run.compute_bytes
    method = run.method.lora if isinstance(run.method, QuantizedLora) else run.method
    if isinstance(method, Full):
        # Of query, key and value together; of the MLP's first layer; of its last. The output projection's is kept.
        return float(size * (2 * s.hidden + s.intermediate * max(1, s.active_experts)))
    if isinstance(method, LoraAdapters):
        return _lora_inputs(run, method) + _quantized_inputs(run)
    if isinstance(method, Prefix):
        # Keys and values are copied to join the prefix.
        return float(size * 2 * s.kv_width)
    # A bottleneck's input, and its narrow tensor before and after the non-linearity.
    return float(method.places * size * (s.hidden + 2 * method.size))


def _quantized_inputs(run: Recipe) -> float:
    """Inputs that the products with a quantised base keep although it is frozen.

    They are attributes of the graph's nodes (bitsandbytes' ctx.tensors), which the backward pass does not free: where a
    loop holds a loss until the next one is there, those of the micro-batch before are alive as well. Attention's output
    counts there only, since the softmax keeps that of the present one.
    """
    if not isinstance(run.method, QuantizedLora):
        return 0.0
    # bitsandbytes' 8-bit product keeps its input in every version (MatMul8bitLt's saved tensors).
    if run.method.bits == 4 and not run.program.keeps_quantized_inputs:
        return 0.0
    s = run.shape
    kept = min(2, s.norms_per_layer) * s.hidden + s.intermediate * max(1, s.active_experts)
    before = kept + s.q_width if run.program.keeps_last_loss else 0
    return float(run.compute_bytes * (kept + before))


def _fused_mlp(run: Recipe) -> bool:
    """Whether the MLP and its adapters are one function: so where all three are adapted, and nothing is dropped."""
    method = run.method.lora if isinstance(run.method, QuantizedLora) else run.method
    if not run.program.fuses_adapted_mlp or not isinstance(method, LoraAdapters) or method.dropout > 0:
        return False
    s = run.shape
    if not s.gated or s.experts or s.mlp_bias:
        return False
    adapted = {linear.role for linear in target_linears(s, method.targets)}
    return adapted >= {Role.GATE, Role.UP, Role.DOWN}


_SAME_INPUT = {
    Role.KEY: Role.QUERY,
    Role.VALUE: Role.QUERY,
    Role.QKV: Role.QUERY,
    Role.UP: Role.GATE,
    Role.GATE_UP: Role.GATE,
}
"""Projections that read what another one reads."""


def _lora_inputs(run: Recipe, method: LoraAdapters) -> float:
    """Inputs of adapters: a copy each, or one for all that read the same; dropout makes them differ."""
    total, read = 0.0, set[Role]()
    copied = _copied_input_bytes(run)
    fused = _fused_mlp(run)
    for linear in target_linears(run.shape, method.targets):
        if fused and linear.role is Role.DOWN:
            continue  # what it reads is computed again
        used = max(1, run.shape.active_experts) if linear.routed else 1
        source = _SAME_INPUT.get(linear.role, linear.role)
        if method.dropout > 0 or copied or source not in read:
            total += used * linear.d_in * (copied or stream_bytes(run))
        if method.dropout > 0:
            total += used * linear.d_in * c.DROPOUT_MASK_BYTES
        if method.weight_decomposed:
            # The magnitude scales the adapted output, whose parts are kept.
            total += used * 2 * linear.d_out * run.compute_bytes
        read.add(source)
    return total


def _copied_input_bytes(run: Recipe) -> int:
    """Bytes per number of the copy of its input that each adapter keeps; 0 where it keeps the input itself.

    Gathered from shards, adapters are of the compute type, as their inputs are (param_dtype of torch's
    FullyShardedDataParallel; DeepSpeed's engine). Autocast takes each adapter's input down by itself.
    """
    if not run.program.copies_adapter_inputs or run.sharded or run.compute_bytes == 4:
        return 0
    if run.weight_bytes > run.compute_bytes:
        return run.compute_bytes
    return 4 if stream_bytes(run) < 4 else 0


def _adapted_expert_bytes(run: Recipe) -> tuple[float, float]:
    """Bytes that adapters of experts cost whatever the tokens: all layers until the backward pass, and one within it.

    peft adds the product of an adapter's matrices to the stacked weights of all experts and computes with the sum,
    which the backward pass needs: a second copy of the experts (peft 0.21, a traced step), of one layer where it is
    computed again. Its gradient is as large, one layer at a time.
    """
    method = run.method.lora if isinstance(run.method, QuantizedLora) else run.method
    if not isinstance(method, LoraAdapters):
        return 0.0, 0.0
    routed = [linear.weights for linear in target_linears(run.shape, method.targets) if linear.routed]
    layer = float(run.compute_bytes * sum(routed))
    return (0.0, 2 * layer) if run.checkpointing else (run.shape.layers * layer, layer)
