# SPDX-License-Identifier: Apache-2.0
"""The rows of each optimizer step: a function of the seed and the step, so a checkpoint need not hold them."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from finetree_worker.plan import Optimization
from finetree_worker.randomness import key, order, splitmix64
from finetree_worker.tokenize.example import Example

BUCKET_BATCHES = 32
"""Number of batches whose rows are sorted by length together where packing is off: rows of similar length need little
padding, and the batches of a bucket still come in random order."""


class Batches:
    """Batches of a run's steps. An epoch visits each row once; its last batch may hold fewer rows."""

    def __init__(self, plan: Optimization, examples: Sequence[Example]) -> None:
        self.examples = examples
        self.per_epoch = math.ceil(len(examples) / plan.batch_size)
        self.total = plan.max_steps or max(1, math.ceil((plan.epochs or 1.0) * self.per_epoch))
        self._plan = plan
        self._lengths = torch.tensor([len(example) for example in examples], dtype=torch.int64)
        self._epoch: tuple[int, Tensor] | None = None
        self._tokens: int | None = None

    def of(self, step: int) -> list[Example]:
        """Return the rows of optimizer step `step`, counted from 0."""
        epoch, index = divmod(step, self.per_epoch)
        batch = self._plan.batch_size
        return [self.examples[i] for i in self._order(epoch)[index * batch : (index + 1) * batch].tolist()]

    def tokens_in_all(self) -> int:
        """Return the tokens of all steps of the run; the seed decides the order of the rows."""
        if self._tokens is None:
            epochs, rest = divmod(self.total, self.per_epoch)
            self._tokens = epochs * int(self._lengths.sum())
            if rest:
                self._tokens += int(self._lengths[self._order(epochs)[: rest * self._plan.batch_size]].sum())
        return self._tokens

    def largest(self) -> list[Example]:
        """Return the rows of the step that needs the most memory, longest first.

        With packing it is the step of the most tokens, whose longest row gives way to the longest of the run: what
        attention holds grows with the square of a row. Without packing rows of like length come together, and the
        longest rows of the run are taken, as many as a batch holds.
        """
        visited = self._lengths
        if self.total < self.per_epoch:
            mask = torch.zeros_like(visited, dtype=torch.bool)
            mask[self._order(0)[: self.total * self._plan.batch_size]] = True
            visited = torch.where(mask, visited, -1)
        count = min(self._plan.batch_size, int((visited >= 0).sum()))
        longest = [self.examples[i] for i in torch.topk(visited, count).indices.tolist()]
        if not self._plan.packing:
            return longest
        found = sorted(self.of(self._most_tokens()), key=len, reverse=True)
        return found if longest[0].row in {each.row for each in found} else [longest[0], *found[1:]]

    def _most_tokens(self) -> int:
        """Return the step with the most tokens, counted from 0."""
        best, found = -1, 0
        for first in range(0, self.total, self.per_epoch):
            lengths = self._lengths[self._order(first // self.per_epoch)]
            tokens = torch.zeros(self.per_epoch, dtype=torch.int64)
            tokens.index_add_(0, torch.arange(len(lengths)) // self._plan.batch_size, lengths)
            step = int(tokens[: self.total - first].argmax())
            if int(tokens[step]) > best:
                best, found = int(tokens[step]), first + step
        return found

    def _order(self, epoch: int) -> Tensor:
        if self._epoch is None or self._epoch[0] != epoch:
            rows = order(self._plan.seed, epoch, len(self.examples))
            if not self._plan.packing:
                hashed = key("batches", self._plan.seed, epoch)
                rows = by_length(rows, self._lengths, batch=self._plan.batch_size, hashed=hashed)
            self._epoch = epoch, rows
        return self._epoch[1]


def by_length(rows: Tensor, lengths: Tensor, *, batch: int, hashed: int) -> Tensor:
    """Regroup an order of rows so that the rows of a batch are of similar length; a short last batch keeps its place.

    `lengths` is by row; `hashed` decides the order of the batches.
    """
    whole = len(rows) // batch * batch
    head = rows[:whole]
    bucket = torch.arange(whole) // (batch * BUCKET_BATCHES)
    span = int(lengths.max()) + 1
    head = head[torch.argsort(bucket * span + lengths[head], stable=True)].view(-1, batch)
    shuffled = torch.argsort(splitmix64(torch.arange(len(head), dtype=torch.int64) ^ hashed), stable=True)
    return torch.cat([head[shuffled].flatten(), rows[whole:]])
