# SPDX-License-Identifier: Apache-2.0
"""Time of a run by phase: loading, tokenizing, the steps, evaluation and saving, each as an interval."""

import math
from dataclasses import dataclass
from enum import Enum

from finetree_estimator import constants as c
from finetree_estimator.intervals import Interval, together, total
from finetree_estimator.memory.model_states import state_bytes
from finetree_estimator.programs import FINETREE
from finetree_estimator.run import EvaluationPlan, Rows, Run
from finetree_estimator.shapes.parameters import active_parameters, count
from finetree_estimator.timing.step_time import (
    delay_seconds,
    forward_elementwise_seconds,
    forward_flops,
    forward_overhead_seconds,
    saving_seconds,
    step_of,
    step_seconds,
)

_FORMULAS = (c.TIME_FORMULAS,)
_CPU_RATE, _GPU_RATE = (c.TIME_FORMULAS, c.CPU_CONSTANTS), (c.TIME_FORMULAS, c.TIME_FIT)


class Phase(Enum):
    """Parts of a run; the names are those of the contract's TimePhaseKind."""

    LOAD = "load"
    TOKENIZE = "tokenize"
    TRAIN = "train"
    EVALUATE = "evaluate"
    SAVE = "save"


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Seconds by phase; tokens per second while training."""

    phases: tuple[tuple[Phase, Interval], ...]
    total: Interval
    step: Interval
    """Of an optimizer step."""
    tokens_per_second: Interval
    processed_tokens: int


def estimate(run: Run, spread: float = 1.0) -> Times | None:
    """Seconds of a run by phase; None where the number of rows, hence of steps, is unknown.

    The ends of what goes with the device's rate are farther from the expected values by the power `spread`: times err
    by factors, not by differences. Loading, tokenizing and saving depend on disk and core, however near the case is.
    """
    rows = run.rows
    if rows is None or run.steps == 0:
        return None
    step = step_of(run, rows)
    tokens = step.micro_batches * step.tokens * run.devices
    below, above = _rate_ends(run, rows, spread)
    seconds = step_seconds(run, rows, step)
    low = (seconds - step.micro_batches * saving_seconds(run, rows, step)) * below
    high = seconds * above + step.micro_batches * delay_seconds(run, rows, step)
    evaluation = evaluation_seconds(run, run.evaluation)
    if run.program.name == FINETREE.name and not run.sharded:
        # The worker's replicas evaluate a part of the rows each; where weights are sharded, all of them each.
        evaluation /= run.devices
    # What goes with the device's rate rests on its sources too.
    sources = together(_CPU_RATE if run.on_cpu else _GPU_RATE, run.device.sources)

    def by_rate(low: float, expected: float, high: float) -> Interval:
        return Interval(low, expected, high, sources=sources)

    phases = {
        Phase.LOAD: _by_disk(load_seconds(run)),
        Phase.TOKENIZE: _by_disk(rows.tokens / c.TOKENIZE_TOKENS_PER_SECOND),
        Phase.TRAIN: by_rate(low * run.steps, seconds * run.steps, high * run.steps),
        Phase.EVALUATE: by_rate(evaluation * below, evaluation, evaluation * above),
        Phase.SAVE: _by_disk(save_seconds(run)),
    }
    return Times(
        phases=tuple(phases.items()),
        total=total(phases.values()),
        step=by_rate(low, seconds, high),
        tokens_per_second=by_rate(tokens / high, tokens / seconds, tokens / low),
        processed_tokens=round(tokens * run.steps),
    )


def _rate_ends(run: Run, rows: Rows, spread: float) -> tuple[float, float]:
    """Ends of times that go with the device's rate, in units of expected ones; unknown rows can only be shorter."""
    below, above = 1 / (1 + run.device.rate_above), 1 / (1 - run.device.rate_below)
    return (below if rows.mean_known else below * c.SHORTEST_ROWS) ** spread, above**spread


def _by_disk(seconds: float) -> Interval:
    """An interval of what depends on disk and core."""
    low, high = seconds * (1 - c.PHASE_SPREAD), seconds * (1 + 2 * c.PHASE_SPREAD)
    return Interval(low, seconds, high, sources=_FORMULAS)


def load_seconds(run: Run) -> float:
    """Seconds until the model is on the device: start of the worker, and reading 16-bit weights."""
    return c.IMPORT_SECONDS + 2.0 * (count(run.shape).total + run.shape.vision) / c.DISK_BYTES_PER_SECOND


def save_seconds(run: Run) -> float:
    """Seconds of writing checkpoints (what is trained, and the optimizer's states) and the artifact."""
    trained = run.method.trainable_parameters(run.shape)
    checkpoint = trained * (run.master_bytes + state_bytes(run))
    return (checkpoint * run.checkpoints + trained * run.master_bytes) / c.DISK_BYTES_PER_SECOND


def evaluation_seconds(run: Run, plan: EvaluationPlan) -> float:
    """Seconds of all evaluations: the loss of the held-out rows, and the greedy answers of those that generate."""
    if plan.rows is None:
        return 0.0
    seconds = (plan.before + plan.during + plan.after) * _loss_seconds(run, plan.rows)
    if plan.generate:
        longest = float(plan.max_new_tokens)
        learned = c.ANSWER_SPREAD * plan.rows.mean * plan.rows.target_fraction + 1
        # An untrained model generates to the limit; a trained one has learned to stop.
        seconds += plan.before * _generation_seconds(run, plan.rows, longest)
        trained = plan.after + (plan.during if plan.generate_during else 0)
        seconds += trained * _generation_seconds(run, plan.rows, min(longest, learned))
    return seconds


def _loss_seconds(run: Run, rows: Rows) -> float:
    """Seconds of one evaluation of the loss: a forward pass over all held-out rows, packed."""
    forward = forward_flops(run, rows)
    batches = math.ceil(rows.tokens / c.EVALUATION_TOKENS)
    flops = forward.dense + forward.attention / run.program.attention_efficiency + forward.head
    tokens = min(rows.tokens, float(c.EVALUATION_TOKENS))
    per_token = flops / run.device.training_flops + forward_elementwise_seconds(run, rows, tokens)
    return rows.tokens * per_token + batches * forward_overhead_seconds(run)


def _generation_seconds(run: Run, rows: Rows, answer: float) -> float:
    """Seconds of answering all rows with `answer` tokens each.

    Prompts like a forward pass, then a token at a time: bound by reading the weights or by the layers' calls.
    """
    forward = forward_flops(run, rows)
    prompts = rows.tokens * (1 - rows.target_fraction) * (forward.dense + forward.attention) / run.device.training_flops
    batches = math.ceil(rows.count / c.GENERATION_BATCH)
    weights = active_parameters(run.shape) * run.weight_bytes / run.device.bandwidth
    products = min(rows.count, c.GENERATION_BATCH) * 2.0 * active_parameters(run.shape) / run.device.training_flops
    if run.on_cpu:
        per_token = max(weights, products) + run.shape.layers * c.CPU_LAYER_OVERHEAD
    else:
        # A GPU works while the next calls are made: the slowest of the three decides.
        per_token = max(weights, products, run.shape.layers * c.GENERATION_LAYER_OVERHEAD)
    questions = min(rows.count, c.GENERATION_BATCH)
    per_token += questions * forward_elementwise_seconds(run, rows, questions)
    return prompts + batches * answer * per_token
