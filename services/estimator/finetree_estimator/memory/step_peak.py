# SPDX-License-Identifier: Apache-2.0
"""The fullest moment of a step on a GPU: what is alive then beside weights and optimizer states."""

from dataclasses import dataclass, replace

from finetree_estimator import constants as c
from finetree_estimator.memory.activations import LayerActivations, layer_activations
from finetree_estimator.memory.attention_scores import score_length, shared_mask_bytes
from finetree_estimator.memory.model_states import ModelStates, model_states
from finetree_estimator.run import Run
from finetree_estimator.shapes.architecture import Shape

_CAPPED_LOGITS = frozenset({"gemma2", "gemma4_text", "gemma4_unified_text"})
"""Families whose logits pass a tanh, which keeps its output beside them (final_logit_softcapping)."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Bytes that are alive beside weights and optimizer states at one moment of a step."""

    gradients: float
    activations: float
    transient: float
    """Logits and their derivatives, or what the differentiation of a layer needs."""
    cached: float = 0.0
    """What the step asks for beyond all that at other moments, and cannot take from what this one leaves: the
    allocator's, and nobody's."""

    @property
    def total(self) -> float:
        """Bytes that are alive."""
        return self.gradients + self.activations + self.transient


def step_peak(run: Run) -> Moment:
    """Bytes at the fullest moment of a step: at the loss, while a layer is differentiated, or at the update."""
    return fullest_moment(run, model_states(run), layer_activations(run))


def fullest_moment(run: Run, states: ModelStates, layer: LayerActivations) -> Moment:
    """Bytes at the fullest moment of a step of a run that holds `states` and whose layers keep `layer`."""
    return max(moments(run, states, layer), key=lambda moment: moment.total)


def moments(run: Run, states: ModelStates, layer: LayerActivations) -> tuple[Moment, ...]:
    """The moments that may be the fullest: at the loss, while a layer is differentiated, and at the update."""
    tokens, gradients, whole = run.peak_tokens, states.gradients, states.unsharded
    at_loss = loss_moment(run, states, layer)
    before, kept, logits = at_loss.gradients, at_loss.activations, at_loss.transient
    computed = (layer_peak(run, layer) + held_gradients(run)) * tokens + layer.expert_copy
    differentiated = computed + whole.fetched_weights
    # The head's gradient waits for that of the embeddings. Only one that autocast made is added to in its place.
    copies = (1 if run.autocasts_trained_weights else 2) + (1 if before else 0)
    updated = states.update_copies - whole.kept_weights - whole.gradients
    late = 0.0 if before else whole.root_shards
    after = max(differentiated - late, whole.root_gradients, updated, copies * states.tied_gradient)
    gone = _autocast_copies(run, states)
    # What comes last has the room of the copies; what that leaves of it, gradients have.
    last = Moment(gradients - max(0.0, gone - after), 0.0, max(0.0, after - gone))
    found = at_loss, Moment(before, kept, differentiated), last
    if run.sharded:
        asked = _asked_for(run, states, kept=kept + max(logits, computed), last=max(computed, whole.root_gradients))
        return tuple(replace(moment, cached=max(0.0, asked - moment.total)) for moment in found)
    return found


def _asked_for(run: Run, states: ModelStates, *, kept: float, last: float) -> float:
    """Bytes that a sharded step asks the allocator for, since a block serves the stream that first asked for it.

    `kept` is what activations need where most are kept, `last` where none but the last layer's are. FSDP gathers
    weights and reduces gradients on streams of their own: shards of gradients never lie where activations lay, whatever
    moment is fullest (torch's FullyShardedDataParallel and fully_shard; c10/cuda/CUDACachingAllocator.cpp). The
    optimizer's states and copies come between the blocks of the first step's activations.
    """
    whole = states.unsharded
    if run.program.casts_module:
        return states.gradients + states.update_copies
    shards = states.gradients - whole.gradients
    computed = max(kept, whole.gradients + last)
    more = _accumulated_gradients(run, states) - shards
    if more <= 0 and run.program.cache != "expandable":
        return shards + whole.fetched_weights + states.update_copies + computed
    # Between whole gradients, and in segments that expand, there is room for what the update makes.
    return shards + whole.fetched_weights + max(max(0.0, more) + kept, computed, states.update_copies)


def _autocast_copies(run: Run, states: ModelStates) -> float:
    """Bytes of base weights that the end of the backward pass has no more: autocast's 16-bit copies of float32 weights.

    A product's node keeps its copy and goes with it, and autocast's own references go as the forward pass leaves it
    (torch's autocast_mode, clear_cache); 16-bit weights that a library holds, or gathers from shards, stay.
    """
    library = run.program.casts_module or run.sharding in ("gradients", "full")
    copies = run.autocasts_trained_weights and run.weight_bytes < run.master_bytes and not library
    return states.base_weights - states.vision_weights if copies else 0.0


