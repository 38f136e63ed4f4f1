# SPDX-License-Identifier: Apache-2.0
"""RMSNorm whose weight is frozen, its backward pass by hand: the same rounding forwards, and half of the memory kept.

transformers' norm turns its input into float32, keeps that for the backward pass, and lets autograd go back through
every step of the formula. Here the input is kept as it came, and the gradient is the closed form of the whole,
dx = r (g - x r^2 mean(g x)) with g = dy w and r = (mean(x^2) + eps)^-1/2 (Zhang and Sennrich 2019, arXiv:1910.07467).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from finetree_worker.models.families import is_known
from finetree_worker.training.fused.levers import Lever, is_on


@contextmanager
def by_hand(model: nn.Module) -> Iterator[None]:
    """Compute the model's frozen norms this way inside the block, in families whose norm is of this formula."""
    norms: list[Any] = [module for module in model.modules() if is_known(module) and _is_frozen_norm(module)]
    for norm in norms:
        norm.forward = MethodType(_forward, norm)
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Return weight * x / sqrt(mean(x^2) + epsilon) over the last dimension, in x's type; no gradient of `weight`."""
    made: Tensor = _RmsNorm.apply(x, weight, epsilon)  # type: ignore[no-untyped-call]  # torch types no Function
    return made


def _is_frozen_norm(module: Any) -> bool:
    return type(module).__name__.endswith("RMSNorm") and not module.weight.requires_grad


def _forward(norm: Any, hidden_states: Tensor) -> Tensor:
    if not is_on(Lever.NORM) or norm.weight.dtype is not hidden_states.dtype:
        plain: Tensor = type(norm).forward(norm, hidden_states)
        return plain
    return rms_norm(hidden_states, norm.weight, norm.variance_epsilon)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        wide = x.to(torch.float32)
        reciprocal = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True).add_(epsilon))
        ctx.save_for_backward(x, weight, reciprocal)
        return weight * (wide * reciprocal).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        x, weight, reciprocal = ctx.saved_tensors
        inner, wide = (grad * weight).to(torch.float32), x.to(torch.float32)
        share = (inner * wide).mean(-1, keepdim=True).mul_(reciprocal**2)
        # In float32 the casts are no copies, and x must stay as it is: only what was made here is written to.
        made = inner.addcmul_(wide, share, value=-1).mul_(reciprocal)
        return made.to(x.dtype), None, None
