# SPDX-License-Identifier: Apache-2.0
"""Time of a run by phase: floating-point operations over the rate that training reaches, plus what no product fills.

A forward pass costs 2 FLOPs per weight and token. The backward pass costs as much again for the inputs' gradients and,
where weights are trained, once more for theirs: LoRA 4N, full 6N, checkpointing 2N on top.
"""

import math
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

from finetree_estimator import constants as c
from finetree_estimator import sharing
from finetree_estimator.activations import Layer, layer_of, saved_by
from finetree_estimator.intervals import COVERAGE, Interval, Source, around, made, total
from finetree_estimator.methods import Full, Prefix, QuantizedLora, trainable_parameters
from finetree_estimator.run import EvaluationPlan, Recipe, Rows, Run
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


class Step(NamedTuple):
    """An optimizer step of one device: so many micro-batches of so many tokens on average."""

    micro_batches: int
    tokens: float
    """Tokens of a micro-batch."""


class Work(NamedTuple):
    """What a run's recipe alone says of its work: FLOPs per token where nothing else is said."""

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
    """Of adapters, forward and backward."""
    update_bytes: int
    """Bytes that an optimizer step moves."""
    saved_bytes: int
    """Bytes of what is trained, as a checkpoint or an artifact holds it."""
    load_seconds: float
    """Until the model is on the device: start of the worker, and reading 16-bit weights."""
    layer: Layer


@lru_cache(maxsize=4096)
def work_of(recipe: Recipe) -> Work:
    """The work of a run's recipe."""
    shape, method, counted = recipe.shape, recipe.method, count(recipe.shape)
    trained = trainable_parameters(method, shape)
    again = 1.0 if recipe.checkpointing else 0.0
    backward = 2.0 - method.frozen_layers / shape.layers if isinstance(method, Full) else 1.0
    dense = 2.0 * (active_parameters(shape) - counted.embeddings - counted.lm_head)
    traffic = c.OPTIMIZER_TRAFFIC if recipe.program.fused_optimizer else c.UNFUSED_OPTIMIZER_TRAFFIC
    return Work(
        dense=dense,
        trained_dense=dense * (1.0 + backward + again),
        attention_width=shape.layers * shape.q_width,
        virtual=4.0 * method.virtual_tokens if isinstance(method, Prefix) else 0.0,
        # Attention's backward pass is the same whatever is trained.
        attention_passes=1.0 + c.ATTENTION_BACKWARD + again,
        head=2.0 * shape.vocab * shape.hidden,
        head_passes=3.0 if isinstance(method, Full) else 2.0,
        adapters=0.0 if isinstance(method, Full | Prefix) else 6.0 * trained,
        update_bytes=trained * recipe.master_bytes * traffic,
        saved_bytes=trained * recipe.master_bytes,
        load_seconds=c.IMPORT_SECONDS + 2.0 * counted.total / c.DISK_BYTES_PER_SECOND,
        layer=layer_of(recipe),
    )


def estimate(run: Run) -> Times | None:
    """Time of a run; None where the number of rows, hence of steps, is unknown."""
    rows = run.rows
    if rows is None or run.steps == 0:
        return None
    work, step = work_of(run.recipe), step_of(run, rows)
    seconds = step_seconds(run, rows, step, work)
    tokens = step.micro_batches * step.tokens * run.devices
    below, above = _rate_ends(run, rows)
    sources = _rate_sources(run.device.sources, is_cpu=run.device.is_cpu)
    step_interval = made((seconds * (1 - below), seconds, seconds * (1 + above), sources, COVERAGE))
    evaluation = evaluation_seconds(run, run.evaluation)
    phases = (
        (Phase.LOAD, _phase(work.load_seconds)),
        (Phase.TOKENIZE, _phase(rows.tokens / c.TOKENIZE_TOKENS_PER_SECOND)),
        (Phase.TRAIN, step_interval.scaled(run.steps)),
        (Phase.EVALUATE, made((evaluation * (1 - below), evaluation, evaluation * (1 + above), sources, COVERAGE))),
        (Phase.SAVE, _phase(save_seconds(run, work))),
    )
    whole = total([interval for _, interval in phases])
    low, expected, high = step_interval[:3]
    rate = made((tokens / high, tokens / expected, tokens / low, sources, COVERAGE))
    return Times(phases, whole, step_interval, rate, round(tokens * run.steps))


def step_of(run: Run, rows: Rows) -> Step:
    """How a step's rows fall into micro-batches on one device."""
    share = min(math.ceil(run.batch / run.devices), rows.count)
    tokens = share * rows.mean
    room = run.micro_batch * run.sequence_length
    micro = math.ceil(tokens / room) if run.packing else math.ceil(share / run.micro_batch)
    return Step(max(1, micro), tokens / max(1, micro))


def step_seconds(run: Run, rows: Rows, step: Step, work: Work) -> float:
    """Seconds of an optimizer step, of all devices at once."""
    micro = step.tokens * training_flops(run, rows, step, work) / run.device.training_flops + overhead_seconds(run)
    micro += step.tokens * elementwise_seconds(run, rows, work) * (4 / 3 if run.checkpointing else 1)
    if run.devices == 1:
        return step.micro_batches * micro + work.update_bytes / run.device.bandwidth
    micro += sharing.micro_batch_seconds(run)
    spread = run.devices if run.sharding != "replicated" else 1
    return step.micro_batches * micro + work.update_bytes / run.device.bandwidth / spread + sharing.step_seconds(run)


