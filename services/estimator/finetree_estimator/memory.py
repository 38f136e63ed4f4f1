# SPDX-License-Identifier: Apache-2.0
"""Peak memory by component: of one device as allocated, reserved and device peaks, and of the host.

A step's peak is what stays for the whole step (weights, gradients, optimizer states) plus activations plus the larger
of two transients that never coincide: the loss and the recomputation or differentiation of one layer.
"""

import math
from dataclasses import dataclass
from enum import Enum

from finetree_estimator import constants as c
from finetree_estimator.intervals import Interval, around, total
from finetree_estimator.methods import (
    Bottleneck,
    Full,
    LoraAdapters,
    Prefix,
    QuantizedLora,
    target_linears,
    trainable_parameters,
)
from finetree_estimator.run import Run
from finetree_estimator.shapes import count, linear_weights


class Component(Enum):
    """Parts of the peak; the names are those of the contract's MemoryComponentKind."""

    BASE_WEIGHTS = "base weights"
    TRAINABLE_WEIGHTS = "trainable and master weights"
    GRADIENTS = "gradients"
    OPTIMIZER_STATES = "optimizer states"
    ACTIVATIONS = "activations"
    TRANSIENT_PEAK = "loss or layer peak"
    QUANTIZATION = "quantisation constants and workspace"
    RUNTIME = "runtime"
    FRAGMENTATION = "fragmentation"


COUNTED = frozenset(
    {Component.BASE_WEIGHTS, Component.TRAINABLE_WEIGHTS, Component.GRADIENTS, Component.OPTIMIZER_STATES}
)
"""Parts whose size follows from counts and number formats."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes. The components' expected values add up to `device.expected`."""

    components: tuple[tuple[Component, Interval], ...]
    allocated: Interval
    reserved: Interval
    device: Interval
    host: Interval


def estimate(run: Run) -> Memory:
    """Peaks of one device of a run, and of the host."""
    tokens = peak_tokens(run)
    static = _static(run)
    activations = activation_bytes(run) * tokens
    transient = max(loss_peak(run, tokens), layer_peak(run) * tokens)
    parts = {**static, Component.ACTIVATIONS: activations, Component.TRANSIENT_PEAK: transient}
    share = c.CPU_FRAGMENTATION if run.device.is_cpu else c.FRAGMENTATION
    parts[Component.RUNTIME] = c.CPU_RUNTIME if run.device.is_cpu else c.CUDA_CONTEXT + c.CUDA_WORKSPACE
    parts[Component.FRAGMENTATION] = share * (activations + transient)
    return _peaks(run, {kind: _interval(run, kind, parts[kind]) for kind in Component if parts[kind] > 0})


