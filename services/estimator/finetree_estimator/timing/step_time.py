# SPDX-License-Identifier: Apache-2.0
"""Seconds of an optimizer step: floating-point operations over the rate that products reach, and what no product fills.

A forward pass costs 2 FLOPs per weight and token. The backward pass costs as much again for the inputs' gradients and,
where weights are trained, once more for theirs: LoRA 4N, full 6N, checkpointing 2N on top. Everything else is bound by
the bytes that it moves (memory_traffic.py, elementwise.py, and each method's own), by the calls that it takes, or by
what several devices wait for (communication.py).
"""

import math
from dataclasses import dataclass

from finetree_estimator import constants as c
from finetree_estimator.memory import token_mixers
from finetree_estimator.memory.activations import layer_activations
from finetree_estimator.run import Rows, Run
from finetree_estimator.shapes.parameters import active_parameters, count, layer_input_projection, linear_weights
from finetree_estimator.timing import communication, elementwise, mixtures
from finetree_estimator.timing.memory_traffic import (
    loss_share,
    loss_traffic,
    score_traffic,
    update_traffic,
    weight_cast_traffic,
)


@dataclass(frozen=True, slots=True)
class Step:
    """An optimizer step of one device: so many micro-batches of so many tokens on average."""

    micro_batches: int
    tokens: float
    """Tokens of a micro-batch."""


@dataclass(frozen=True, slots=True)
class ForwardFlops:
    """FLOPs per token of a forward pass."""

    dense: float
    """Of products with the layers' weights."""
    attention: float
    head: float
    """Of the output head, on average over tokens: it is computed where something is learned."""


def step_of(run: Run, rows: Rows) -> Step:
    """How a step's rows fall into micro-batches on one device."""
    share = min(math.ceil(run.batch / run.devices), rows.count)
    tokens = share * rows.mean
    room = run.rows_at_once * run.sequence_length
    micro = math.ceil(tokens / room) if run.packing else math.ceil(share / run.rows_at_once)
    return Step(max(1, micro), tokens / max(1, micro))


def step_seconds(run: Run, rows: Rows, step: Step) -> float:
    """Seconds of an optimizer step, of all devices at once."""
    spread = run.devices if run.sharding != "replicated" else 1
    computing = _computing_seconds(run, rows, step)
    micro = computing + communication.micro_batch_seconds(run, computing)
    update = update_traffic(run) / run.device.bandwidth / spread
    backward = computing * (_passes(run) - 1) / _passes(run)
    return step.micro_batches * micro + update + communication.step_seconds(run, backward)


def _computing_seconds(run: Run, rows: Rows, step: Step) -> float:
    """Seconds of a micro-batch on a device by itself."""
    seconds = step.tokens * training_flops(run, rows, step) / run.device.training_flops
    seconds += mixtures.grouped_seconds(run, step.tokens)
    return seconds + overhead_seconds(run) + step.tokens * elementwise_seconds(run, rows, step.tokens)


# ----------------------------------------------------------------------------------------------------- matrix products


def forward_flops(run: Run, rows: Rows) -> ForwardFlops:
    """FLOPs per token of a forward pass."""
    shape, parameters = run.shape, count(run.shape)
    head = 2.0 * shape.vocab * shape.hidden * _alignment_factor(run)
    return ForwardFlops(
        dense=2.0 * (active_parameters(shape) - parameters.outside_layers + layer_input_projection(shape)),
        attention=_attention_flops(run, rows) + token_mixers.forward_flops(shape),
        head=head * loss_share(run, rows),
    )


def _attention_flops(run: Run, rows: Rows) -> float:
    """FLOPs per token of a forward pass's attention, of all layers: 4 for each query feature and key that is met.

    Two products of 2 FLOPs each. Causal attention meets half of the row, a prefix is met as a whole. A kernel that
    takes a sliding window of w tokens itself meets w, but in the first w tokens of a row of n: w - w^2 / 2n of them on
    average. One that reads a mask instead skips nothing.
    """
    shape, length, window = run.shape, rows.attention_span, float(run.shape.window)
    whole = 2.0 * length
    if run.masks_windows:
        within = 4.0 * length
    elif 0 < window < length and not run.eager_attention:
        within = 4.0 * (window - window * window / (2.0 * length))
    else:
        within = whole
    full = shape.full_attention
    unwindowed = shape.layers - shape.mixer_layers - shape.windowed_layers
    # Of latent attention the scores' product is as wide as keys, the other one as values.
    latent = (shape.latent.head_dim + shape.latent.value_head_dim) / 2 if shape.latent else 0.0
    queries = unwindowed * shape.heads * (latent or (full.head_dim if full else shape.head_dim))
    prefix = 4.0 * run.method.prefix_tokens * shape.layers * shape.q_width
    return queries * whole + shape.windowed_layers * shape.q_width * within + prefix


