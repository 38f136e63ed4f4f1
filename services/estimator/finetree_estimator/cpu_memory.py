# SPDX-License-Identifier: Apache-2.0
"""What the suite's worker holds at its peak on a CPU, counted tensor by tensor.

On a CPU the framework takes what it needs from the C library, byte by byte, and the worker's program is known: which
tensors autograd keeps for the backward pass (transformers' decoder layers, the worker's adapters, dropout masks and
attention by document), and which exist for a moment. So what it allocates is counted, and agrees with the profiler's
memory events (benchmarks/estimator/cpu_memory.py). Measured are only the interpreter with its libraries, and the holes
between what the C library has handed out.
"""

from functools import lru_cache

from finetree_estimator.holdings import Moment, is_mixed
from finetree_estimator.layouts import Role
from finetree_estimator.methods import Bottleneck, Full, LoraAdapters, Method, Prefix, QuantizedLora, target_linears
from finetree_estimator.methods import trainable_parameters as count_trainable
from finetree_estimator.recipe import Recipe
from finetree_estimator.run import Rows, Run
from finetree_estimator.shapes import Shape

RUNTIME = 0.49e9
"""Resident bytes of a worker with everything but weights: interpreter, torch 2.13 for CPUs, transformers and peft
0.42e9, the model's code and tokenizer the rest (measured, benchmarks/results/estimator/cpu_memory.json)."""
KERNEL = 0.12e6
"""Bytes of a matrix product that oneDNN has compiled for one shape, with what it keeps beside the code. Measured: in
ten steps of two micro-batches of mixed lengths a process grows by 55 MB more than with
ONEDNN_PRIMITIVE_CACHE_CAPACITY=0."""
KERNELS_PER_SHAPE = 30
"""Products of different dimensions in a layer, forward and backward, attention and adapters among them."""
KERNEL_CACHE = 1024
"""Compiled products that oneDNN keeps at most (its default ONEDNN_PRIMITIVE_CACHE_CAPACITY)."""
HOLES = 0.20
"""Of what comes and goes in a step, what the C library cannot hand out again because the next tensor does not fit.
Measured with glibc 2.41: 0.1-0.2 where each micro-batch has the same size, 0.3 where sizes differ or are float32."""
FREE_TOP = 64e6
"""What glibc keeps at the end of its heap rather than give it back: twice its largest threshold for memory maps, which
is 32 MiB (mallopt's manual page, M_TRIM_THRESHOLD and M_MMAP_THRESHOLD)."""
RUNTIME_SPREAD = (0.1, 0.3)
"""Half-widths (below, above) of RUNTIME: other tokenizers and versions."""
HOLES_SPREAD = (0.7, 1.0)
"""Half-widths of the holes: measured were between half of what is expected (54 MB) and one and a half times as much."""
TENSORS_SPREAD = 0.1
"""Half-width of what is counted tensor by tensor. For Llamas the count is right to 4 % with each of the methods."""
UNMEASURED_SPREAD = 0.25
"""The same for what was not measured: 8-bit bases, and mixtures of experts."""
CHUNK_TARGETS = 1024
"""Targets whose logits exist at once (the worker's loss.CHUNK_TARGETS)."""
SHORT_TOKENS = 256
"""Documents up to this length attend by plain matrix products in float32 (the worker's attention.SHORT_TOKENS)."""
EVALUATION_TOKENS = 4096
"""Tokens of one forward pass of an evaluation (the worker's train.EVALUATION_TOKENS)."""
GENERATION_BATCH = 40
"""Questions that are answered at once (the worker's evaluate.BATCH_QUESTIONS)."""
FUSED_SHARE = 0.02
"""Share of the logits that a fused loss holds (Liger kernel: one block of rows)."""
FLOAT = 4
"""Bytes of a float32 number."""
LOGITS_TRAINING = 3 * FLOAT
"""Bytes per logit when the loss is differentiated: log-probabilities, their gradient, and the logits' gradient."""
LOGITS_EVALUATION = 2 * FLOAT
"""Bytes per logit of a loss without gradient: logits and log-probabilities."""
SAME_LENGTH = 1.02
"""Longest row over the mean one below which rows count as equally long: micro-batches are filled up to 32 tokens."""
GROUP_SPREAD = 1.25
"""Longest document of an attention group over the mean one, where lengths vary: a group takes in documents down to 0.6
of its longest (the worker's attention), 0.8 in the mean."""


