# SPDX-License-Identifier: Apache-2.0
"""Time of a run by phase: floating-point operations over the rate that training reaches, plus what no product fills.

A forward pass costs 2 FLOPs per weight and token. The backward pass costs as much again for the inputs' gradients and,
where weights are trained, once more for theirs: LoRA 4N, full 6N, checkpointing 2N on top.
"""

import math
from dataclasses import dataclass
from enum import Enum

from finetree_estimator import constants as c
from finetree_estimator import sharing
from finetree_estimator.activations import saved_per_layer
from finetree_estimator.intervals import Interval, around, total
from finetree_estimator.methods import Full, Prefix, QuantizedLora, trainable_parameters
from finetree_estimator.run import EvaluationPlan, Rows, Run
from finetree_estimator.shapes import active_parameters, count, linear_weights


class Phase(Enum):
    """Parts of a run; the names are those of the contract's TimePhaseKind."""

    # Enum's own hashes the name, in Python; members are single, so their identity will do.
    __hash__ = object.__hash__

    LOAD = "load"
    TOKENIZE = "tokenize"
    TRAIN = "train"
    EVALUATE = "evaluate"
    SAVE = "save"


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds by phase; tokens per second while training."""

    phases: tuple[tuple[Phase, Interval], ...]
    total: Interval
    step: Interval
    tokens_per_second: Interval
    processed_tokens: int


@dataclass(frozen=True, slots=True)
class Step:
    """An optimizer step of one device: so many micro-batches of so many tokens on average."""

    micro_batches: int
    tokens: float
    """Tokens of a micro-batch."""


def estimate(run: Run) -> Times | None:
    """Time of a run; None where the number of rows, hence of steps, is unknown."""
    if run.rows is None or run.steps == 0:
        return None
    step = step_of(run, run.rows)
    seconds = step_seconds(run, run.rows, step)
    tokens = step.micro_batches * step.tokens * run.devices
    step_interval = _by_rate(run, seconds)
    phases = (
        (Phase.LOAD, _phase(load_seconds(run))),
        (Phase.TOKENIZE, _phase(run.rows.tokens / c.TOKENIZE_TOKENS_PER_SECOND)),
        (Phase.TRAIN, step_interval.scaled(run.steps)),
        (Phase.EVALUATE, _by_rate(run, evaluation_seconds(run, run.evaluation))),
        (Phase.SAVE, _phase(save_seconds(run))),
    )
    whole = total(interval for _, interval in phases)
    ends = (tokens / step_interval.high, tokens / step_interval.expected, tokens / step_interval.low)
    return Times(phases, whole, step_interval, Interval(*ends, step_interval.sources), round(tokens * run.steps))


def step_of(run: Run, rows: Rows) -> Step:
    """How a step's rows fall into micro-batches on one device."""
    share = min(math.ceil(run.batch / run.devices), rows.count)
    tokens = share * rows.mean
    room = run.micro_batch * run.sequence_length
    micro = math.ceil(tokens / room) if run.packing else math.ceil(share / run.micro_batch)
    return Step(max(1, micro), tokens / max(1, micro))


def step_seconds(run: Run, rows: Rows, step: Step) -> float:
    """Seconds of an optimizer step, of all devices at once."""
    micro = step.tokens * training_flops(run, rows, step) / run.device.training_flops + overhead_seconds(run)
    micro += step.tokens * elementwise_seconds(run, rows) * (4 / 3 if run.checkpointing else 1)
    micro += sharing.micro_batch_seconds(run)
    trained = trainable_parameters(run.method, run.shape)
    traffic = c.OPTIMIZER_TRAFFIC if run.program.fused_optimizer else c.UNFUSED_OPTIMIZER_TRAFFIC
    update = trained * run.master_bytes * traffic / run.device.bandwidth
    spread = run.devices if run.sharding != "replicated" else 1
    return step.micro_batches * micro + update / spread + sharing.step_seconds(run)


def training_flops(run: Run, rows: Rows, step: Step) -> float:
    """FLOPs per token of a micro-batch, forward and backward, recomputation counted.

    Those of attention count as what dense products do in the same time.
    """
    dense, attention, head = forward_flops(run, rows)
    again = 1.0 if run.checkpointing else 0.0
    backward = 1.0
    if isinstance(run.method, Full):
        backward = 2.0 - run.method.frozen_layers / run.shape.layers
    chunks = run.loss in ("completion-only", "chunked") and step.tokens * _loss_share(run, rows) > c.CHUNK_TOKENS
    head_passes = 2.0 + (1.0 if isinstance(run.method, Full) else 0.0) + (1.0 if chunks else 0.0)
    adapters = 0.0 if isinstance(run.method, Full | Prefix) else 6.0 * trainable_parameters(run.method, run.shape)
    # Attention's backward pass is the same whatever is trained.
    spans = attention * (1.0 + c.ATTENTION_BACKWARD + again) / _attention_efficiency(run)
    return dense * (1.0 + backward + again) + spans + head * head_passes + adapters


def forward_flops(run: Run, rows: Rows) -> tuple[float, float, float]:
    """FLOPs per token of a forward pass: of the layers' weights, of attention, and of the head where it is computed."""
    shape = run.shape
    outside = count(shape)
    active = active_parameters(shape) - outside.embeddings - outside.lm_head
    virtual = run.method.virtual_tokens if isinstance(run.method, Prefix) else 0
    # Causal attention meets half of the row: 2 products x 2 FLOPs x span / 2.
    attention = shape.layers * shape.q_width * (2.0 * rows.attention_span + 4.0 * virtual)
    head = 2.0 * shape.vocab * shape.hidden * _loss_share(run, rows)
    return 2.0 * active, attention, head