def loss_moment(run: Run, states: ModelStates, layer: LayerActivations) -> Moment:
    """Bytes at the loss of a step on a GPU."""
    tokens = run.peak_tokens
    # From the second micro-batch on, the gradients of the first are there already.
    before = _accumulated_gradients(run, states)
    kept = kept_activations(run, layer) * tokens + layer.expert_copies
    logits = loss_peak(run, tokens) + states.unsharded.head_weights
    if not run.whole_logits:
        # The head's gradient grows chunk by chunk, while the logits, or the other chunks, are still there.
        logits += states.chunk_gradient + (0.0 if before else states.head_gradient)
    return Moment(before, kept, logits)


def _accumulated_gradients(run: Run, states: ModelStates) -> float:
    """Bytes of the gradients of a batch's earlier micro-batches."""
    if run.one_micro_batch:
        return 0.0
    return states.unsharded.unreduced_gradients or states.gradients - states.unsharded.gradients


def loss_peak(run: Run, tokens: float) -> float:
    """Bytes of logits and their derivatives at the loss, for a micro-batch of so many tokens."""
    targets = tokens
    size = run.activation_bytes
    capped = size if run.shape.family in _CAPPED_LOGITS else 0
    per_logit, kept = c.LOGITS_BYTES[min(4, max(2, size))] + capped, c.CHUNKED_LOGITS_BYTES + capped
    if run.program.compiled and run.program.compiles_loss:
        chunks = run.loss in ("completion-only", "chunked")
        per_logit, kept = c.COMPILED_CHUNK_BYTES if chunks else c.COMPILED_LOGITS_BYTES, c.COMPILED_CHUNK_BYTES
    if run.program.native_loss and (run.compute_bytes == run.master_bytes or run.program.casts_module):
        per_logit = min(per_logit, c.NATIVE_LOGITS_COPIES * size + capped)
    elif run.program.native_loss and run.devices > 1:
        # Without autocast, loops for several devices raise 16-bit logits themselves (`output.float()` in torchtitan and
        # prime-rl).
        per_logit = c.NATIVE_LOGITS_COPIES * 4.0 + capped
    if run.loss == "in-place":
        per_logit = min(per_logit, _overwritten(run) + capped)
    if run.loss == "completion-only":
        targets *= run.rows.target_fraction if run.rows is not None else 1.0
    if run.loss in ("completion-only", "chunked"):
        if run.program.casts_chunk_head:
            return _cast_chunk(run, min(targets, float(run.program.loss_chunk)), per_logit)
        if run.program.keeps_chunked_logits:
            return (kept * targets + per_logit * min(targets, run.program.loss_chunk)) * run.shape.vocab
        targets = min(targets, float(run.program.loss_chunk))
    full = per_logit * run.shape.vocab * targets
    return full * c.FUSED_LOGITS_SHARE if run.loss == "fused" else full


def _overwritten(run: Run) -> float:
    """Bytes per logit at the peak of a loss that overwrites logits with their gradient.

    They are there once (Liger's ops/cross_entropy.py, Unsloth's kernels/cross_entropy_loss.py). transformers' loss
    copies 16-bit ones to float32 first: beside the copy are the logits, which its output holds, and their gradient.
    """
    size = float(run.activation_bytes)
    return 4.0 + 2 * size if run.program.raises_logits and size < 4 else size


def _cast_chunk(run: Run, targets: float, per_logit: float) -> float:
    """Bytes of one chunk of a loss that multiplies with a float32 copy of the head under autocast, as TRL's does.

    The product needs that copy and autocast's own of it; the softmax and its gradients need autocast's, which the
    backward pass wants again.
    """
    size, head, logits = run.compute_bytes, run.shape.vocab * run.shape.hidden, run.shape.vocab * targets
    autocast = head * size if size < 4 else 0
    raised = 4 * head if run.stored_bytes < 4 else 0
    return autocast + max(raised + size * logits, per_logit * logits)


def kept_activations(run: Run, layer: LayerActivations) -> float:
    """Bytes per token that all layers keep until the backward pass."""
    if run.checkpointing:
        # Only each layer's input is kept; offloading moves it to the host.
        inputs = 0.0 if run.offloaded else float(run.stream_bytes * _layer_input(run.shape) * run.shape.layers)
        return inputs + shared_mask_bytes(run)
    return run.shape.layers * layer.saved + shared_mask_bytes(run)


def _layer_input(shape: Shape) -> int:
    """Features per token that a layer reads: the stream, and what it gets beside it."""
    return shape.hidden + shape.layer_inputs


def held_gradients(run: Run) -> float:
    """Bytes per token of gradients of layer inputs that live on, with the inputs, to the end of the backward pass.

    That of the last layer to be differentiated is counted where it is made.
    """
    held = run.program.keeps_shard_inputs and run.sharded and run.checkpointing and not run.method.trains_base
    return float(run.stream_bytes * run.shape.hidden * (run.shape.layers - 1)) if held else 0.0


def layer_peak(run: Run, layer: LayerActivations) -> float:
    """Bytes per token that one layer needs while it is differentiated, with what is computed again."""
    # Scores are differentiated when the MLP's part is done and freed.
    scores = float(c.SCORE_GRADIENT_BYTES * run.shape.heads * score_length(run))
    return max(layer.gradients, scores - layer.mlp) + (layer.saved if run.checkpointing else 0.0)
