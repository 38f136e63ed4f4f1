# SPDX-License-Identifier: Apache-2.0
"""Time of a run by phase: loading, tokenising, the steps, evaluation and saving, each as an interval."""

import math
from enum import Enum
from typing import NamedTuple

from finetree_estimator import constants as c
from finetree_estimator.catalog.parameters import active_parameters
from finetree_estimator.intervals import COVERAGE, Interval, Source, made, summed, together
from finetree_estimator.run import EvaluationPlan, Rows, Run
from finetree_estimator.timing.step_time import (
    Work,
    forward_elementwise_seconds,
    forward_flops,
    forward_overhead_seconds,
    held_up_seconds,
    spared_seconds,
    step_of,
    step_seconds,
    work_of,
)


class Phase(Enum):
    """Parts of a run; the names are those of the contract's TimePhaseKind."""

    # Enum's own hashes the name, in Python; members are single, so their identity will do.
    __hash__ = object.__hash__

    LOAD = "load"
    TOKENIZE = "tokenize"
    TRAIN = "train"
    EVALUATE = "evaluate"
    SAVE = "save"


class Times(NamedTuple):
    """Seconds by phase; tokens per second while training."""

    phases: tuple[tuple[Phase, Interval], ...]
    total: Interval
    step: Interval
    tokens_per_second: Interval
    processed_tokens: int


def estimate(run: Run, spread: float = 1.0) -> Times | None:
    """Time of a run; None where the number of rows, hence of steps, is unknown.

    The ends of what goes with the device's rate are farther from the expected values by the power `spread`: times err
    by factors, not by differences. Loading, tokenising and saving depend on disk and core, however near the case is.
    """
    rows = run.rows
    if rows is None or run.steps == 0:
        return None
    work, step = work_of(run), step_of(run, rows)
    seconds = step_seconds(run, rows, step, work)
    tokens = step.micro_batches * step.tokens * run.devices
    below, above = _rate_ends(run, rows)
    # What goes with the device's rate rests on its sources too.
    sources = together(_CPU_RATE if run.device.is_cpu else _GPU_RATE, run.device.sources)
    low = (seconds - step.micro_batches * spared_seconds(run, rows, step, work)) * (1 - below)
    high = seconds * (1 + above) + step.micro_batches * held_up_seconds(run, work)
    steps = run.steps
    evaluation = evaluation_seconds(run, run.evaluation)
    load, tokenize = _phase(work.load_seconds), _phase(rows.tokens / c.TOKENIZE_TOKENS_PER_SECOND)
    train = _wider(low * steps, seconds * steps, high * steps, sources, spread)
    evaluate = _wider(evaluation * (1 - below), evaluation, evaluation * (1 + above), sources, spread)
    save = _phase(save_seconds(run, work))
    phases = (
        (Phase.LOAD, load),
        (Phase.TOKENIZE, tokenize),
        (Phase.TRAIN, train),
        (Phase.EVALUATE, evaluate),
        (Phase.SAVE, save),
    )
    return Times(
        phases,
        summed((load, tokenize, train, evaluate, save), together(_FORMULAS, sources)),
        _wider(low, seconds, high, sources, spread),
        _wider(tokens / high, tokens / seconds, tokens / low, sources, spread),
        round(tokens * steps),
    )


def _wider(low: float, expected: float, high: float, sources: tuple[Source, ...], spread: float) -> Interval:
    if spread != 1.0 and low > 0 and expected > 0:
        low, high = expected * (low / expected) ** spread, expected * (high / expected) ** spread
    return made((low, expected, high, sources, COVERAGE))


def save_seconds(run: Run, work: Work) -> float:
    """Seconds of writing checkpoints and the artifact."""
    return (work.checkpoint_bytes * run.checkpoints + work.saved_bytes) / c.DISK_BYTES_PER_SECOND


def evaluation_seconds(run: Run, plan: EvaluationPlan) -> float:
    """Seconds of all evaluations: the loss of the held-out rows, and the greedy answers of those that generate."""
    if plan.rows is None:
        return 0.0
    work = work_of(run)
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
    flops = dense + attention / work.attention_efficiency + head
    per_token = flops / run.device.training_flops + forward_elementwise_seconds(run, rows, work)
    return rows.tokens * per_token + batches * forward_overhead_seconds(run)


def _generation_seconds(run: Run, rows: Rows, answer: float, work: Work) -> float:
    """Prompts like a forward pass, then a token at a time: bound by reading the weights or by the layers' calls."""
    dense, attention, _ = forward_flops(run, rows, work)
    prompts = rows.tokens * (1 - rows.target_fraction) * (dense + attention) / run.device.training_flops
    batches = math.ceil(rows.count / c.GENERATION_BATCH)
    weights = active_parameters(run.shape) * run.weight_bytes / run.device.bandwidth
    products = min(rows.count, c.GENERATION_BATCH) * 2.0 * active_parameters(run.shape) / run.device.training_flops
    if run.device.is_cpu:
        per_token = max(weights, products) + run.shape.layers * c.CPU_LAYER_OVERHEAD
    else:
        # A GPU works while the next calls are made: the slowest of the three decides.
        per_token = max(weights, products, run.shape.layers * c.GENERATION_LAYER_OVERHEAD)
    per_token += min(rows.count, c.GENERATION_BATCH) * forward_elementwise_seconds(run, rows, work)
    return prompts + batches * answer * per_token


def _rate_ends(run: Run, rows: Rows) -> tuple[float, float]:
    """Half-widths (below, above) of what goes with the inverse of the device's rate; unknown rows only shorten it."""
    below = 1 - 1 / (1 + run.device.rate_above)
    above = 1 / (1 - run.device.rate_below) - 1
    return below if rows.mean_known else 1 - (1 - below) * c.SHORTEST_ROWS, above


def _phase(seconds: float) -> Interval:
    return made((seconds * _PHASE_BELOW, seconds, seconds * _PHASE_ABOVE, _FORMULAS, COVERAGE))


_FORMULAS = (c.TIME_FORMULAS,)
_CPU_RATE, _GPU_RATE = (c.TIME_FORMULAS, c.CPU_CONSTANTS), (c.TIME_FORMULAS, c.TIME_FIT)
_PHASE_BELOW, _PHASE_ABOVE = 1 - c.PHASE_SPREAD, 1 + 2 * c.PHASE_SPREAD
