# SPDX-License-Identifier: Apache-2.0
"""Cross entropy with its gradient taken in the forward pass: block by block, no logits are kept.

The gradient of a sum of cross entropies is known as soon as its logits are, up to the factor that comes back to the
scalar. So a block of targets has its logits, its loss and its gradients by the hidden states and by a trained head's
weight one after the other, in the same memory, and the backward pass multiplies what was found. On a CPU only as many
targets of a block as stay in cache are there in float32 (`fused.tiles`). Autograd keeps all logits in float32 instead,
or computes them a second time.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.tensor import DTensor
from torch.nn.functional import linear

from finetree_worker.training.fused.levers import Lever, is_on
from finetree_worker.training.fused.product_type import product_type
from finetree_worker.training.fused.tiles import rows_of

CPU_BLOCK_BYTES = 48 << 20
"""Bytes of a head's outputs that are there at once on a CPU: 512 targets of 49,152 words in bfloat16. Each block reads
the whole head twice. One core of a Xeon with AMX, 392 targets, CPU ms of both products: 121 in blocks of 96, 53 in
one."""
GPU_BLOCK_TARGETS = 1024
"""Targets whose logits are there at once on a GPU."""
WORDS = 8192
"""Words of the vocabulary whose part of a trained head's gradient is multiplied at once."""


@dataclass(frozen=True, slots=True)
class LogitRule:
    """What makes logits of a head's outputs: multiplied by `factor`, then bounded to (-cap, cap); None: not bounded."""

    factor: float = 1.0
    cap: float | None = None

    def logits(self, outputs: Tensor) -> Tensor:
        """Return the logits, float32; the outputs themselves where they are float32 and nothing changes them."""
        logits = outputs.float()
        if self.factor != 1.0:
            logits = logits * self.factor
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap


def suits(head: nn.Module, hidden: Tensor) -> bool:
    """Return whether this way is open: to a plain linear layer in float32 or bfloat16 whose bias is not trained.

    float16 is not: small gradients become zero in it unless the loss was scaled before, which is not known here.
    """
    if not is_on(Lever.LOSS) or type(head) is not nn.Linear or head._forward_hooks or head._forward_pre_hooks:  # noqa: SLF001 - torch has no getter
        return False
    if not (torch.is_grad_enabled() and hidden.requires_grad):
        return False
    divided = any(isinstance(parameter, DTensor) for parameter in head.parameters())
    trained = any(name == "bias" and parameter.requires_grad for name, parameter in head.named_parameters())
    kind = product_type(hidden)
    return not (divided or trained) and product_type(head.weight) is kind and kind in (torch.float32, torch.bfloat16)


def cross_entropy_sum(head: nn.Linear, hidden: Tensor, labels: Tensor, rule: LogitRule) -> Tensor:
    """Return the sum of the cross entropies (nats) of `labels` (targets,), a float32 scalar.

    `hidden` is (targets, hidden size).
    """
    computed = product_type(hidden)
    with torch.autocast(hidden.device.type, enabled=False):
        found: Tensor = _CrossEntropySum.apply(hidden, head.weight, head.bias, labels, rule, computed)  # type: ignore[no-untyped-call]  # torch types no Function
    return found


class _CrossEntropySum(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917 - torch passes them by position
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        rule: LogitRule,
        computed: torch.dtype,
    ) -> Tensor:
        total, gradient = hidden.new_zeros((), dtype=torch.float32), torch.empty_like(hidden, dtype=computed)
        cast, offset = weight.to(computed), None if bias is None else bias.to(computed)
        summed = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        size = _block_targets(cast)
        blocks = zip(*(torch.split(each, size) for each in (hidden.to(computed), labels, gradient)), strict=True)
        for number, (states, targets, found) in enumerate(blocks):
            # A call of its own, so that a block's outputs are gone before the next one's are made.
            total += _block(states, targets, (cast, offset), rule=rule, found=found, summed=summed, first=number == 0)
        ctx.save_for_backward(gradient)
        ctx.summed, ctx.hidden_type = summed, hidden.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        summed = None if ctx.summed is None else ctx.summed.mul_(grad)
        del ctx.summed  # autograd takes what nobody else holds, and copies the rest
        return (gradient * grad).to(ctx.hidden_type), summed, None, None, None, None


def _block(
    states: Tensor,
    targets: Tensor,
    head: tuple[Tensor, Tensor | None],
    *,
    rule: LogitRule,
    found: Tensor,
    summed: Tensor | None,
    first: bool,
) -> Tensor:
    """Return the sum of a block's cross entropies; write its gradient by the states to `found`.

    That by the head's weight is added to `summed`, or put there by the `first` block.
    """
    total, outputs = states.new_zeros((), dtype=torch.float32), linear(states, *head)
    # Of each target there are float32 logits and scores.
    rows = rows_of(outputs, 2)
    for part, labels in zip(torch.split(outputs, rows), torch.split(targets, rows), strict=True):
        total += _to_gradient(part, labels, rule)
    torch.mm(outputs, head[0], out=found)
    if summed is not None:
        for part, words in zip(torch.split(summed, WORDS), torch.split(outputs, WORDS, dim=1), strict=True):
            product = torch.mm(words.t(), states)
            part.copy_(product) if first else part.add_(product)
    return total


def _block_targets(weight: Tensor) -> int:
    if weight.device.type != "cpu":
        return GPU_BLOCK_TARGETS
    return max(1, CPU_BLOCK_BYTES // (weight.shape[0] * weight.element_size()))


def _to_gradient(outputs: Tensor, labels: Tensor, rule: LogitRule) -> Tensor:
    """Return the sum of some targets' cross entropies, and put its gradient in the place of the head's outputs."""
    logits, places = rule.logits(outputs), labels[:, None]
    scores = torch.log_softmax(logits, dim=-1)
    total = -scores.gather(1, places).sum()
    gradient = scores.exp_()
    gradient.scatter_add_(1, places, gradient.new_full((1, 1), -1.0).expand_as(places))
    if rule.cap is not None:
        gradient *= 1 - (logits / rule.cap).square_()
    outputs.copy_(gradient.mul_(rule.factor))
    return total
