# SPDX-License-Identifier: Apache-2.0
"""Optimizers, the learning-rate schedule, and moving optimizer state in and out of plain tensors."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from finetree_worker.errors import PlanError
from finetree_worker.plan import Optimization, OptimizerName, Schedule
from finetree_worker.ranks.alone import Alone


def build(parameters: Iterable[nn.Parameter], plan: Optimization, device: torch.device) -> Optimizer:
    """Build the plan's optimizer; weight decay is for matrices alone. Raises PlanError SETTING_NOT_SUPPORTED."""
    listed = list(parameters)
    groups = [
        {"params": [p for p in listed if p.ndim >= 2], "weight_decay": plan.weight_decay},
        {"params": [p for p in listed if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [entry for entry in groups if entry["params"]]
    if plan.optimizer is OptimizerName.ADAMW:
        return torch.optim.AdamW(groups, lr=plan.learning_rate, fused=True)
    if plan.optimizer is OptimizerName.SGD:
        return torch.optim.SGD(groups, lr=plan.learning_rate)
    if plan.optimizer is OptimizerName.PAGED_ADAMW_8BIT and device.type != "cuda":
        raise PlanError(
            "SETTING_NOT_SUPPORTED",
            "Paged optimizer state needs an NVIDIA GPU.",
            field="optimizer",
            remedy="Use OPTIMIZER_ADAMW_8BIT.",
        )
    from bitsandbytes.optim.adamw import AdamW8bit, PagedAdamW8bit

    paged = plan.optimizer is OptimizerName.PAGED_ADAMW_8BIT
    kind = PagedAdamW8bit if paged else AdamW8bit
    optimizer: Optimizer = kind(groups, lr=plan.learning_rate)
    return optimizer


def learning_rate(plan: Optimization, step: int, total: int) -> float:
    """Return the rate of step `step` (0-based) of `total`: linear warm-up from the first step, then the schedule."""
    warm = math.ceil(plan.warmup_ratio * total)
    if step < warm:
        return plan.learning_rate * (step + 1) / warm
    if plan.schedule is Schedule.CONSTANT:
        return plan.learning_rate
    done = (step - warm) / max(1, total - warm)
    if plan.schedule is Schedule.LINEAR:
        return plan.learning_rate * (1.0 - done)
    return plan.learning_rate * 0.5 * (1.0 + math.cos(math.pi * done))


def state_tensors(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the optimizer's state: tensors by path ("0/exp_avg"), and JSON values of all else."""
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    for path, value in _leaves(optimizer.state_dict()["state"], ()):
        (tensors if isinstance(value, Tensor) else values)["/".join(path)] = value
    return tensors, values


def _leaves(branch: dict[Any, Any], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    # bitsandbytes keeps its 8-bit state one level deeper than torch does.
    for name, value in branch.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*path, str(name)))
        else:
            yield (*path, str(name)), value


def load_state(
    optimizer: Optimizer, tensors: dict[str, Tensor], values: dict[str, Any], ranks: Alone | None = None
) -> None:
    """Load a state that `state_tensors` returned; of weights that are divided among ranks, this rank's part."""
    state: dict[Any, Any] = {}
    parameters = [parameter for entry in optimizer.param_groups for parameter in entry["params"]]
    if ranks is not None:
        tensors = {path: ranks.place(t, parameters[int(path.partition("/")[0])]) for path, t in tensors.items()}
    for path, value in (tensors | values).items():
        index, *branches, name = path.split("/")
        at = state.setdefault(int(index), {})
        for branch in branches:
            at = at.setdefault(branch, {})
        at[name] = value
    whole = optimizer.state_dict()
    whole["state"] = state
    optimizer.load_state_dict(whole)
