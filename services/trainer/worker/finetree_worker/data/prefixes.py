# SPDX-License-Identifier: Apache-2.0
"""Documents of a pack that begin with the same tokens: a system prompt, a few examples, the head of a template.

Such tokens are computed once for all of them. Nothing of a document's head, the tokens before its first predictor, is
learned, and what a causal model computes there depends on the head alone: sharing it is exact.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from finetree_worker.tokenize.example import Example

FAMILY_TOKENS = 16
"""Tokens that a family must save before it pays. Its documents attend in a call of their own in each layer, which takes
the time of 8 tokens (SmolLM2-135M in bfloat16 on a Zen 4 core; in a larger model, fewer): docs/decisions/0064."""


@dataclass(frozen=True, slots=True)
class Sharing:
    """Which documents may share: those of at most `longest` tokens, where they save more than `overhead` tokens.

    A model's attention window bounds `longest`: within it, every token of a document sees the whole shared prefix.
    """

    overhead: int = FAMILY_TOKENS
    longest: int | None = None

    def gain(self, shared: int, documents: int) -> int:
        """Return what a family saves, in tokens: its repeated ones less the overhead, 0 where it does not pay."""
        return max(0, (documents - 1) * shared - self.overhead)


@dataclass(frozen=True, slots=True)
class Family:
    """Documents that share their first `shared` tokens, longest first; one that shares none is alone in its family."""

    shared: int
    documents: tuple[Example, ...]


def head(example: Example) -> int:
    """Return the number of tokens before the first predictor of a target; at least one token is not of the head."""
    targets = example.is_target[1:].nonzero()
    return int(targets[0]) if len(targets) else len(example) - 1


def families(examples: Sequence[Example], sharing: Sharing | None) -> list[Family]:
    """Divide documents into families so that the most tokens are saved; by longest document, then by row.

    In the order of their heads documents with a common prefix are neighbors, so a family is a run of that order, and
    the best division into runs is found exactly. With `sharing` None every document is alone.
    """
    if sharing is None or len(examples) < 2:
        found = [Family(0, (example,)) for example in examples]
    else:
        longest = math.inf if sharing.longest is None else sharing.longest
        heads = {i: head(example) if len(example) <= longest else 0 for i, example in enumerate(examples)}
        # Bytes compare in a moment; any order does that keeps equal beginnings together.
        ids = [example.tokens.numpy() for example in examples]
        ordered = sorted(heads, key=lambda i: (ids[i][: heads[i]].tobytes(), examples[i].row))
        common = []
        for left, right in pairwise(ordered):
            size = min(heads[left], heads[right])
            differing = (ids[left][:size] != ids[right][:size]).nonzero()[0]
            common.append(int(differing[0]) if len(differing) else size)
        found = [
            Family(shared, tuple(sorted((examples[i] for i in ordered[start:stop]), key=_longest_first)))
            for start, stop, shared in _runs(common, sharing)
        ]
    return sorted(found, key=lambda family: _longest_first(family.documents[0]))


def _longest_first(example: Example) -> tuple[int, int]:
    return -len(example), example.row


def _runs(common: Sequence[int], sharing: Sharing) -> list[tuple[int, int, int]]:
    """Divide documents into the runs that save the most: (start, stop, shared tokens) each.

    `common` holds how many tokens each document has in common with the next one.
    """
    count = len(common) + 1
    most = [0] * (count + 1)
    """Tokens saved among the documents before each place."""
    last = [(stop - 1, 0) for stop in range(count + 1)]
    for stop in range(1, count + 1):
        most[stop] = most[stop - 1]
        shared = 1 << 62
        for start in range(stop - 2, -1, -1):
            shared = min(shared, common[start])
            if not shared:
                break
            gain = sharing.gain(shared, stop - start)
            if gain and most[start] + gain > most[stop]:
                most[stop], last[stop] = most[start] + gain, (start, shared)
    runs, stop = [], count
    while stop:
        start, shared = last[stop]
        runs.append((start, stop, shared))
        stop = start
    return runs
