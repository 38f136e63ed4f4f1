# SPDX-License-Identifier: Apache-2.0
"""The fullest moment of a step: what is alive then beside weights and optimizer states."""

from finetree_estimator import constants as c
from finetree_estimator.memory import cpu
from finetree_estimator.memory.activations import Layer, layer_of, saved_by, saved_per_layer, stored_bytes
from finetree_estimator.memory.attention_scores import score_length
from finetree_estimator.memory.model_states import Held, Moment, held
from finetree_estimator.memory.weights import is_mixed
from finetree_estimator.methods.base import Full
from finetree_estimator.run import Run


def peak_moment(run: Run) -> Moment:
    """The moment of a step at which most is alive: at the loss, while a layer is differentiated, or at the update."""
    recipe = run.recipe
    return moment_of(run, held(recipe), layer_of(recipe), run.peak_tokens)


def moment_of(run: Run, holds: Held, layer: Layer, tokens: float) -> Moment:
    """The same where it is known what the run holds, what its layers keep, and its `Run.peak_tokens`."""
    gradients = holds.gradients
    if run.device.is_cpu:
        peak = cpu.peak(run, tokens, gradients)
        return Moment(peak.gradients, peak.activations + layer.experts, peak.transient + layer.one_layer)
    saved = saved_by(layer, run)
    at_loss = loss_moment(run, holds, layer, tokens)
    before, kept, logits, _ = at_loss
    whole = holds.whole
    computed = (_differentiated(run, layer, saved) + _held_gradients(run, layer)) * tokens + layer.one_layer
    differentiated = computed + whole.fetched
    # The head's gradient waits for that of the embeddings. Only one that autocast made is added to in its place.
    copies = (1 if is_mixed(run) else 2) + (1 if before else 0)
    updated = holds.update_copies - whole.kept - whole.gradients
    late = 0.0 if before else whole.root_shards
    after = max(differentiated - late, whole.root_gradients, updated, copies * holds.tied_gradient)
    gone = _autocast_copies(run, holds)
    # The totals first: of four moments three would be made for nothing.
    while_kept = before + kept + max(logits, differentiated)
    if while_kept >= gradients + after - gone:
        moment = at_loss if logits >= differentiated else Moment(before, kept, differentiated)
    else:
        # What comes last has the room of the copies; what that leaves of it, gradients have.
        moment = Moment(gradients - max(0.0, gone - after), 0.0, max(0.0, after - gone))
    if run.recipe.sharded:
        asked = _asked_for(run, holds, kept + max(logits, computed), max(computed, whole.root_gradients))
        return moment._replace(cached=max(0.0, asked - moment.total))
    return moment


def _asked_for(run: Run, holds: Held, kept: float, last: float) -> float:
    """Bytes that a sharded step asks the allocator for, since a block serves the stream that first asked for it.

    `kept` is what activations need where most are kept, `last` where none but the last layer's are. FSDP gathers
    weights and reduces gradients on streams of their own: shards of gradients never lie where activations lay, whatever
    moment is fullest (torch's FullyShardedDataParallel and fully_shard; c10/cuda/CUDACachingAllocator.cpp). The
    optimizer's states and copies come between the blocks of the first step's activations.
    """
    whole = holds.whole
    if run.program.casts_module:
        return holds.gradients + holds.update_copies
    shards = holds.gradients - whole.gradients
    computed = max(kept, whole.gradients + last)
    more = _added_up(run, holds) - shards
    if more <= 0 and run.program.cache != "expandable":
        return shards + whole.fetched + holds.update_copies + computed
    # Between whole gradients, and in segments that expand, there is room for what the update makes.
    return shards + whole.fetched + max(max(0.0, more) + kept, computed, holds.update_copies)


def _autocast_copies(run: Run, holds: Held) -> float:
    """Bytes of base weights that the end of the backward pass has no more: autocast's 16-bit copies of float32 weights.

    A product's node keeps its copy and goes with it, and autocast's own references go as the forward pass leaves it
    (torch's autocast_mode, clear_cache); 16-bit weights that a library holds, or gathers from shards, stay.
    """
    library = run.program.casts_module or run.sharding != "replicated"
    return holds.base_weights if is_mixed(run) and run.weight_bytes < run.master_bytes and not library else 0.0