def _attention_efficiency(run: Run) -> float:
    return 1.0 if run.device.is_cpu else c.ATTENTION_EFFICIENCY


def overhead_seconds(run: Run) -> float:
    """Seconds of a micro-batch that do not depend on its tokens: small kernels, and unpacking a quantised base."""
    passes = 3 + (1 if run.checkpointing else 0)
    # Forward and backward rearrange the weights once each; the products for weight gradients have none.
    seconds = run.shape.layers * passes * _layer_overhead(run) + (passes - 1) * repack_seconds(run)
    if isinstance(run.method, QuantizedLora):
        seconds += (passes - 1) * linear_weights(run.shape) * c.DEQUANTIZE_BYTES / run.device.bandwidth
    return seconds


def elementwise_seconds(run: Run, rows: Rows) -> float:
    """Seconds per token and step outside of matrix products: norms, gates, softmax, dropout, the loss."""
    if not run.device.is_cpu:
        saved = run.shape.layers * saved_per_layer(run)
        logits = c.LOGITS_BYTES[min(4, max(2, run.compute_bytes))] * run.shape.vocab * _loss_share(run, rows)
        return c.ELEMENTWISE_TRAFFIC * (saved + (0.0 if run.loss == "fused" else logits)) / run.device.bandwidth
    numbers = run.shape.layers * saved_per_layer(run) / run.compute_bytes
    return numbers / (c.CPU_ELEMENTWISE * run.device.cores)


def repack_seconds(run: Run) -> float:
    """Seconds per pass in which a CPU rearranges the layers' weights for its products."""
    if not run.device.is_cpu:
        return 0.0
    return linear_weights(run.shape) / (c.CPU_REPACK * run.device.cores)


def load_seconds(run: Run) -> float:
    """Seconds until the model is on the device: start of the worker, and reading 16-bit weights."""
    return c.IMPORT_SECONDS + 2.0 * count(run.shape).total / c.DISK_BYTES_PER_SECOND


def save_seconds(run: Run) -> float:
    """Seconds of writing checkpoints (weights and two moments) and the artifact."""
    trained = trainable_parameters(run.method, run.shape) * run.master_bytes
    return trained * (3.0 * run.checkpoints + 1.0) / c.DISK_BYTES_PER_SECOND


def evaluation_seconds(run: Run, plan: EvaluationPlan) -> float:
    """Seconds of all evaluations: the loss of the held-out rows, and the greedy answers of those that generate."""
    if plan.rows is None:
        return 0.0
    seconds = (plan.before + plan.during + plan.after) * _loss_seconds(run, plan.rows)
    if plan.generate:
        longest = float(plan.max_new_tokens)
        learned = c.ANSWER_SPREAD * plan.rows.mean * plan.rows.target_fraction + 1
        # An untrained model rambles to the limit; a trained one has learned to stop.
        seconds += plan.before * _generation_seconds(run, plan.rows, longest)
        trained = plan.after + (plan.during if plan.generate_during else 0)
        seconds += trained * _generation_seconds(run, plan.rows, min(longest, learned))
    return seconds


def _loss_seconds(run: Run, rows: Rows) -> float:
    """Seconds of one look at the loss: a forward pass over all held-out rows, packed."""
    dense, attention, head = forward_flops(run, rows)
    batches = math.ceil(rows.tokens / c.EVALUATION_TOKENS)
    flops = dense + attention / _attention_efficiency(run) + head
    per_token = flops / run.device.training_flops + elementwise_seconds(run, rows) / 3
    return rows.tokens * per_token + batches * _forward_overhead(run)


def _generation_seconds(run: Run, rows: Rows, answer: float) -> float:
    """Prompts like a forward pass, then a token at a time: bound by reading the weights or by the layers' calls."""
    dense, attention, _ = forward_flops(run, rows)
    prompts = rows.tokens * (1 - rows.target_fraction) * (dense + attention) / run.device.training_flops
    batches = math.ceil(rows.count / c.GENERATION_BATCH)
    weights = active_parameters(run.shape) * run.weight_bytes / run.device.bandwidth
    products = min(rows.count, c.GENERATION_BATCH) * 2.0 * active_parameters(run.shape) / run.device.training_flops
    per_token = max(weights, products) + run.shape.layers * _layer_overhead(run)
    per_token += min(rows.count, c.GENERATION_BATCH) * elementwise_seconds(run, rows) / 3
    return prompts + batches * answer * per_token


def _forward_overhead(run: Run) -> float:
    return run.shape.layers * _layer_overhead(run) + repack_seconds(run)


def _layer_overhead(run: Run) -> float:
    return c.CPU_LAYER_OVERHEAD if run.device.is_cpu else run.program.layer_overhead


def _loss_share(run: Run, rows: Rows) -> float:
    """Share of tokens whose logits are computed."""
    return rows.target_fraction if run.loss == "completion-only" else 1.0


def _by_rate(run: Run, seconds: float) -> Interval:
    """Seconds that go with the inverse of the device's rate; unknown row lengths only shorten them."""
    below = 1 - 1 / (1 + run.device.rate_above)
    above = 1 / (1 - run.device.rate_below) - 1
    source = c.CPU_CONSTANTS if run.device.is_cpu else c.TIME_FIT
    if run.rows is not None and not run.rows.mean_known:
        below = 1 - (1 - below) * c.SHORTEST_ROWS
    return around(seconds, below=below, above=above, sources=(c.TIME_FORMULAS, source, *run.device.sources))


def _phase(seconds: float) -> Interval:
    return around(seconds, below=c.PHASE_SPREAD, above=2 * c.PHASE_SPREAD, sources=(c.TIME_FORMULAS,))
