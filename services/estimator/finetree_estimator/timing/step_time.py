# SPDX-License-Identifier: Apache-2.0
"""Seconds of an optimizer step: floating-point operations over the rate that products reach, and what no product fills.

A forward pass costs 2 FLOPs per weight and token. The backward pass costs as much again for the inputs' gradients and,
where weights are trained, once more for theirs: LoRA 4N, full 6N, checkpointing 2N on top. Everything else is bound by
the bytes that it moves (traffic.py), by the calls that it takes, or by what several devices wait for (sharing.py).
"""

import math
from functools import lru_cache
from typing import NamedTuple

from finetree_estimator import constants as c
from finetree_estimator.catalog.parameters import active_parameters, count, linear_weights
from finetree_estimator.memory.activations import Layer, layer_of, saved_by
from finetree_estimator.memory.model_states import state_bytes
from finetree_estimator.methods.base import Bottleneck, Full, Prefix, trainable_parameters
from finetree_estimator.run import Rows, Run
from finetree_estimator.timing import communication, elementwise, memory_traffic


class Step(NamedTuple):
    """An optimizer step of one device: so many micro-batches of so many tokens on average."""

    micro_batches: int
    tokens: float
    """Tokens of a micro-batch."""


class Work(NamedTuple):
    """What a run's run alone says of its work: FLOPs per token where nothing else is said."""

    dense: float
    """Of the layers' weights, in a forward pass."""
    trained_dense: float
    """The same of a step: forward, backward and what is computed again."""
    attention_width: int
    """Features of queries in all layers: attention's FLOPs are this times the tokens that a token looks at."""
    virtual: float
    """Tokens of a prefix that every token looks at, as attention's FLOPs count them."""
    attention_passes: float
    """Attention of a step in units of a forward pass."""
    head: float
    """Of the output head where it is computed, in a forward pass."""
    head_passes: float
    adapters: float
    """Of adapters in a step."""
    adapter_bytes: float
    """Bytes per token that low-rank adapters move in a step, and the casts around a quantised base's products."""
    float32_head: bool
    """Whether head and adapters compute in float32 although the layers do not."""
    update_bytes: float
    """Bytes that an optimizer step moves."""
    saved_bytes: int
    """Bytes of what is trained, as an artifact holds it."""
    checkpoint_bytes: float
    """Bytes of a checkpoint: what is trained, and the optimizer's states."""
    load_seconds: float
    """Until the model is on the device: start of the worker, and reading 16-bit weights."""
    layer: Layer
    layer_bytes: float
    """Bytes per token that the layers' operations move between their products in a step, on a GPU."""
    fused_bytes: float
    """The same where they are hand-fused kernels."""
    attention_efficiency: float
    """Share of the dense products' rate that attention reaches."""
    again: float
    """How much more than the forward and the backward pass a step is, where what is not kept is computed again."""
    call_seconds: float
    """Of a micro-batch, in which the device waits for calls."""
    unpacked_bytes: float
    """Bytes that unpacking, decomposing and casting weights move in a micro-batch, whatever its tokens."""
    slower_unpacked_bytes: float
    """What the slowest kernels in use add to it."""


def work_of(run: Run) -> Work:
    """The work of a run's run."""
    shape, method, counted = run.shape, run.method, count(run.shape)
    trained = trainable_parameters(method, shape)
    again = 1.0 if run.checkpointing else 0.0
    backward = 2.0 - method.frozen_layers / shape.layers if isinstance(method, Full) else 1.0
    dense = 2.0 * (active_parameters(shape) - counted.embeddings - counted.lm_head)
    # Forward and backward rearrange the weights once each; the products for weight gradients have none.
    passes = 4 if run.checkpointing else 3
    adapter_bytes = 0.0 if run.on_cpu else memory_traffic.adapter_bytes(run) + memory_traffic.cast_bytes(run)
    return Work(
        dense=dense,
        trained_dense=dense * (1.0 + backward + again),
        attention_width=shape.layers * shape.q_width,
        virtual=4.0 * method.virtual_tokens if isinstance(method, Prefix) else 0.0,
        # Attention's backward pass is the same whatever is trained.
        attention_passes=1.0 + c.ATTENTION_BACKWARD + again,
        head=2.0 * shape.vocab * shape.hidden * _alignment_factor(run),
        head_passes=3.0 if isinstance(method, Full) else 2.0,
        adapters=0.0 if isinstance(method, Full | Prefix) else (6.0 + 2.0 * again) * trained,
        adapter_bytes=adapter_bytes,
        float32_head=run.activation_bytes > run.compute_bytes,
        update_bytes=memory_traffic.update_bytes(run, trained),
        saved_bytes=trained * run.master_bytes,
        checkpoint_bytes=trained * (run.master_bytes + state_bytes(run)),
        load_seconds=c.IMPORT_SECONDS + 2.0 * counted.total / c.DISK_BYTES_PER_SECOND,
        layer=layer_of(run),
        layer_bytes=_layer_bytes(run, fused=False),
        fused_bytes=_layer_bytes(run, fused=True),
        attention_efficiency=run.program.attention_efficiency,
        again=passes / 3,
        call_seconds=shape.layers * passes * layer_overhead_seconds(run),
        unpacked_bytes=(passes - 1) * memory_traffic.unpacking_bytes(run)
        + (passes - 2) * memory_traffic.decomposing_bytes(run)
        + elementwise.weight_cast_bytes(run, trained),
        slower_unpacked_bytes=(passes - 1) * memory_traffic.slower_unpacking_bytes(run),
    )


