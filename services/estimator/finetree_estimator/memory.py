# SPDX-License-Identifier: Apache-2.0
"""Peak memory by component: of one device as allocated, reserved and device peaks, and of the host.

A step's peak is what stays for the whole step (weights, optimizer states) plus what is alive at its fullest moment:
activations and logits at the loss, activations and gradients of a layer, or all gradients at the end. They never
coincide, so the largest counts and not their sum.
"""

import math
from dataclasses import dataclass
from enum import Enum

from finetree_estimator import constants as c
from finetree_estimator import cpu_memory
from finetree_estimator.activations import adapted_expert_bytes, layer_gradients, saved_per_layer, stream_bytes
from finetree_estimator.intervals import Interval, around, total
from finetree_estimator.methods import Full, LoraAdapters, Prefix, QuantizedLora, trainable_parameters
from finetree_estimator.run import Run
from finetree_estimator.shapes import count, linear_weights, routed_weights


class Component(Enum):
    """Parts of the peak; the names are those of the contract's MemoryComponentKind."""

    # Enum's own hashes the name, in Python; members are single, so their identity will do.
    __hash__ = object.__hash__

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
    moment = peak_moment(run)
    parts = _static(run)
    parts[Component.GRADIENTS] = moment.gradients
    parts[Component.ACTIVATIONS] = moment.activations
    parts[Component.TRANSIENT_PEAK] = moment.transient
    parts[Component.RUNTIME] = _runtime(run)
    parts[Component.FRAGMENTATION] = _fragmentation(run, moment)
    # Where a model is sharded, setting it up may need more than a step.
    setup = _setup(run) + parts[Component.RUNTIME] - sum(parts.values())
    parts[Component.TRANSIENT_PEAK] += max(0.0, setup)
    return _peaks(run, {kind: _interval(run, kind, parts[kind]) for kind in Component if parts[kind] > 0})


@dataclass(frozen=True, slots=True)
class Moment:
    """What is alive beside weights and optimizer states at one moment of a step, bytes."""

    gradients: float
    activations: float
    transient: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.gradients + self.activations + self.transient


def peak_moment(run: Run) -> Moment:
    """The moment of a step at which most is alive: at the loss, while a layer is differentiated, or at the update."""
    tokens = peak_tokens(run)
    gradients = _gradients(run)
    experts, one_layer = adapted_expert_bytes(run)
    if run.device.is_cpu:
        peak = cpu_memory.peak(run, tokens, gradients)
        return Moment(peak.gradients, peak.activations + experts, peak.transient + one_layer)
    # From the second micro-batch on, the gradients of the first are there already.
    before = gradients if run.batch > run.micro_batch * run.devices else 0.0
    kept = activation_bytes(run) * tokens + experts
    differentiated = layer_peak(run) * tokens + one_layer
    return max(
        Moment(before, kept, loss_peak(run, tokens)),
        Moment(before, kept, differentiated),
        Moment(gradients, 0.0, differentiated),
        Moment(gradients, 0.0, _update_copies(run)),
        key=lambda moment: moment.total,
    )


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


def activation_bytes(run: Run) -> float:
    """Bytes per token that all layers keep until the backward pass."""
    if run.checkpointing:
        # Only each layer's input is kept; offloading moves it to the host.
        return 0.0 if run.offloaded else float(stream_bytes(run) * run.shape.hidden * run.shape.layers)
    return run.shape.layers * saved_per_layer(run)


def layer_peak(run: Run) -> float:
    """Bytes per token that the differentiation of one layer needs for a moment, its recomputation included."""
    return layer_gradients(run) + (saved_per_layer(run) if run.checkpointing else 0.0)


def loss_peak(run: Run, tokens: float) -> float:
    """Bytes of logits and their derivatives at the loss, for a micro-batch of so many tokens."""
    targets = tokens
    per_logit = c.LOGITS_BYTES[min(4, max(2, run.compute_bytes))]
    if run.loss == "completion-only":
        targets *= run.rows.target_fraction if run.rows is not None else 1.0
    if run.loss in ("completion-only", "chunked"):
        if run.program.keeps_chunked_logits:
            return (
                c.CHUNKED_LOGITS_BYTES * targets + per_logit * min(targets, run.program.loss_chunk)
            ) * run.shape.vocab
        targets = min(targets, float(run.program.loss_chunk))
    full = per_logit * run.shape.vocab * targets
    return full * c.FUSED_LOGITS_SHARE if run.loss == "fused" else full


