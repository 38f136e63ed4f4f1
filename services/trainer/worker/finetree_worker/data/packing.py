# SPDX-License-Identifier: Apache-2.0
"""From rows to micro-batches: several documents in one sequence, without padding."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from finetree_worker.tokenize.example import Example

TOKEN_MULTIPLE = 32
"""Micro-batches are padded to a multiple of this many tokens: matrix libraries compile a kernel for each new shape
(oneDNN, some milliseconds each), which would take time in every step of a new length."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Documents one after another, then padding, which belongs to none.

    token_ids and positions are (1, tokens + padding); predictors (targets,) index the token before each target, whose
    id is in labels (targets,).
    """

    rows: tuple[int, ...]
    lengths: tuple[int, ...]
    token_ids: Tensor
    positions: Tensor
    predictors: Tensor
    labels: Tensor

    @property
    def tokens(self) -> int:
        """Number of tokens of the documents."""
        return sum(self.lengths)

    def to(self, device: torch.device) -> "MicroBatch":
        """Return the micro-batch on a device."""
        tensors = (self.token_ids, self.positions, self.predictors, self.labels)
        return MicroBatch(self.rows, self.lengths, *(tensor.to(device, non_blocking=True) for tensor in tensors))


def collate(examples: Sequence[Example]) -> MicroBatch:
    """Join documents into one sequence; positions begin at 0 in each."""
    lengths = tuple(len(example) for example in examples)
    tokens = torch.cat([example.tokens for example in examples]).long()
    is_target = torch.cat([example.is_target for example in examples])
    starts = torch.tensor(lengths).cumsum(0) - torch.tensor(lengths)
    # A document's first token would be predicted by the last token of the document before it.
    is_target = is_target.index_fill(0, starts, value=False)
    targets = is_target.nonzero().squeeze(1)
    positions = torch.cat([torch.arange(length) for length in lengths])
    labels, filling = tokens[targets], -len(tokens) % TOKEN_MULTIPLE
    tokens, positions = pad(tokens, (0, filling)), pad(positions, (0, filling))
    rows = tuple(example.row for example in examples)
    return MicroBatch(rows, lengths, tokens[None], positions[None], targets - 1, labels)


def pack(examples: Sequence[Example], *, max_rows: int, max_tokens: int, packing: bool) -> list[list[Example]]:
    """Split a batch into micro-batches.

    With packing, as many documents as fit into `max_tokens` (first fit, longest first: at most 22 % more bins than
    the optimum, Johnson 1973); without, `max_rows` documents of similar length. A document longer than `max_tokens`
    has a micro-batch of its own.
    """
    ordered = sorted(examples, key=lambda example: (-len(example), example.row))
    if not packing:
        return [ordered[i : i + max_rows] for i in range(0, len(ordered), max_rows)]
    bins: list[list[Example]] = []
    room: list[int] = []
    for example in ordered:
        slot = next((i for i, free in enumerate(room) if free >= len(example)), None)
        if slot is None:
            bins.append([])
            room.append(max_tokens)
            slot = len(bins) - 1
        bins[slot].append(example)
        room[slot] -= len(example)
    return bins