def peak_tokens(run: Run) -> float:
    """Tokens of the largest micro-batch of one device.

    Packing fills a micro-batch up to micro-batch x sequence length, or with all rows of the batch; without packing the
    worker sorts a batch by length, so that some micro-batch has the longest rows.
    """
    full = float(run.micro_batch * run.sequence_length)
    if run.rows is None:
        return full
    # Row lengths are usually spread as widely as their mean; that is assumed where only the mean is known.
    variance = run.rows.mean_square - run.rows.mean**2 if run.rows.longest_known else run.rows.mean**2
    spread = math.sqrt(max(0.0, variance))
    share = -(-run.batch // run.devices)
    whole_batch = share * run.rows.mean + 3 * spread * math.sqrt(share)
    if run.packing:
        return max(float(run.rows.longest), min(full, whole_batch))
    return min(full, float(run.micro_batch * run.rows.longest))


def saved_per_layer(run: Run) -> float:
    """Bytes per token that one decoder layer keeps for its backward pass, adapters included."""
    s, size = run.shape, run.compute_bytes
    wide = (4 if s.gated else 3) * s.intermediate * max(1, s.active_experts)
    kv = 2 * (s.q_width if run.stack.expands_kv else s.kv_width)
    plain = 4 * s.hidden + s.q_width + kv + 2 * s.q_width + wide
    return size * plain + s.heads * _score_bytes(run) + _adapter_inputs(run)


def activation_bytes(run: Run) -> float:
    """Bytes per token that all layers keep until the backward pass."""
    if run.checkpointing:
        # Only each layer's input is kept; offloading moves it to the host.
        return 0.0 if run.offloaded else float(run.compute_bytes * run.shape.hidden * run.shape.layers)
    return run.shape.layers * saved_per_layer(run)


def layer_peak(run: Run) -> float:
    """Bytes per token that the differentiation of one layer needs for a moment."""
    return saved_per_layer(run) * (c.LAYER_PEAK if run.checkpointing else c.LAYER_GRADIENTS)


def loss_peak(run: Run, tokens: float) -> float:
    """Bytes of logits and their derivatives at the loss, for a micro-batch of so many tokens."""
    targets = tokens
    if run.loss == "completion-only":
        targets *= run.rows.target_fraction if run.rows is not None else 1.0
    if run.loss in ("completion-only", "chunked"):
        targets = min(targets, float(c.CHUNK_TOKENS))
    full = c.LOGITS_BYTES * run.shape.vocab * targets
    return full * c.FUSED_LOGITS_SHARE if run.loss == "fused" else full


def _static(run: Run) -> dict[Component, float]:
    trainable = trainable_parameters(run.method, run.shape)
    return {
        Component.BASE_WEIGHTS: _base_weights(run),
        Component.TRAINABLE_WEIGHTS: float(_separate_weights(run, trainable)),
        Component.GRADIENTS: float(trainable * run.master_bytes),
        Component.OPTIMIZER_STATES: trainable * _state_bytes(run),
        Component.QUANTIZATION: _quantization(run),
    }


def _base_weights(run: Run) -> float:
    everything = count(run.shape).total
    if not isinstance(run.method, QuantizedLora):
        return float(everything * run.weight_bytes)
    packed = linear_weights(run.shape)
    per_weight = c.NF4_BYTES if run.method.bits == 4 else c.INT8_BYTES
    return packed * per_weight + (everything - packed) * c.KBIT_UNQUANTIZED_BYTES


def _separate_weights(run: Run, trainable: int) -> int:
    """Adapters are weights of their own; a fully trained model needs a master copy only in another type."""
    if isinstance(run.method, Full) and run.weight_bytes == run.master_bytes:
        return 0
    return trainable * run.master_bytes


def _state_bytes(run: Run) -> float:
    return {
        "adamw": 2.0 * run.master_bytes,
        "adamw-8bit": c.EIGHT_BIT_STATE,
        "paged-adamw-8bit": c.EIGHT_BIT_STATE,
        "adafactor": c.ADAFACTOR_SHARE,
        "sgd": 0.0,
    }[run.optimizer]


def _quantization(run: Run) -> float:
    if not isinstance(run.method, QuantizedLora):
        return 0.0
    constants = c.INT8_CONSTANTS
    if run.method.bits == 4:
        constants = c.NF4_DOUBLE_CONSTANTS if run.method.double else c.NF4_CONSTANTS
    # One weight matrix at a time is unpacked to the compute type.
    workspace = run.compute_bytes * run.shape.hidden * run.shape.intermediate
    return linear_weights(run.shape) * constants + workspace


def _score_bytes(run: Run) -> float:
    """Bytes per token and head of attention scores that are kept; fused kernels keep none."""
    if run.eager_attention:
        return float(c.EAGER_SCORES_BYTES * run.sequence_length)
    span = run.rows.attention_span if run.rows is not None else float(run.sequence_length)
    if run.device.is_cpu and span <= c.SHORT_ROW_TOKENS:
        return c.SHORT_ROW_SCORES_BYTES * span
    return 0.0


def _adapter_inputs(run: Run) -> float:
    """Bytes per token and layer that adapters and prefixes keep besides the layer's own activations."""
    method = run.method.lora if isinstance(run.method, QuantizedLora) else run.method
    size = run.compute_bytes
    if isinstance(method, LoraAdapters):
        inputs = sum(linear.d_in for linear in target_linears(run.shape, method.targets))
        width = run.stack.adapter_input_bytes or size
        return inputs * (width + (run.stack.dropout_mask_bytes if method.dropout > 0 else 0))
    if isinstance(method, Prefix):
        # Keys and values are copied to join the prefix.
        return float(size * 2 * run.shape.kv_width)
    if isinstance(method, Bottleneck):
        return float(method.places * size * (run.shape.hidden + 2 * method.size))
    return 0.0


def method_name(run: Run) -> str:
    """full, lora, qlora, prefix or adapter."""
    names: dict[type, str] = {Full: "full", LoraAdapters: "lora", QuantizedLora: "qlora", Prefix: "prefix"}
    return names.get(type(run.method), "adapter")


def _interval(run: Run, kind: Component, expected: float) -> Interval:
    """Counted parts are exact; what kernels and allocators do is not."""
    if kind in COUNTED:
        extra = c.METHOD_SPREAD[method_name(run)]
        return around(expected, below=extra, above=extra, sources=(c.MEMORY_FORMULAS,))
    below, above = c.CPU_SPREAD if run.device.is_cpu else c.GPU_SPREAD
    source = c.CPU_CONSTANTS if run.device.is_cpu else c.MEMORY_FIT
    return around(expected, below=below, above=above, sources=(source,))


def _peaks(run: Run, components: dict[Component, Interval]) -> Memory:
    device = total(components.values())
    outside = 0.0 if run.device.is_cpu else c.CUDA_CONTEXT
    reserved = device.scaled(1 - outside / device.expected)
    fragments = components[Component.FRAGMENTATION].expected if Component.FRAGMENTATION in components else 0.0
    allocated = device.scaled(1 - (outside + fragments) / device.expected)
    return Memory(tuple(components.items()), allocated, reserved, device, _host(run, device))


def _host(run: Run, device: Interval) -> Interval:
    """On a CPU the process itself; beside a GPU the libraries, one shard of weights and offloaded layer inputs."""
    if run.device.is_cpu:
        return device
    shard = min(5e9, count(run.shape).total * float(run.weight_bytes))
    inputs = run.compute_bytes * run.shape.hidden * run.shape.layers * peak_tokens(run) if run.offloaded else 0.0
    expected = (c.HOST_RUNTIME + shard + inputs) * run.devices
    return around(expected, below=0.4, above=0.6, sources=(c.MEMORY_FORMULAS,))
