# SPDX-License-Identifier: Apache-2.0
"""From rows to micro-batches: several documents in one sequence, without padding, their common beginnings once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from finetree_worker.data.prefixes import Family, Sharing, families, head
from finetree_worker.randomness import MaskKeys, content_hashes
from finetree_worker.tokenize.example import Example

TOKEN_MULTIPLE = 32
"""Micro-batches are padded to a multiple of this many tokens: matrix libraries compile a kernel for each new shape
(oneDNN, some milliseconds each), which would take time in every step of a new length."""
REST_PLACES = 16
"""Places that what follows a shared prefix counts for at least: attention pads it to this length."""


@dataclass(frozen=True, slots=True)
class Block:
    """Sequences one after another, their `lengths` in tokens, which attend to what stands `behind` them too.

    `behind` are the first place and the number of tokens of the prefix that they share; None: nothing.
    """

    lengths: tuple[int, ...]
    behind: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Sequences one after another, then padding, which belongs to none.

    A sequence is a document, a shared prefix, or what follows it in one of its documents; `blocks` says which.
    `rows` and `lengths` are of the documents. token_ids and positions are (1, tokens + padding); predictors (targets,)
    index the token before each target, whose id is in labels (targets,) and whose document in owners (targets,).
    """

    rows: tuple[int, ...]
    lengths: tuple[int, ...]
    token_ids: Tensor
    positions: Tensor
    predictors: Tensor
    labels: Tensor
    owners: Tensor
    blocks: tuple[Block, ...]
    keys: MaskKeys

    @property
    def tokens(self) -> int:
        """Number of tokens that are computed: those of the documents, shared ones once."""
        return sum(sum(block.lengths) for block in self.blocks)

    def to(self, device: torch.device) -> "MicroBatch":
        """Return the micro-batch on a device."""
        names = ("token_ids", "positions", "predictors", "labels", "owners")
        moved = {name: getattr(self, name).to(device, non_blocking=True) for name in names}
        return replace(self, **moved, keys=self.keys.to(device))


def collate(examples: Sequence[Example], sharing: Sharing | None = None) -> MicroBatch:
    """Join documents into one sequence; positions begin at 0 in each, and continue after a shared prefix."""
    lengths = tuple(len(example) for example in examples)
    sizes = torch.tensor(lengths)
    starts = sizes.cumsum(0) - sizes
    tokens = torch.cat([example.tokens for example in examples]).long()
    # A document's first token would be predicted by the last token of the document before it.
    is_target = torch.cat([example.is_target for example in examples]).index_fill(0, starts, value=False)
    owners = torch.repeat_interleave(torch.arange(len(examples)), sizes)
    positions = torch.arange(len(tokens)) - starts[owners]
    heads = torch.tensor([head(example) for example in examples])
    contents = torch.where(positions < heads[owners], content_hashes(tokens, positions, starts[owners]), 0)
    blocks, taken = _layout(examples, starts.tolist(), sharing)
    if taken is not None:
        tokens, is_target, owners, positions, contents = (
            each[taken] for each in (tokens, is_target, owners, positions, contents)
        )
    targets, filling = is_target.nonzero().squeeze(1), -len(tokens) % TOKEN_MULTIPLE
    rows = tuple(example.row for example in examples)
    return MicroBatch(
        rows,
        lengths,
        token_ids=pad(tokens, (0, filling))[None],
        positions=pad(positions, (0, filling))[None],
        predictors=targets - 1,
        labels=tokens[targets],
        owners=owners[targets],
        blocks=blocks,
        keys=MaskKeys(rows, owners, positions, contents),
    )


def _layout(
    examples: Sequence[Example], starts: Sequence[int], sharing: Sharing | None
) -> tuple[tuple[Block, ...], Tensor | None]:
    """Return the blocks of a micro-batch, and the places of its tokens among the documents' own; None: all, in order.

    First come whole documents and prefixes, longest first, then what follows each prefix.
    """
    found = families(examples, sharing)
    if not any(family.shared for family in found):
        return (Block(tuple(len(example) for example in examples)),), None
    first_of = {id(example): start for example, start in zip(examples, starts, strict=True)}
    leading = sorted(found, key=lambda family: -(family.shared or len(family.documents[0])))
    spans = [(first_of[id(each.documents[0])], each.shared or len(each.documents[0])) for each in leading]
    blocks = [Block(tuple(size for _, size in spans))]
    place = 0
    for family, (_, size) in zip(leading, tuple(spans), strict=True):
        if family.shared:
            rests = [(first_of[id(one)] + size, len(one) - size) for one in family.documents]
            blocks.append(Block(tuple(rest for _, rest in rests), (place, size)))
            spans += rests
        place += size
    return tuple(blocks), torch.cat([torch.arange(first, first + size) for first, size in spans])


@dataclass(frozen=True, slots=True)
class Limit:
    """Largest micro-batch: in `tokens` where rows are packed, in `rows` where they are not."""

    rows: int
    tokens: int

    def within(self, other: "Limit") -> "Limit":
        """Return what both allow."""
        return Limit(min(self.rows, other.rows), min(self.tokens, other.tokens))


def pack(
    examples: Sequence[Example], *, max_rows: int, max_tokens: int, packing: bool, sharing: Sharing | None = None
) -> list[list[Example]]:
    """Split a batch into micro-batches.

    With packing, as many documents as fit into `max_tokens` places (first fit, longest first: at most 22 % more bins
    than the optimum, Johnson 1973; a family's documents one after another, first where it has a place already);
    without, `max_rows` documents of similar length. A document longer than `max_tokens` has a micro-batch of its own.
    """
    ordered = sorted(examples, key=lambda example: (-len(example), example.row))
    if not packing:
        return [ordered[i : i + max_rows] for i in range(0, len(ordered), max_rows)]
    bins: list[list[Example]] = []
    room: list[int] = []
    for family in families(examples, sharing):
        members: dict[int, int] = {}
        """Documents of the family by bin."""
        for example in family.documents:
            cost = {slot: _cost(example, family, sharing, members=count) for slot, count in members.items()}
            slot = next((i for i in cost if room[i] >= cost[i]), None)
            if slot is None:
                slot = next((i for i, free in enumerate(room) if free >= len(example)), None)
            if slot is None:
                bins.append([])
                room.append(max_tokens)
                slot = len(bins) - 1
            bins[slot].append(example)
            room[slot] -= cost.get(slot, len(example))
            members[slot] = members.get(slot, 0) + 1
    return bins


def _cost(example: Example, family: Family, sharing: Sharing | None, *, members: int) -> int:
    """Return the places that a document takes beside `members` of its family; never fewer than `collate` gives it.

    A family saves what it shares less its overhead: a micro-batch that `collate` divides otherwise saves no less.
    """
    if sharing is None or not family.shared:
        return len(example)
    gained = sharing.gain(family.shared, members + 1) - sharing.gain(family.shared, members)
    return min(len(example), max(REST_PLACES, len(example) - gained))