def training_flops(run: Run, rows: Rows, step: Step) -> float:
    """FLOPs per token of a micro-batch, forward and backward, recomputation counted.

    Those of attention, and of inputs' gradients where their rate was measured, count as what the forward pass's
    products do in the same time.
    """
    forward, again = forward_flops(run, rows), 1.0 if run.checkpointing else 0.0
    # One pass of the backward ones gives the inputs' gradients; those of weights run at the forward pass's rate.
    inputs = _input_gradient_factor(run)
    dense = forward.dense * (again + run.method.backward_flops_factor(run.shape) + inputs)
    # Attention's backward pass does not depend on what is trained.
    attention = forward.attention * (1.0 + c.ATTENTION_BACKWARD + again) / _attention_share(run)
    head_passes = inputs + (2.0 if run.method.trains_head else 1.0)
    if computes_head_again(run, rows, step):
        head_passes += 1.0
    # Head and adapters compute in float32 where a raised base leaves them that.
    slower = _float32_factor(run) if run.activation_bytes > run.compute_bytes else 1.0
    return dense + attention + (forward.head * head_passes + run.method.adapter_flops(run)) * slower


def _input_gradient_factor(run: Run) -> float:
    """How much longer a product for inputs' gradients takes than one of the forward pass, of as many FLOPs."""
    rate = run.device.backward_flops
    return run.device.training_flops / rate if rate else 1.0


def _attention_share(run: Run) -> float:
    """Share of the dense products' rate that attention's kernel reaches, which no faster products raise for ever."""
    if run.on_cpu:
        return 1.0
    return min(run.program.attention_efficiency, run.program.attention_ceiling / run.device.training_flops)


def _alignment_factor(run: Run) -> float:
    """How much longer the head's products take where tensor cores read rows of logits that begin anywhere."""
    plain_cores = run.on_cpu or max(run.compute_bytes, run.activation_bytes) > 2
    return 1.0 if plain_cores or run.shape.vocab % c.ALIGNED_NUMBERS == 0 else c.UNALIGNED_FACTOR


def computes_head_again(run: Run, rows: Rows, step: Step) -> bool:
    """Whether chunks of logits are computed a second time for the backward pass: not where they are kept."""
    if run.loss not in ("completion-only", "chunked") or run.program.keeps_chunked_logits:
        return False
    return step.tokens * loss_share(run, rows) > run.program.loss_chunk


def _float32_factor(run: Run) -> float:
    """How much longer a product takes in float32, on the plain cores."""
    rate = run.device.float32_flops
    return max(1.0, run.device.training_flops / rate) if rate else 1.0


# ------------------------------------------------------------------------------------------------- memory's bandwidth


def elementwise_seconds(run: Run, rows: Rows, tokens: float) -> float:
    """Seconds per token and step outside of matrix products: norms, gates, softmax, adapters' additions, the loss.

    `tokens` are those of a micro-batch.
    """
    if run.on_cpu:
        saved = run.shape.layers * layer_activations(run).saved
        return _pass_share(run) * saved / run.compute_bytes / (c.CPU_ELEMENTWISE * run.device.cores)
    left = c.COMPILED_SHARE if run.program.compiled else 1.0
    scores = score_traffic(run) if run.eager_attention else 0.0
    others = loss_traffic(run, rows) + left * run.method.adapter_traffic(run) + scores
    layers = _layer_traffic(run) / run.device.bandwidth
    # Kernels whose tensors a cache holds are so short that the device waits for calls: it saves no more than those.
    saved = min(layers * elementwise.cached_share(run, tokens), _call_seconds(run) / tokens)
    return layers - saved + others / run.device.bandwidth + _offloading_seconds(run)


