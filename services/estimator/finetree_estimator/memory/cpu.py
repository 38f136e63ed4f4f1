# SPDX-License-Identifier: Apache-2.0
"""What the suite's worker holds at its peak on a CPU, counted tensor by tensor.

On a CPU the framework takes what it needs from the C library, byte by byte, and the worker's program is known: which
tensors autograd keeps for the backward pass (transformers' decoder layers, the worker's adapters, dropout masks and
attention by document), and which exist for a moment. So what it allocates is counted, and agrees with the profiler's
memory events (benchmarks/estimator/cpu_memory.py). Measured are only the interpreter with its libraries, and the holes
between what the C library has handed out.
"""

from dataclasses import replace

from finetree_estimator import constants as c
from finetree_estimator.memory.cpu_tensors import (
    FLOAT,
    cast_weights,
    document_length,
    kept_per_token,
    layer_transient,
    outside_layers,
    stream_bytes,
)
from finetree_estimator.memory.model_states import ModelStates
from finetree_estimator.memory.step_peak import Moment
from finetree_estimator.run import Rows, Run

RUNTIME = 0.47e9
"""Resident bytes of a worker with everything but weights: interpreter, torch 2.13 for CPUs, transformers and peft
0.375e9, the model's code and tokenizer the rest; 0.43e9 to 0.5e9 in all (measured,
benchmarks/results/estimator/cpu_memory.json)."""
BITSANDBYTES = 0.045e9
"""Bytes of bitsandbytes, which quantized bases and 8-bit optimizers import (measured, decision 0089)."""
KERNEL = 0.12e6
"""Bytes of a matrix product that oneDNN has compiled for one shape, with what it keeps beside the code. Measured: in
ten steps of two micro-batches of mixed lengths a process grows by 55 MB more than with
ONEDNN_PRIMITIVE_CACHE_CAPACITY=0."""
KERNELS_PER_SHAPE = 30
"""Products of different dimensions in a layer, forward and backward, attention and adapters among them."""
KERNEL_CACHE = 1024
"""Compiled products that oneDNN keeps at most (its default ONEDNN_PRIMITIVE_CACHE_CAPACITY)."""
HOLES = 0.20
"""Share of what comes and goes in a step that the C library cannot hand out again: the next tensor does not fit.
Measured with glibc 2.41: 0.1-0.2 where each micro-batch has the same size, 0.3 where sizes differ or are float32."""
FREE_TOP = 64e6
"""Bytes that glibc keeps at the end of its heap rather than give them back: twice its largest threshold for memory
maps, which is 32 MiB (mallopt's manual page, M_TRIM_THRESHOLD and M_MMAP_THRESHOLD)."""
RUNTIME_SPREAD = (0.1, 0.3)
"""Half-widths (below, above) of RUNTIME, for other tokenizers and versions."""
HOLES_SPREAD = (0.7, 1.0)
"""Half-widths of the holes: measured were between half of what is expected (54 MB) and one and a half times as much."""
TENSORS_SPREAD = 0.1
"""Half-width of what is counted tensor by tensor. For Llamas the count is right to 4 % with each of the methods."""
UNMEASURED_SPREAD = 0.25
"""Half-width of what is counted of runs that were not measured: 8-bit bases, and mixtures of experts."""
LOGITS_TRAINING = 3 * FLOAT
"""Bytes per logit when autograd differentiates a loss: log-probabilities, their gradient, and the logits' gradient."""
LOGITS_BLOCK = 48 << 20
"""Bytes of a head's outputs that are there at once in the worker, whose gradient takes their place
(`CPU_BLOCK_BYTES` of its cross entropy)."""
LOGITS_EVALUATION = 2 * FLOAT
"""Bytes per logit of a loss without gradient: logits and log-probabilities."""


def moments(run: Run, states: ModelStates) -> tuple[Moment, ...]:
    """The moments of a step, or of an evaluation, that may be the fullest, of a process that holds `states`.

    Where weights are sharded, a layer's are whole while it is computed, and its gradients until they are reduced.
    """
    again, whole = _micro_batches(run) > 1, states.unsharded
    # Copies of gradients that replicas add are there at the end of a step alone.
    held_twice = 2 if run.devices > 1 and run.sharding in ("replicated", "optimizer") else 1
    earlier = whole.unreduced_gradients or (states.gradients - whole.gradients) / held_twice
    fetched = whole.fetched_weights
    found = (
        _at_the_loss(run, earlier if again else 0.0, fetched),
        _after_backward(run, states.gradients, again=again, fetched=fetched, root=whole.root_gradients),
        _in_evaluation(run, fetched),
    )
    copies, copy = run.method.expert_copies(run)
    return tuple(
        replace(moment, activations=moment.activations + copies, transient=moment.transient + copy) for moment in found
    )


def runtime(run: Run) -> float:
    """Bytes of the process that hold no tensor: interpreter, libraries, and products compiled for ever new lengths."""
    quantized = run.method.base_bits > 0 or run.optimizer.endswith("8bit")
    loaded = RUNTIME + (BITSANDBYTES if quantized else 0.0)
    _, padding = document_length(run.rows, run.sequence_length)
    if run.rows is not None and padding == 1.0:
        return loaded
    micro_batches = max(1.0, _micro_batches(run)) * run.steps if run.steps else float(KERNEL_CACHE)
    return loaded + KERNEL * min(KERNELS_PER_SHAPE * micro_batches, KERNEL_CACHE)


