# SPDX-License-Identifier: Apache-2.0
"""Documents of a packed row stacked by similar length, for what is computed for each document alone.

Under a causal mask, or with a state that goes from token to token, nothing reaches a document's tokens from the padding
behind it: a batch of documents needs no mask, and costs one call instead of one per document.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

_FILL = 0.6
"""A document joins a group when it fills at least this share of the group's length: bounds the wasted products."""

_LENGTH_MULTIPLE = 16  # like packing.TOKEN_MULTIPLE, for the shapes of the attention products


@dataclass(frozen=True, slots=True)
class DocumentGroup:
    """Documents stacked to (documents, length).

    `gather` (documents * length,) are token positions in the packed row, padding pointing at the document's first
    token; `valid` (documents, length, 1) is 0 in padding and 1 elsewhere; `scatter` (tokens of the group,) are the
    places of the real tokens among the stacked ones. `first` is the group's first token in the packed row. `behind`
    are the first place and the number of tokens of a prefix that they share; None: nothing.
    """

    documents: int
    length: int
    gather: Tensor
    valid: Tensor
    scatter: Tensor
    first: int
    tokens: int
    behind: tuple[int, int] | None = None


def group(
    lengths: Sequence[int], device: torch.device, *, first: int = 0, behind: tuple[int, int] | None = None
) -> tuple[DocumentGroup, ...]:
    """Group consecutive documents of similar length; micro-batches are packed longest first, so this finds most.

    `first` is the place of their first token; `behind` are place and tokens of a prefix that stands before each.
    """
    groups, start = [], 0
    while start < len(lengths):
        stop = start + 1
        longest = shortest = lengths[start]
        while stop < len(lengths):
            low, high = min(shortest, lengths[stop]), max(longest, lengths[stop])
            if low < _FILL * high:
                break
            shortest, longest, stop = low, high, stop + 1
        padded = -(-longest // _LENGTH_MULTIPLE) * _LENGTH_MULTIPLE
        stacked = _grouped(lengths[start:stop], longest=padded, first=first, device=device)
        groups.append(replace(stacked, behind=behind))
        first += sum(lengths[start:stop])
        start = stop
    return tuple(groups)


def _grouped(lengths: Sequence[int], *, longest: int, first: int, device: torch.device) -> DocumentGroup:
    sizes = torch.tensor(lengths)
    starts = sizes.cumsum(0) - sizes + first
    columns = torch.arange(longest)
    valid = columns[None, :] < sizes[:, None]
    gather = torch.where(valid, starts[:, None] + columns, starts[:, None]).flatten()
    scatter = valid.flatten().nonzero().squeeze(1)
    return DocumentGroup(
        len(lengths), longest, gather.to(device), valid[..., None].to(device), scatter.to(device), first, sum(lengths)
    )


class _Stack(torch.autograd.Function):
    """(tokens, features) to (documents * length, features).

    Each real token has one place, so the backward pass is a selection too, where autograd's own for an index is an
    accumulation.
    """

    @staticmethod
    def forward(ctx: Any, packed: Tensor, documents: DocumentGroup) -> Tensor:
        ctx.documents = documents
        return packed.index_select(0, documents.gather - documents.first)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0].index_select(0, ctx.documents.scatter), None


class _Unstack(torch.autograd.Function):
    """The inverse of `_Stack`; what comes back for padding is zero."""

    @staticmethod
    def forward(ctx: Any, stacked: Tensor, documents: DocumentGroup) -> Tensor:
        ctx.documents = documents
        return stacked.index_select(0, documents.scatter)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        documents: DocumentGroup = ctx.documents
        back = grads[0].index_select(0, documents.gather - documents.first)
        return back * documents.valid.reshape(-1, 1).to(back.dtype), None


def stack(packed: Tensor, documents: DocumentGroup) -> Tensor:
    """Rearrange a group's part (tokens of the group, features) to (documents * length, features)."""
    stacked: Tensor = _Stack.apply(packed, documents)  # type: ignore[no-untyped-call]  # torch types no Function
    return stacked


def unstack(stacked: Tensor, documents: DocumentGroup) -> Tensor:
    """Rearrange (documents * length, features) to the group's part (tokens of the group, features)."""
    packed: Tensor = _Unstack.apply(stacked, documents)  # type: ignore[no-untyped-call]  # likewise
    return packed
