# SPDX-License-Identifier: Apache-2.0
"""Attention of documents that share a prefix: its keys and values are in memory once, whatever their number.

To the prefix all queries attend as one long row; to its own tokens each document attends alone. The two parts make one
softmax, either over scores that lie side by side, or by their logarithmic sums, as blocks of attention are joined in
flash attention (Dao et al. 2022, arXiv:2205.14135, section 3.1).
"""

import math
from typing import Any

import torch
from torch import Tensor

_attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # noqa: SLF001 - the public function keeps its sums
_attend_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward  # noqa: SLF001 - likewise


def attend_with_scores(
    states: tuple[Tensor, Tensor, Tensor],
    prefix: tuple[Tensor, Tensor],
    *,
    seen: Tensor,
    scale: float,
    softcap: float | None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Attend with the scores in memory, softmax in float32.

    `states` are queries, keys and values (documents, heads, length, d), `prefix` keys and values (heads, tokens, d);
    `seen` (length, tokens + length) is True where a token may attend. `softcap` bounds the scores; `sinks` are those of
    `weights_of`.
    """
    queries, keys, values = (part.transpose(0, 1) for part in states)
    heads, documents, length, _ = queries.shape
    first = prefix[0].shape[1]
    ahead = (queries.reshape(heads, documents * length, -1) @ prefix[0].transpose(-1, -2)).view(
        heads, documents, length, -1
    )
    scores = torch.cat([ahead, queries @ keys.transpose(-1, -2)], dim=-1) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    weights = weights_of(scores.masked_fill(~seen, -math.inf), sinks, axis=0).to(values.dtype)
    ahead, own = weights[..., :first], weights[..., first:]
    attended = (ahead.reshape(heads, documents * length, first) @ prefix[1]).view(heads, documents, length, -1)
    return (attended + own @ values).transpose(0, 1)


def weights_of(scores: Tensor, sinks: Tensor | None, *, axis: int) -> Tensor:
    """Return the softmax of scores over their last axis, float32.

    `sinks` (heads,) are scores of one more key for each head, which takes its weight from the others and has no value;
    `axis` is the axis of the heads.
    """
    if sinks is None:
        return torch.softmax(scores, dim=-1, dtype=torch.float32)
    shape = [1] * scores.ndim
    shape[axis] = -1
    sunk = sinks.view(shape).expand(*scores.shape[:-1], 1).to(scores.dtype)
    return torch.softmax(torch.cat([scores, sunk], dim=-1), dim=-1, dtype=torch.float32)[..., :-1]


def attend_in_blocks(states: tuple[Tensor, Tensor, Tensor], prefix: tuple[Tensor, Tensor], *, scale: float) -> Tensor:
    """Attend by torch's fused CPU kernel, without scores in memory; arguments as of `attend_with_scores`."""
    dtype = states[2].dtype
    rows = (part.to(dtype).transpose(1, 2) for part in states)
    ahead = (part.to(dtype).transpose(0, 1) for part in prefix)
    attended: Tensor = _Blocks.apply(*rows, *ahead, scale)  # type: ignore[no-untyped-call]  # torch types no Function
    return attended.transpose(1, 2)


class _Blocks(torch.autograd.Function):
    """Joins two calls of the fused kernel.

    Queries, keys and values are (documents, length, heads, d), those of the prefix (tokens, heads, d). The kernel's
    backward pass makes probabilities from scores and their logarithmic sum: given the sum and the output of both
    blocks together, it returns each block's part of the gradients.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        *tensors, scale = inputs
        query, key, value, first_key, first_value = tensors
        own, own_sum = _attend(*map(_by_document, (query, key, value)), 0.0, is_causal=True, scale=scale)
        ahead, ahead_sum = _attend(*map(_as_row, (query, first_key, first_value)), 0.0, is_causal=False, scale=scale)
        own, own_sum = own.transpose(1, 2), own_sum.transpose(1, 2)
        ahead = ahead[0].transpose(0, 1).view(own.shape)
        ahead_sum = ahead_sum[0].transpose(0, 1).reshape(own_sum.shape)
        total = torch.logaddexp(own_sum, ahead_sum)
        share = (own_sum - total).exp()[..., None].to(own.dtype)
        attended: Tensor = torch.lerp(ahead, own, share)
        ctx.save_for_backward(*tensors, attended, total)
        ctx.scale = scale
        return attended

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, first_key, first_value, attended, total = ctx.saved_tensors
        grad = grads[0].contiguous()
        given = (grad, query, key, value, attended)
        own = _attend_backward(*map(_by_document, given), total.transpose(1, 2), 0.0, is_causal=True, scale=ctx.scale)
        given = (grad, query, first_key, first_value, attended)
        ahead = _attend_backward(
            *map(_as_row, given), total.flatten(0, 1).t()[None], 0.0, is_causal=False, scale=ctx.scale
        )
        to_query, to_keys, to_values = (part[0].transpose(0, 1) for part in ahead)
        own_query, own_keys, own_values = (part.transpose(1, 2) for part in own)
        return own_query + to_query.view(query.shape), own_keys, own_values, to_keys, to_values, None


def _by_document(part: Tensor) -> Tensor:
    """(documents, length, heads, d) to (documents, heads, length, d)."""
    return part.transpose(1, 2)


def _as_row(part: Tensor) -> Tensor:
    """(..., tokens, heads, d) to one row, (1, heads, all tokens, d)."""
    return part.reshape(-1, *part.shape[-2:]).transpose(0, 1)[None]