def peak(run: Run, tokens: float, gradients: float) -> Moment:
    """The fullest moment of a step, or of an evaluation. `tokens` are a micro-batch's, `gradients` all, in bytes."""
    again = _micro_batches(run, tokens) > 1
    moments = (
        _at_the_loss(run, tokens, gradients if again else 0.0),
        _after_backward(run, tokens, gradients, again=again),
        _in_evaluation(run),
    )
    return max(moments, key=lambda moment: moment.total)


def runtime(run: Run, tokens: float) -> float:
    """Bytes of the process that hold no tensor: interpreter, libraries, and products compiled for ever new lengths."""
    _, padding = document_length(run.rows, run.sequence_length)
    if run.rows is not None and padding == 1.0:
        return RUNTIME
    micro_batches = max(1.0, _micro_batches(run, tokens)) * run.steps if run.steps else float(KERNEL_CACHE)
    return RUNTIME + KERNEL * min(KERNELS_PER_SHAPE * micro_batches, KERNEL_CACHE)


def holes(run: Run, tokens: float, gradients: float) -> float:
    """Bytes that the process keeps beyond what is allocated: what is freed in one moment stays with it in the next.

    With checkpointing each layer's stored input is put into the room that a wide tensor of the layer has left, and the
    next layer's wide tensor finds it too small.
    """
    split = 0.0
    if run.checkpointing:
        split = tokens * run.shape.layers * run.compute_bytes * run.shape.intermediate
    return FREE_TOP + HOLES * (_at_the_loss(run, tokens, 0.0).activations + gradients) + split


def tensors_spread(run: Run | Recipe) -> tuple[float, float]:
    """Half-widths of what is counted tensor by tensor."""
    eight_bit = isinstance(run.method, QuantizedLora) and run.method.bits != 4
    half = UNMEASURED_SPREAD if run.shape.experts or eight_bit else TENSORS_SPREAD
    return half, half


def kept_per_token(run: Run) -> float:
    """Bytes per token that one decoder layer keeps for its backward pass, adapters included."""
    length, padding = document_length(run.rows, run.sequence_length)
    short = length <= SHORT_TOKENS
    kept, attended = _kept(run.shape, run.method, run.compute_bytes, _stream_bytes(run), short)
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


def _at_the_loss(run: Run, tokens: float, gradients: float) -> Moment:
    """All activations are there; gradients only if an earlier micro-batch of the step has left some."""
    full = isinstance(run.method, Full)
    frozen = run.method.frozen_layers if isinstance(run.method, Full) else 0
    layers, kept = run.shape.layers - frozen, kept_per_token(run)
    layer = _layer_transient(run)
    if run.checkpointing:
        kept, layer = float(_stream_bytes(run) * run.shape.hidden), layer + kept
    activations = tokens * (layers * kept + _outside_layers(run)) + _cast_weights(run)
    loss, chunks = _loss(run, tokens)
    # The head's gradient comes with the first chunk, before the other chunks and the layers.
    head = run.compute_bytes * run.shape.vocab * run.shape.hidden if full else 0
    return Moment(gradients, activations, max(loss + (head if chunks > 1 else 0), head + tokens * layer))


def _after_backward(run: Run, tokens: float, gradients: float, *, again: bool) -> Moment:
    """All gradients are there; a tied embedding's two are being added, before they join an earlier micro-batch's."""
    method, embedding = run.method, 0
    if isinstance(method, Full) and not method.frozen_layers and run.shape.tied:
        embedding = (3 if again else 2) * run.master_bytes * run.shape.vocab * run.shape.hidden
    return Moment(gradients, 0.0, max(float(embedding), tokens * _layer_transient(run)))


def _in_evaluation(run: Run) -> Moment:
    """Held-out rows without gradients: their loss, and afterwards their answers."""
    plan = run.evaluation
    if plan.rows is None or not plan.before + plan.during + plan.after:
        return Moment(0.0, 0.0, 0.0)
    scored, answered = _scoring(run, plan.rows), _answering(run, plan.rows) if plan.generate else None
    return scored if answered is None or scored.total > answered.total else answered


