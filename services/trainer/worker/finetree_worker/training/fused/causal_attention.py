# SPDX-License-Identifier: Apache-2.0
"""Causal attention by blocks of queries, forward and backward by hand, for CPUs.

torch has two ways on a CPU. Its plain products turn bfloat16 into float32 first, compute the half of the scores that
the mask drops, and look for rows without a key; its flash kernel computes each head's small products at a tenth of the
matrix rate. Here a block of queries meets only the keys up to its own end, all heads of a key head in one batched
product of the inputs' own type, and nothing is repeated for grouped queries. Scores are rounded to the inputs' type,
as in transformers' eager attention, and the softmax sums in float32.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from finetree_worker.training.fused.levers import Lever, is_on
from finetree_worker.training.fused.product_type import product_type

SHORT_TOKENS = 256
"""Up to this length probabilities are kept for the backward pass; beyond it they are computed again, since they grow
with the square of the length (9 heads x 1,024 tokens: 10 MB a layer)."""
_SHORT_BLOCK, _LONG_BLOCK = 64, 128
"""Queries of a block. Measured in ms of one core, forward and backward, 5 documents of 240 tokens, 9 heads of 64, 3 key
heads: 64 queries 15.7, 128 17.5, all 32.5, against 75 and 43 for torch's two ways; 1,024 tokens: 42.8, 40.4, 94.5."""


def suits(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Return whether this way is the faster one for states (documents, heads, tokens, d).

    On a CPU that multiplies bfloat16 in hardware, at any length; in float32 where documents are short: for longer ones
    torch's flash kernel is as fast (272 tokens: 36 against 37 ms) and keeps less.
    """
    if not is_on(Lever.ATTENTION) or query.device.type != "cpu" or query.shape[-1] != value.shape[-1]:
        return False
    types = {product_type(states) for states in (query, key, value)}
    if types == {torch.bfloat16}:
        return torch.cpu._is_avx512_bf16_supported()  # noqa: SLF001 - torch has no public way to ask
    return types == {torch.float32} and query.shape[2] <= SHORT_TOKENS


def causal_attention(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
    """Return softmax(scale * query key^T, causal) value: (documents, heads, length, d), like `query`.

    `key` and `value` are (documents, key heads, prefix + length, d): query i sees the prefix and its own first i + 1
    keys. Query head h reads key head h // (heads / key heads). `scale` is d^-0.5 where it is None.
    """
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    query, key, value = (states.to(product_type(states)) for states in (query, key, value))
    with torch.autocast(query.device.type, enabled=False):
        result: Tensor = _CausalAttention.apply(query, key, value, factor)  # type: ignore[no-untyped-call]  # torch types no Function
    return result


class _CausalAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        keys, values = (part.reshape(-1, *part.shape[2:]) for part in (key, value))
        out = _like(query)
        kept = []
        for block in _blocks(query, key):
            probabilities = _probabilities(query, keys, block, scale=scale)
            _put(out, block, torch.bmm(probabilities, values[:, : block.seen]))
            if query.shape[2] <= SHORT_TOKENS:
                kept.append(probabilities)
        ctx.save_for_backward(query, keys, values, *kept)
        ctx.scale, ctx.key_shape = scale, key.shape
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, keys, values, *kept = ctx.saved_tensors
        groups = ctx.key_shape[1]
        grad_query, grad_keys, grad_values = _like(query), torch.zeros_like(keys), torch.zeros_like(values)
        for number, block in enumerate(_blocks(query, keys.view(ctx.key_shape))):
            seen = block.seen
            p = kept[number] if kept else _probabilities(query, keys, block, scale=ctx.scale)
            out = _take(grad, block, groups=groups)
            grad_values[:, :seen].baddbmm_(p.transpose(1, 2), out)
            scores = torch._softmax_backward_data(  # noqa: SLF001 - what autograd calls
                torch.bmm(out, values[:, :seen].transpose(1, 2)), p, -1, p.dtype
            )
            _put(grad_query, block, torch.bmm(scores, keys[:, :seen]).mul_(ctx.scale))
            grad_keys[:, :seen].baddbmm_(scores.transpose(1, 2), _take(query, block, groups=groups).mul_(ctx.scale))
        return grad_query, grad_keys.view(ctx.key_shape), grad_values.view(ctx.key_shape), None


class _Block:
    """Queries `first` to `last` (not included), which see the first `seen` keys."""

    __slots__ = ("first", "last", "seen")

    def __init__(self, first: int, last: int, seen: int) -> None:
        self.first, self.last, self.seen = first, last, seen


def _blocks(query: Tensor, key: Tensor) -> Iterator[_Block]:
    length, prefix = query.shape[2], key.shape[2] - query.shape[2]
    size = _SHORT_BLOCK if length <= SHORT_TOKENS else _LONG_BLOCK
    for first in range(0, length, size):
        last = min(length, first + size)
        yield _Block(first, last, prefix + last)


def _probabilities(query: Tensor, keys: Tensor, block: _Block, *, scale: float) -> Tensor:
    """Return the softmax of a block's scores: (documents * key heads, queries of all its heads, keys seen)."""
    groups = keys.shape[0] // query.shape[0]
    queries = _take(query, block, groups=groups).mul_(scale)
    scores = torch.bmm(queries, keys[:, : block.seen].transpose(1, 2))
    count = block.last - block.first
    own = scores.view(scores.shape[0], -1, count, block.seen)[..., block.seen - count :]
    # Added, not filled in: a quarter of the time of a masked fill.
    own.add_(own.new_full((count, count), -torch.inf).triu_(1))
    return torch.softmax(scores, -1)


def _take(states: Tensor, block: _Block, *, groups: int) -> Tensor:
    """Copy a block of (documents, heads, length, d): (documents * key heads, heads of one * queries, d)."""
    documents, heads, _, size = states.shape
    part = states[:, :, block.first : block.last]
    copied = part.clone(memory_format=torch.contiguous_format)
    return copied.view(documents * groups, heads // groups * part.shape[2], size)


def _put(states: Tensor, block: _Block, part: Tensor) -> None:
    """Write what `_take` would return."""
    documents, heads, _, size = states.shape
    states[:, :, block.first : block.last] = part.view(documents, heads, -1, size)


def _like(query: Tensor) -> Tensor:
    """Return room for (documents, heads, length, d), stored token by token as the layer's products want it."""
    documents, heads, length, size = query.shape
    return query.new_empty(documents, length, heads, size).transpose(1, 2)