def holes(run: Run, gradients: float) -> float:
    """Bytes that the process keeps beyond what is allocated: what is freed in one moment stays with it in the next.

    With checkpointing each layer's stored input is put into the room that a wide tensor of the layer has left, and the
    next layer's wide tensor finds it too small.
    """
    split = 0.0
    if run.checkpointing:
        split = run.peak_tokens * run.shape.layers * run.compute_bytes * run.shape.widest_mlp
    return FREE_TOP + HOLES * (_at_the_loss(run, 0.0, 0.0).activations + gradients) + split


def tensors_spread(run: Run) -> tuple[float, float]:
    """Half-widths (below, above), as shares, of what is counted tensor by tensor."""
    half = TENSORS_SPREAD if run.method.measured_on_cpu and not run.shape.experts else UNMEASURED_SPREAD
    return half, half


def _at_the_loss(run: Run, gradients: float, fetched: float) -> Moment:
    """Bytes at the loss: all activations; gradients only if an earlier micro-batch of the step has left some.

    `fetched` are the bytes of the layers' weights that are whole at once, where they are sharded.
    """
    tokens, layers = run.peak_tokens, run.shape.layers - run.method.layers_without_gradient
    kept, layer = kept_per_token(run), layer_transient(run)
    if run.checkpointing:
        kept, layer = float(stream_bytes(run) * (run.shape.hidden + run.shape.layer_inputs)), layer + kept
    activations = tokens * (layers * kept + outside_layers(run)) + cast_weights(run)
    # A trained head's gradient is there with the loss, before the layers' backward pass; its products are of the
    # compute type, of which a weight in another one has a copy.
    words = run.shape.vocab * run.shape.hidden if run.method.trains_head else 0
    head = run.master_bytes * words
    cast = run.compute_bytes * words if run.compute_bytes < run.master_bytes else 0
    return Moment(gradients, activations, head + max(_loss(run) + cast, fetched + tokens * layer))


def _after_backward(run: Run, gradients: float, *, again: bool, fetched: float, root: float) -> Moment:
    """Bytes after the backward pass: all gradients, and those of a tied embedding that are being added.

    `root` are those that the reduction of sharded embeddings' gradients needs.
    """
    embedding = 0
    if run.method.trains_embeddings and run.shape.tied and not run.sharded:
        # The embedding's own, added to the head's in place, which of a first micro-batch is the gradient.
        embedding = (2 if again else 1) * run.master_bytes * run.shape.vocab * run.shape.hidden
    layer = fetched + run.peak_tokens * layer_transient(run)
    return Moment(gradients, 0.0, max(float(embedding), root, layer))


def _in_evaluation(run: Run, fetched: float) -> Moment:
    """Bytes while held-out rows are scored without gradients, and afterwards answered."""
    plan = run.evaluation
    if plan.rows is None or not plan.before + plan.during + plan.after:
        return Moment(0.0, 0.0, 0.0)
    scored, answered = _scoring(run, plan.rows), _answering(run, plan.rows) if plan.generate else None
    fuller = scored if answered is None or scored.total > answered.total else answered
    return replace(fuller, transient=fuller.transient + fetched)


def _scoring(run: Run, rows: Rows) -> Moment:
    """Bytes of the last states with the logits of one chunk, or of what a layer needs by itself."""
    tokens = min(rows.tokens, float(c.EVALUATION_TOKENS))
    targets = min(tokens * rows.target_fraction, float(c.CHUNK_TOKENS))
    logits = LOGITS_EVALUATION * run.shape.vocab * targets
    # Without autocast: float32 weights compute in float32.
    size = stream_bytes(run)
    return Moment(0.0, tokens * size * run.shape.hidden, max(logits, tokens * layer_transient(run, size)))


def _answering(run: Run, rows: Rows) -> Moment:
    """Bytes of a batch of questions' caches, with a layer's tensors for all its tokens or the next one's logits."""
    shape, size = run.shape, stream_bytes(run)
    length, batch = rows.longest + run.method.prefix_tokens, min(rows.count, c.GENERATION_BATCH)
    kept = shape.latent.compressed if shape.latent else 2 * shape.mean_kv_width
    cached = size * kept * (shape.layers - shape.mixer_layers) * (length + run.evaluation.max_new_tokens)
    logits = (size + FLOAT) * shape.vocab
    return Moment(0.0, float(batch * cached), batch * max(float(logits), length * layer_transient(run, size)))


def _micro_batches(run: Run) -> float:
    """Micro-batches of a step on one device."""
    share = -(-run.batch // run.devices)
    return share * run.rows.mean / run.peak_tokens if run.packing and run.rows is not None else share / run.rows_at_once


def _loss(run: Run) -> float:
    """Bytes of logits, or of what takes their place, at once."""
    targets = run.peak_tokens
    if run.loss == "completion-only" and run.rows is not None:
        targets *= run.rows.target_fraction
    # A sharded head is whole for a moment alone, and has autograd's loss in chunks.
    if run.loss == "completion-only" and not run.sharded:
        outputs = run.compute_bytes * run.shape.vocab
        return min(outputs * targets, float(max(LOGITS_BLOCK, outputs)))
    whole = (FLOAT if run.loss == "in-place" else LOGITS_TRAINING) * run.shape.vocab
    if run.loss in ("completion-only", "chunked"):
        return whole * min(targets, c.CHUNK_TOKENS)
    return whole * targets * (c.FUSED_LOGITS_SHARE if run.loss == "fused" else 1.0)
