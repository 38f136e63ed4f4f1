# SPDX-License-Identifier: Apache-2.0
"""RMSNorm, its backward pass by hand: the same rounding forwards, and half of the memory kept.

transformers' norm turns its input into float32, keeps that for the backward pass, and lets autograd go back through
every step of the formula. Here the input is kept as it came, and the gradient is the closed form of the whole,
dx = r (g - x r^2 mean(g x)) with g = dy w and r = (mean(x^2) + eps)^-1/2 (Zhang and Sennrich 2019, arXiv:1910.07467);
of a trained weight it is the sum of dy x r over the tokens. On a CPU both go through the rows in pieces that stay in
cache (`fused.tiles`).
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
from finetree_worker.training.fused.tiles import rows_of, scratch


@contextmanager
def by_hand(model: nn.Module) -> Iterator[None]:
    """Compute the model's norms this way inside the block, in families whose norm is of this formula."""
    norms: list[Any] = [
        module for module in model.modules() if is_known(module) and type(module).__name__.endswith("RMSNorm")
    ]
    for norm in norms:
        norm.forward = MethodType(_forward, norm)
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Return weight * x / sqrt(mean(x^2) + epsilon) over the last dimension, in x's type."""
    made: Tensor = _RmsNorm.apply(x, weight, epsilon)  # type: ignore[no-untyped-call]  # torch types no Function
    return made


def _forward(norm: Any, hidden_states: Tensor) -> Tensor:
    if not is_on(Lever.NORM) or norm.weight.dtype is not hidden_states.dtype:
        plain: Tensor = type(norm).forward(norm, hidden_states)
        return plain
    return rms_norm(hidden_states, norm.weight, norm.variance_epsilon)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        made, reciprocal = torch.empty_like(rows), rows.new_empty(len(rows), 1, dtype=torch.float32)
        size, (wides, squares) = rows_of(rows, 2), scratch(rows, 2)
        for part, out, root in zip(*(torch.split(each, size) for each in (rows, made, reciprocal)), strict=True):
            wide, square = wides[: len(part)].copy_(part), squares[: len(part)]
            torch.mean(torch.mul(wide, wide, out=square), -1, keepdim=True, out=root)
            root.add_(epsilon).rsqrt_()
            out.copy_(wide.mul_(root))
            torch.mul(weight, out, out=out)
        ctx.save_for_backward(x, weight, reciprocal)
        return made.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x, weight, reciprocal = ctx.saved_tensors
        rows, grads = (each.reshape(-1, x.shape[-1]) for each in (x, grad))
        made = torch.empty_like(rows)
        for_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        size, (inners, wides, products) = rows_of(rows, 3), scratch(rows, 3)
        for part, back, out, root in zip(
            *(torch.split(each, size) for each in (rows, grads, made, reciprocal)), strict=True
        ):
            count = len(part)
            wide, product = wides[:count].copy_(part), products[:count]
            if for_weight is not None:
                for_weight += product.copy_(back).mul_(wide).mul_(root).sum(0)
            inner = inners[:count].copy_(torch.mul(back, weight, out=out))
            share = torch.mul(inner, wide, out=product).mean(-1, keepdim=True).mul_(root**2)
            out.copy_(inner.addcmul_(wide, share, value=-1).mul_(root))
        return made.view(x.shape), None if for_weight is None else for_weight.to(weight.dtype), None