def _static(run: Run) -> dict[Component, float]:
    trainable = trainable_parameters(run.method, run.shape)
    spread = run.devices if run.sharding != "replicated" else 1
    whole = run.devices if run.sharding == "full" else 1
    return {
        Component.BASE_WEIGHTS: _base_weights(run) / whole + _gathered(run),
        Component.TRAINABLE_WEIGHTS: _separate_weights(run, trainable) / (spread if _has_master(run) else whole),
        Component.OPTIMIZER_STATES: trainable * _state_bytes(run) / spread,
        Component.QUANTIZATION: _quantization(run) / whole,
    }


def _gradients(run: Run) -> float:
    """Bytes of all gradients, or of one layer's and the embeddings' where each weight is updated at once."""
    trainable = trainable_parameters(run.method, run.shape)
    if run.optimizer_in_backward and run.batch == run.micro_batch * run.devices:
        trainable = min(trainable, trainable // run.shape.layers + count(run.shape).embeddings)
    spread = run.devices if run.sharding in ("gradients", "full") else 1
    # Replicas reduce copies of their gradients (DDP's buckets).
    copies = 2 if run.devices > 1 and run.sharding in ("replicated", "optimizer") else 1
    return trainable * _trained_bytes(run) * copies / spread + _whole_gradients(run)


def _whole_gradients(run: Run) -> float:
    """Bytes of a fully trained model's gradients that are whole before they are reduced to shards.

    Those of embeddings, head and one layer, and those that wait for a slow network.
    """
    if run.sharding != "full" or run.devices == 1 or not isinstance(run.method, Full):
        return 0.0
    counted = count(run.shape)
    outside = counted.embeddings + counted.lm_head
    waiting = c.WAITING_GRADIENTS * counted.total * run.compute_bytes if run.nodes > 1 else 0.0
    return run.master_bytes * (outside + (counted.total - outside) / run.shape.layers) + waiting


def _update_copies(run: Run) -> float:
    """Bytes that an optimizer step adds for a moment."""
    if run.program.fused_optimizer or run.optimizer_in_backward or run.optimizer != "adamw":
        return 0.0
    spread = run.devices if run.sharding != "replicated" else 1
    return c.FOREACH_COPIES * trainable_parameters(run.method, run.shape) * _trained_bytes(run) / spread


def _gathered(run: Run) -> float:
    """Bytes of weights that are whole for a while although they are sharded: some layers, embeddings and head."""
    if run.sharding != "full" or run.devices == 1:
        return 0.0
    counted = count(run.shape)
    outside = counted.embeddings + counted.lm_head
    layer = (counted.total - outside) / run.shape.layers
    if run.program.keeps_frozen_whole and not isinstance(run.method, Full):
        return float(run.compute_bytes * counted.total)
    return run.compute_bytes * (c.GATHERED_LAYERS * layer + outside)


def _runtime(run: Run) -> float:
    if run.device.is_cpu:
        return cpu_memory.runtime(run, peak_tokens(run))
    return c.CUDA_CONTEXT + c.CUDA_WORKSPACE + _collectives(run)


def _setup(run: Run) -> float:
    """Bytes while a model is cut into shards: all that is sharded so far, and copies of the largest unit."""
    if run.sharding != "full" or run.devices == 1 or not run.program.sharded_master:
        return 0.0
    counted = count(run.shape)
    outside = counted.embeddings + counted.lm_head
    return 4.0 * (c.SETUP_COPIES * outside + counted.total / run.devices)


def _collectives(run: Run) -> float:
    return (c.COLLECTIVES if run.devices > 1 else 0.0) + (c.COLLECTIVES_ACROSS if run.nodes > 1 else 0.0)


def _fragmentation(run: Run, moment: Moment) -> float:
    """Bytes that the allocator holds and nobody uses."""
    if run.device.is_cpu:
        return cpu_memory.holes(run, peak_tokens(run), _gradients(run))
    stored = c.STORED_FRAGMENTATION if run.checkpointing else c.FRAGMENTATION
    return stored * moment.activations + c.FRAGMENTATION * (moment.transient + moment.gradients)


def _base_weights(run: Run) -> float:
    counted = count(run.shape)
    if not isinstance(run.method, QuantizedLora):
        return float(counted.total * run.weight_bytes) + _cast_weights(run, counted.total)
    packed = _packed(run)
    outside = c.RAISED_BYTES if run.program.raises_quantized_base else run.weight_bytes
    return packed * packed_bytes(run.method) + (counted.total - packed) * outside


def _packed(run: Run) -> int:
    """Weights of a quantised base that are packed."""
    packed = linear_weights(run.shape)
    if run.program.quantizes_head:
        packed += count(run.shape).lm_head
    return packed if run.program.packs_experts else packed - routed_weights(run.shape)


def _cast_weights(run: Run, total: int) -> float:
    """Bytes of 16-bit copies of a frozen float32 base: each product keeps its own until the backward pass."""
    if isinstance(run.method, Full) or run.weight_bytes <= run.compute_bytes:
        return 0.0
    return total * run.compute_bytes / (run.shape.layers if run.checkpointing else 1)


def packed_bytes(method: QuantizedLora) -> float:
    """Bytes of a quantised weight without its constants; GPTQ's include them."""
    if method.grouped:
        return c.GPTQ_BYTES
    return c.NF4_BYTES if method.bits == 4 else c.INT8_BYTES


def _has_master(run: Run) -> bool:
    """Whether separate weights are master copies of a fully trained model."""
    return isinstance(run.method, Full)


def _separate_weights(run: Run, trainable: int) -> int:
    """Adapters are weights of their own; a fully trained model needs a master copy only in another type."""
    if isinstance(run.method, Full) and run.weight_bytes == run.master_bytes:
        return 0
    return trainable * _trained_bytes(run)


def _trained_bytes(run: Run) -> int:
    """Bytes per number of trained weights and gradients: the program may have a type of its own for adapters."""
    if not isinstance(run.method, Full) and run.program.adapter_bytes:
        return min(run.program.adapter_bytes, run.master_bytes)
    return run.master_bytes


def _state_bytes(run: Run) -> float:
    return {
        "adamw": 2.0 * _trained_bytes(run),
        "adamw-8bit": c.EIGHT_BIT_STATE,
        # Paged states live in memory of the driver that moves to the host where the device needs the room.
        "paged-adamw-8bit": c.EIGHT_BIT_STATE if run.device.is_cpu else 0.0,
        "adafactor": c.ADAFACTOR_SHARE,
        "sgd": 0.0,
    }[run.optimizer]


def _quantization(run: Run) -> float:
    if not isinstance(run.method, QuantizedLora):
        return 0.0
    constants = 0.0 if run.method.grouped else c.INT8_CONSTANTS
    if run.method.bits == 4 and not run.method.grouped:
        constants = c.NF4_DOUBLE_CONSTANTS if run.method.double else c.NF4_CONSTANTS
    # One weight matrix at a time is unpacked to the compute type.
    workspace = run.compute_bytes * run.shape.hidden * run.shape.intermediate
    return _packed(run) * constants + workspace


def method_name(run: Run) -> str:
    """full, lora, qlora, prefix or adapter."""
    names: dict[type, str] = {Full: "full", LoraAdapters: "lora", QuantizedLora: "qlora", Prefix: "prefix"}
    return names.get(type(run.method), "adapter")


def _interval(run: Run, kind: Component, expected: float) -> Interval:
    """Counted parts are exact; what kernels and allocators do is not."""
    shared = c.DEVICES_SPREAD if run.devices > 1 else 0.0
    if kind in COUNTED:
        extra = c.METHOD_SPREAD[method_name(run)] + shared
        return around(expected, below=extra, above=extra, sources=(c.MEMORY_FORMULAS,))
    below, above = _cpu_spread(run, kind) if run.device.is_cpu else c.GPU_SPREAD
    source = c.CPU_CONSTANTS if run.device.is_cpu else c.MEMORY_FIT
    return around(expected, below=below + shared, above=above + shared, sources=(source,))


def _cpu_spread(run: Run, kind: Component) -> tuple[float, float]:
    if kind is Component.RUNTIME:
        return cpu_memory.RUNTIME_SPREAD
    return cpu_memory.HOLES_SPREAD if kind is Component.FRAGMENTATION else cpu_memory.tensors_spread(run)


def _peaks(run: Run, components: dict[Component, Interval]) -> Memory:
    device = total(components.values())
    # Outside the allocator: of a GPU its context, of a process everything that holds no tensor.
    outside = components[Component.RUNTIME].expected if run.device.is_cpu else c.CUDA_CONTEXT + _collectives(run)
    reserved = device.scaled(1 - outside / device.expected)
    fragments = components[Component.FRAGMENTATION].expected if Component.FRAGMENTATION in components else 0.0
    allocated = device.scaled(1 - (outside + fragments) / device.expected)
    return Memory(tuple(components.items()), allocated, reserved, device, _host(run, device))


def _host(run: Run, device: Interval) -> Interval:
    """On a CPU the process itself; beside a GPU the libraries, a shard of weights, and what is offloaded or paged."""
    if run.device.is_cpu:
        return device
    shard = min(5e9, count(run.shape).total * float(run.weight_bytes))
    inputs = run.compute_bytes * run.shape.hidden * run.shape.layers * peak_tokens(run) if run.offloaded else 0.0
    paged = run.optimizer == "paged-adamw-8bit"
    states = c.EIGHT_BIT_STATE * trainable_parameters(run.method, run.shape) if paged else 0.0
    expected = (c.HOST_RUNTIME + shard + inputs + states) * run.devices
    return around(expected, below=0.4, above=0.6, sources=(c.MEMORY_FORMULAS,))