def _layer_bytes(run: Run, *, fused: bool) -> float:
    """Bytes per token that layers move between their products in a step, with what is computed again."""
    moved = elementwise.layer_traffic(run, fused=fused)
    # What full training keeps is the products' inputs; low-rank adapters are counted in traffic.py.
    own = isinstance(run.method, Prefix | Bottleneck)
    others = c.ELEMENTWISE_TRAFFIC * layer_of(run).trained if own else 0.0
    return run.shape.layers * (moved.forward * (2 if run.checkpointing else 1) + moved.backward + others)


def _alignment_factor(run: Run) -> float:
    """How much longer the head's products take where tensor cores read rows of logits that begin anywhere."""
    plain_cores = run.on_cpu or max(run.compute_bytes, run.activation_bytes) > 2
    return 1.0 if plain_cores or run.shape.vocab % c.ALIGNED_NUMBERS == 0 else c.UNALIGNED_FACTOR


def step_of(run: Run, rows: Rows) -> Step:
    """How a step's rows fall into micro-batches on one device."""
    share = min(math.ceil(run.batch / run.devices), rows.count)
    tokens = share * rows.mean
    room = run.micro_batch * run.sequence_length
    micro = math.ceil(tokens / room) if run.packing else math.ceil(share / run.micro_batch)
    return Step(max(1, micro), tokens / max(1, micro))


def step_seconds(run: Run, rows: Rows, step: Step, work: Work) -> float:
    """Seconds of an optimizer step, of all devices at once."""
    micro = _computing_seconds(run, rows, step, work)
    if run.devices == 1:
        return step.micro_batches * micro + work.update_bytes / run.device.bandwidth
    micro += communication.micro_batch_seconds(run)
    spread = run.devices if run.sharding != "replicated" else 1
    return (
        step.micro_batches * micro + work.update_bytes / run.device.bandwidth / spread + communication.step_seconds(run)
    )


def _computing_seconds(run: Run, rows: Rows, step: Step, work: Work) -> float:
    """Seconds of a micro-batch on a device by itself."""
    seconds = step.tokens * training_flops(run, rows, step, work) / run.device.training_flops
    return seconds + overhead_seconds(run, work) + step.tokens * elementwise_seconds(run, rows, work)


def training_flops(run: Run, rows: Rows, step: Step, work: Work) -> float:
    """FLOPs per token of a micro-batch, forward and backward, recomputation counted.

    Those of attention count as what dense products do in the same time.
    """
    _, attention, head = forward_flops(run, rows, work)
    slower = _float32_factor(run) if work.float32_head else 1.0
    head_passes = work.head_passes + (1.0 if _computes_head_again(run, rows, step) else 0.0)
    spans = attention * work.attention_passes / _attention_share(run, work)
    return work.trained_dense + spans + (head * head_passes + work.adapters) * slower


def _attention_share(run: Run, work: Work) -> float:
    """Share of the dense products' rate that attention's kernel reaches, which no faster products raise for ever."""
    if run.device.is_cpu:
        return 1.0
    return min(work.attention_efficiency, run.program.attention_ceiling / run.device.training_flops)


def _computes_head_again(run: Run, rows: Rows, step: Step) -> bool:
    """Whether chunks of logits are computed a second time for the backward pass: not where they are kept."""
    if run.loss not in ("completion-only", "chunked") or run.program.keeps_chunked_logits:
        return False
    return step.tokens * loss_share(run, rows) > c.CHUNK_TOKENS