def loss_moment(run: Run, holds: Held, layer: Layer, tokens: float) -> Moment:
    """What is alive at the loss of a run on GPUs."""
    # From the second micro-batch on, the gradients of the first are there already.
    before = _added_up(run, holds)
    kept = _kept(run, layer, saved_by(layer, run)) * tokens + layer.experts
    logits = loss_peak(run, tokens) + holds.whole.head
    if run.loss != "full-logits":
        # The head's gradient grows chunk by chunk, while the logits, or the other chunks, are still there.
        logits += holds.chunk_gradient + (0.0 if before else holds.head_gradient)
    return Moment(before, kept, logits)


def _added_up(run: Run, holds: Held) -> float:
    """Bytes of the gradients of a batch's earlier micro-batches."""
    if run.batch <= run.micro_batch * run.devices:
        return 0.0
    return holds.whole.unreduced or holds.gradients - holds.whole.gradients


def activation_bytes(run: Run) -> float:
    """Bytes per token that all layers keep until the backward pass."""
    return _kept(run, layer_of(run.recipe), saved_per_layer(run))


def layer_peak(run: Run) -> float:
    """Bytes per token that the differentiation of one layer needs for a moment, its recomputation included."""
    return _differentiated(run, layer_of(run.recipe), saved_per_layer(run))


_CAPPED_LOGITS = frozenset({"gemma2"})
"""Families whose logits pass a tanh, which keeps its output beside them (final_logit_softcapping)."""


def loss_peak(run: Run, tokens: float) -> float:
    """Bytes of logits and their derivatives at the loss, for a micro-batch of so many tokens."""
    targets = tokens
    size = run.recipe.activation_bytes
    capped = size if run.shape.family in _CAPPED_LOGITS else 0
    per_logit, kept = c.LOGITS_BYTES[min(4, max(2, size))] + capped, c.CHUNKED_LOGITS_BYTES + capped
    if run.program.compiled and run.program.compiles_loss:
        chunks = run.loss in ("completion-only", "chunked")
        per_logit, kept = c.COMPILED_CHUNK_BYTES if chunks else c.COMPILED_LOGITS_BYTES, c.COMPILED_CHUNK_BYTES
    if run.program.native_loss and (run.compute_bytes == run.master_bytes or run.program.casts_module):
        per_logit = min(per_logit, c.NATIVE_LOGITS_COPIES * size + capped)
    elif run.program.native_loss and run.recipe.sharded:
        # Without autocast, loops raise 16-bit logits themselves (`output.float()` in torchtitan and prime-rl).
        per_logit = c.NATIVE_LOGITS_COPIES * 4.0 + capped
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


def _cast_chunk(run: Run, targets: float, per_logit: float) -> float:
    """Bytes of one chunk of a loss that multiplies with a float32 copy of the head under autocast, as TRL's does.

    The product needs that copy and autocast's own of it; the softmax and its gradients need autocast's, which the
    backward pass wants again.
    """
    size, head, logits = run.compute_bytes, run.shape.vocab * run.shape.hidden, run.shape.vocab * targets
    autocast = head * size if size < 4 else 0
    raised = 4 * head if stored_bytes(run.recipe) < 4 else 0
    return autocast + max(raised + size * logits, per_logit * logits)


def _kept(run: Run, layer: Layer, saved: float) -> float:
    if run.checkpointing:
        # Only each layer's input is kept; offloading moves it to the host.
        return 0.0 if run.offloaded else float(layer.stream * run.shape.hidden * run.shape.layers)
    return run.shape.layers * saved


def _held_gradients(run: Run, layer: Layer) -> float:
    """Bytes per token of gradients of layer inputs that live on, with the inputs, to the end of the backward pass.

    That of the last layer to be differentiated is counted where it is made.
    """
    recipe = run.recipe
    if not (recipe.program.keeps_shard_inputs and recipe.sharded and run.checkpointing) or isinstance(run.method, Full):
        return 0.0
    return float(layer.stream * run.shape.hidden * (run.shape.layers - 1))


def _differentiated(run: Run, layer: Layer, saved: float) -> float:
    # Scores are differentiated when the MLP's part is done and freed.
    scores = float(c.SCORE_GRADIENT_BYTES * run.shape.heads * score_length(run))
    return max(layer.gradients, scores - layer.mlp) + (saved if run.checkpointing else 0.0)