def training_flops(run: Run, rows: Rows, step: Step, work: Work) -> float:
    """FLOPs per token of a micro-batch, forward and backward, recomputation counted.

    Those of attention count as what dense products do in the same time.
    """
    _, attention, head = forward_flops(run, rows, work)
    chunks = run.loss in ("completion-only", "chunked") and step.tokens * _loss_share(run, rows) > c.CHUNK_TOKENS
    head_passes = work.head_passes + (1.0 if chunks else 0.0)
    spans = attention * work.attention_passes / _attention_efficiency(run)
    return work.trained_dense + spans + head * head_passes + work.adapters


def forward_flops(run: Run, rows: Rows, work: Work) -> tuple[float, float, float]:
    """FLOPs per token of a forward pass: of the layers' weights, of attention, and of the head where it is computed."""
    # Causal attention meets half of the row: 2 products x 2 FLOPs x span / 2.
    attention = work.attention_width * (2.0 * rows.attention_span + work.virtual)
    return work.dense, attention, work.head * _loss_share(run, rows)


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


def elementwise_seconds(run: Run, rows: Rows, work: Work) -> float:
    """Seconds per token and step outside of matrix products: norms, gates, softmax, dropout, the loss."""
    saved = run.shape.layers * saved_by(work.layer, run)
    if not run.device.is_cpu:
        logits = c.LOGITS_BYTES[min(4, max(2, run.compute_bytes))] * run.shape.vocab * _loss_share(run, rows)
        return c.ELEMENTWISE_TRAFFIC * (saved + (0.0 if run.loss == "fused" else logits)) / run.device.bandwidth
    return saved / run.compute_bytes / (c.CPU_ELEMENTWISE * run.device.cores)


def repack_seconds(run: Run) -> float:
    """Seconds per pass in which a CPU rearranges the layers' weights for its products."""
    if not run.device.is_cpu:
        return 0.0
    return linear_weights(run.shape) / (c.CPU_REPACK * run.device.cores)


def save_seconds(run: Run, work: Work) -> float:
    """Seconds of writing checkpoints (weights and two moments) and the artifact."""
    return work.saved_bytes * (3.0 * run.checkpoints + 1.0) / c.DISK_BYTES_PER_SECOND


def evaluation_seconds(run: Run, plan: EvaluationPlan) -> float:
    """Seconds of all evaluations: the loss of the held-out rows, and the greedy answers of those that generate."""
    if plan.rows is None:
        return 0.0
    work = work_of(run.recipe)
    seconds = (plan.before + plan.during + plan.after) * _loss_seconds(run, plan.rows, work)
    if plan.generate:
        longest = float(plan.max_new_tokens)
        learned = c.ANSWER_SPREAD * plan.rows.mean * plan.rows.target_fraction + 1
        # An untrained model rambles to the limit; a trained one has learned to stop.
        seconds += plan.before * _generation_seconds(run, plan.rows, longest, work)
        trained = plan.after + (plan.during if plan.generate_during else 0)
        seconds += trained * _generation_seconds(run, plan.rows, min(longest, learned), work)
    return seconds


def _loss_seconds(run: Run, rows: Rows, work: Work) -> float:
    """Seconds of one look at the loss: a forward pass over all held-out rows, packed."""
    dense, attention, head = forward_flops(run, rows, work)
    batches = math.ceil(rows.tokens / c.EVALUATION_TOKENS)
    flops = dense + attention / _attention_efficiency(run) + head
    per_token = flops / run.device.training_flops + elementwise_seconds(run, rows, work) / 3
    return rows.tokens * per_token + batches * _forward_overhead(run)


def _generation_seconds(run: Run, rows: Rows, answer: float, work: Work) -> float:
    """Prompts like a forward pass, then a token at a time: bound by reading the weights or by the layers' calls."""
    dense, attention, _ = forward_flops(run, rows, work)
    prompts = rows.tokens * (1 - rows.target_fraction) * (dense + attention) / run.device.training_flops
    batches = math.ceil(rows.count / c.GENERATION_BATCH)
    weights = active_parameters(run.shape) * run.weight_bytes / run.device.bandwidth
    products = min(rows.count, c.GENERATION_BATCH) * 2.0 * active_parameters(run.shape) / run.device.training_flops
    per_token = max(weights, products) + run.shape.layers * _layer_overhead(run)
    per_token += min(rows.count, c.GENERATION_BATCH) * elementwise_seconds(run, rows, work) / 3
    return prompts + batches * answer * per_token


def _forward_overhead(run: Run) -> float:
    return run.shape.layers * _layer_overhead(run) + repack_seconds(run)


def _layer_overhead(run: Run) -> float:
    return c.CPU_LAYER_OVERHEAD if run.device.is_cpu else run.program.layer_overhead


def _loss_share(run: Run, rows: Rows) -> float:
    """Share of tokens whose logits are computed."""
    return rows.target_fraction if run.loss == "completion-only" else 1.0


def _rate_ends(run: Run, rows: Rows) -> tuple[float, float]:
    """Half-widths (below, above) of what goes with the inverse of the device's rate; unknown rows only shorten it."""
    below = 1 - 1 / (1 + run.device.rate_above)
    above = 1 / (1 - run.device.rate_below) - 1
    return below if rows.mean_known else 1 - (1 - below) * c.SHORTEST_ROWS, above


@lru_cache(maxsize=1024)
def _rate_sources(of_device: tuple[Source, ...], *, is_cpu: bool) -> tuple[Source, ...]:
    """What a time rests on that goes with the device's rate: the same tuple for the same device."""
    return (c.TIME_FORMULAS, c.CPU_CONSTANTS if is_cpu else c.TIME_FIT, *of_device)


def _phase(seconds: float) -> Interval:
    return around(seconds, below=c.PHASE_SPREAD, above=2 * c.PHASE_SPREAD, sources=_FORMULAS)


_FORMULAS = (c.TIME_FORMULAS,)