def forward_flops(run: Run, rows: Rows, work: Work) -> tuple[float, float, float]:
    """FLOPs per token of a forward pass: of the layers' weights, of attention, and of the head where it is computed."""
    # Causal attention meets half of the row: 2 products x 2 FLOPs x span / 2.
    attention = work.attention_width * (2.0 * rows.attention_span + work.virtual)
    return work.dense, attention, work.head * loss_share(run, rows)


def _float32_factor(run: Run) -> float:
    """How much longer a product takes in float32: a raised base leaves head and adapters to the plain cores."""
    rate = run.device.float32_flops
    return max(1.0, run.device.training_flops / rate) if rate else 1.0


def overhead_seconds(run: Run, work: Work) -> float:
    """Seconds of a micro-batch that do not depend on its tokens: small kernels, and unpacking a quantised base."""
    seconds = work.call_seconds
    if run.device.is_cpu:
        seconds += (3 if run.checkpointing else 2) * repack_seconds(run)
    return seconds + work.unpacked_bytes / run.device.bandwidth


def held_up_seconds(run: Run, work: Work) -> float:
    """What a micro-batch may take longer for reasons that no rate has: host, kernels, the way between devices."""
    if run.device.is_cpu:
        return 0.0
    kernels = work.slower_unpacked_bytes / run.device.bandwidth
    return work.call_seconds * c.SLOWEST_HOST + kernels + communication.held_up_seconds(run)


def spared_seconds(run: Run, rows: Rows, step: Step, work: Work) -> float:
    """What a micro-batch may take less: waiting may hide behind computing, and a loop's loss be compiled as well."""
    waiting = communication.waiting_seconds(run)
    hidden = min(waiting, _computing_seconds(run, rows, step, work)) if waiting else 0.0
    logits = _loss_bytes(run, rows) - _loss_bytes(run, rows, whole=True)
    return hidden + step.tokens * logits / run.device.bandwidth


def elementwise_seconds(run: Run, rows: Rows, work: Work) -> float:
    """Seconds per token and step outside of matrix products: norms, gates, softmax, adapters' additions, the loss."""
    if run.device.is_cpu:
        saved = run.shape.layers * saved_by(work.layer, run)
        return work.again * saved / run.compute_bytes / (c.CPU_ELEMENTWISE * run.device.cores)
    layers = work.fused_bytes if run.loss == "fused" else work.layer_bytes
    left = c.COMPILED_SHARE if run.program.compiled else 1.0
    scores = memory_traffic.score_bytes(run) if run.eager_attention else 0.0
    others = _loss_bytes(run, rows) + left * work.adapter_bytes + scores
    return (elementwise.memory_share(run, rows) * layers + others) / run.device.bandwidth


def _loss_bytes(run: Run, rows: Rows, *, whole: bool = False) -> float:
    """Bytes per token that a loss of written logits moves, which no cache holds; `whole`: compiled with the model."""
    if run.loss == "fused":
        return 0.0
    compiled = run.program.compiled and (whole or run.program.compiles_loss)
    per_logit = c.COMPILED_LOSS_TRAFFIC if compiled else c.LOSS_TRAFFIC
    return per_logit * run.shape.vocab * loss_share(run, rows)


def forward_elementwise_seconds(run: Run, rows: Rows, work: Work) -> float:
    """The same of a forward pass alone."""
    return elementwise_seconds(run, rows, work) / (4.0 if run.checkpointing else 3.0)


def repack_seconds(run: Run) -> float:
    """Seconds per pass in which a CPU rearranges the layers' weights for its products."""
    if not run.device.is_cpu:
        return 0.0
    return linear_weights(run.shape) / (c.CPU_REPACK * run.device.cores)


def forward_overhead_seconds(run: Run) -> float:
    """Seconds of a forward pass that do not depend on its tokens."""
    return run.shape.layers * layer_overhead_seconds(run) + repack_seconds(run)


def layer_overhead_seconds(run: Run) -> float:
    """Seconds of a layer's pass in which the device waits for calls."""
    if run.on_cpu:
        return c.CPU_LAYER_OVERHEAD
    # Experts that come in turn take a layer's calls each, and wait for the list of their tokens.
    turns = 1 + run.shape.experts if run.program.experts_in_turn else 1
    return turns * run.program.layer_overhead * (c.COMPILED_SHARE if run.program.compiled else 1.0)


def loss_share(run: Run, rows: Rows) -> float:
    """Share of tokens whose logits are computed."""
    return rows.target_fraction if run.loss == "completion-only" else 1.0