def _scoring(run: Run, rows: Rows) -> Moment:
    """The last states with the logits of one chunk, or what a layer needs by itself."""
    tokens = min(rows.tokens, float(EVALUATION_TOKENS))
    targets = min(tokens * rows.target_fraction, float(CHUNK_TARGETS))
    logits = LOGITS_EVALUATION * run.shape.vocab * targets
    # Without autocast: float32 weights compute in float32.
    size = _stream_bytes(run)
    return Moment(0.0, tokens * size * run.shape.hidden, max(logits, tokens * _layer_transient(run, size)))


def _answering(run: Run, rows: Rows) -> Moment:
    """The caches of a batch of questions, with a layer's tensors for all of its tokens or the logits of the next."""
    shape, size = run.shape, _stream_bytes(run)
    before = run.method.virtual_tokens if isinstance(run.method, Prefix) else 0
    length, batch = rows.longest + before, min(rows.count, GENERATION_BATCH)
    cached = 2 * size * shape.kv_width * shape.layers * (length + run.evaluation.max_new_tokens)
    logits = (size + FLOAT) * shape.vocab
    return Moment(0.0, float(batch * cached), batch * max(float(logits), length * _layer_transient(run, size)))


def _micro_batches(run: Run, tokens: float) -> float:
    """Micro-batches of a step on one device."""
    share = -(-run.batch // run.devices)
    return share * run.rows.mean / tokens if run.packing and run.rows is not None else share / run.micro_batch


def _loss(run: Run, tokens: float) -> tuple[float, float]:
    """Bytes of logits and their derivatives at once, and the chunks that the targets come in."""
    targets = tokens
    if run.loss == "completion-only" and run.rows is not None:
        targets *= run.rows.target_fraction
    whole = LOGITS_TRAINING * run.shape.vocab
    if run.loss in ("completion-only", "chunked"):
        return whole * min(targets, CHUNK_TARGETS), targets / CHUNK_TARGETS
    return whole * targets * (FUSED_SHARE if run.loss == "fused" else 1.0), 1.0


def _stream_bytes(run: Run) -> int:
    """Bytes per number of the residual stream: float32 under autocast, which casts for products alone."""
    return run.master_bytes if is_mixed(run) else run.compute_bytes


def _cast_weights(run: Run) -> float:
    """Bytes of the copies in the compute type that products with trained float32 weights keep for their backward pass.

    Those of a whole model are let go layer by layer before its gradients are complete.
    """
    if run.compute_bytes >= run.master_bytes:
        return 0.0
    copies = float(run.compute_bytes * count_trainable(run.method, run.shape))
    return copies / run.shape.layers if run.checkpointing and isinstance(run.method, Full) else copies


def _outside_layers(run: Run) -> float:
    """Bytes per token of the last norm, and of what the dropout masks' source holds, less what the first layer spares.

    The source holds a hashed table (16 bits per feature of the widest input) and the newest input, with its dropped
    copy where checkpointing does not let the last layer keep that anyway. The first norm of a frozen model keeps
    nothing, since nothing below it is trained; nor does anything else below the first bottleneck.
    """
    hidden, size = run.shape.hidden, run.compute_bytes
    if isinstance(run.method, Full):
        return float(hidden * (FLOAT + 2 * _stream_bytes(run)))
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
    rest, _ = _kept(shape, method, run.compute_bytes, _stream_bytes(run), short=True)
    head_norms = shape.q_width + shape.kv_width if shape.head_norms else 0
    return whole - rest + FLOAT * (shape.hidden + head_norms)


def _layer_transient(run: Run, size: int = 0) -> float:
    """Bytes per token of the gradients inside one MLP, where a layer's backward pass begins; of its tensors forward.

    `size` is bytes per number, the compute type's by itself.
    """
    wide = (3 if run.shape.gated else 2) * run.shape.intermediate * max(1, run.shape.active_experts)
    return float((size or run.compute_bytes) * (wide + 2 * run.shape.hidden))


@lru_cache(maxsize=4096)
def _kept(shape: Shape, method: Method, size: int, stream: int, short: bool) -> tuple[float, float]:  # noqa: FBT001
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