def forward_elementwise_seconds(run: Run, rows: Rows, tokens: float) -> float:
    """Seconds per token of a forward pass of so many tokens alone, outside of matrix products."""
    seconds = elementwise_seconds(run, rows, tokens) - _offloading_seconds(run)
    return seconds / (4.0 if run.checkpointing else 3.0)


def _offloading_seconds(run: Run) -> float:
    """Seconds per token in which layer inputs go to the host's memory and come back, where nothing hides that."""
    if not (run.offloaded and run.program.offloads_in_stream):
        return 0.0
    return 2.0 * run.stream_bytes * run.shape.hidden * run.shape.layers / c.PLAIN_LINK


def _layer_traffic(run: Run) -> float:
    """Bytes per token that layers move between their products in a step on a GPU, with what is computed again."""
    moved = elementwise.layer_traffic(run)
    forward = moved.forward * (2 if run.checkpointing else 1)
    return run.shape.layers * (forward + moved.backward + run.method.elementwise_traffic(run))


def _passes(run: Run) -> int:
    """Passes through the layers' small kernels: forward, twice as many backward, and what is computed again.

    Forward and backward rearrange the weights once each; the products for weight gradients have none.
    """
    return 4 if run.checkpointing else 3


def _pass_share(run: Run) -> float:
    """Passes in units of those of a step that computes nothing again."""
    return _passes(run) / 3


# ---------------------------------------------------------------------------- independent of the number of tokens


def overhead_seconds(run: Run) -> float:
    """Seconds of a micro-batch that do not depend on its tokens: small kernels, and unpacking a packed base."""
    seconds = _call_seconds(run)
    if run.on_cpu:
        seconds += (3 if run.checkpointing else 2) * repack_seconds(run)
    return seconds + _weight_traffic(run) / run.device.bandwidth


def _weight_traffic(run: Run) -> float:
    """Bytes that unpacking, decomposing and casting weights move in a micro-batch, independent of its tokens."""
    unpacked = (_passes(run) - 1) * run.method.dequantization_traffic(run)
    return unpacked + (_passes(run) - 2) * run.method.decomposition_traffic(run) + weight_cast_traffic(run)


def _call_seconds(run: Run) -> float:
    """Seconds of a micro-batch in which the device waits for calls."""
    return run.shape.layers * _passes(run) * _layer_call_seconds(run)


def _layer_call_seconds(run: Run) -> float:
    """Seconds of a layer's pass in which the device waits for calls."""
    if run.on_cpu:
        return c.CPU_LAYER_OVERHEAD
    calls = 1.0 + mixtures.expert_calls(run)
    return calls * run.program.layer_overhead * (c.COMPILED_SHARE if run.program.compiled else 1.0)


def repack_seconds(run: Run) -> float:
    """Seconds per pass in which a CPU rearranges the layers' weights for its products; 0 on a GPU."""
    return linear_weights(run.shape) / (c.CPU_REPACK * run.device.cores) if run.on_cpu else 0.0


def forward_overhead_seconds(run: Run) -> float:
    """Seconds of a forward pass that do not depend on its tokens."""
    return run.shape.layers * _layer_call_seconds(run) + repack_seconds(run)


# ------------------------------------------------------------------------------------------------- the interval's ends


def delay_seconds(run: Run, rows: Rows, step: Step) -> float:
    """Seconds that a micro-batch may take longer for reasons that no rate has: host, kernels, links between devices."""
    if run.on_cpu:
        return communication.delay_seconds(run, 0.0)
    slower = (_passes(run) - 1) * run.method.slowest_dequantization_traffic(run)
    host = _call_seconds(run) * c.SLOWEST_HOST
    computing = _computing_seconds(run, rows, step) if run.sharded else 0.0
    return host + slower / run.device.bandwidth + communication.delay_seconds(run, computing)


def saving_seconds(run: Run, rows: Rows, step: Step) -> float:
    """Seconds that a micro-batch may take less: waiting hides behind computing, and a loop's loss may be compiled."""
    hidden = 0.0
    if run.sharded:
        computing = _computing_seconds(run, rows, step)
        hidden = min(communication.waiting_seconds(run), computing) + communication.saved_seconds(run, computing)
    logits = loss_traffic(run, rows) - loss_traffic(run, rows, whole=True)
    return hidden + step.tokens * logits / run.device.bandwidth
