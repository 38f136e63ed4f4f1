# SPDX-License-Identifier: Apache-2.0
"""A training run of traced micro-batches of given lengths, played on the allocator: what it has reserved in the end."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cuda_allocator import Block, CachingAllocator


class Event(NamedTuple):
    """A request for `fixed + per_token * tokens` bytes, or, where `freed`, the release of the request's block."""

    request: int
    """Number of the request, counted from 0 over all micro-batches of a trace."""
    fixed: int
    per_token: float
    freed: bool


@dataclass(frozen=True, slots=True)
class Trace:
    """What a run asks the allocator for: weights once, then micro-batches."""

    weights: tuple[int, ...]
    """Bytes of each parameter and buffer."""
    trained: tuple[int, ...]
    """Bytes of each trained parameter."""
    first: tuple[Event, ...]
    """A micro-batch that finds no gradients and leaves them."""
    later: tuple[Event, ...]
    """A micro-batch that adds to gradients."""


class Replay:
    """A run: weights, then micro-batches, an optimizer step after each window of them.

    `empties` gives the cache back after each step. Raises CardFullError where an allocator with a card has too little.
    """

    def __init__(
        self, trace: Trace, allocator: CachingAllocator, *, accumulation: int = 1, empties: bool = False
    ) -> None:
        self.allocator = allocator
        self._trace = trace
        self._accumulation = accumulation
        self._empties = empties
        self._states: list[Block] = []
        for size in trace.weights:
            allocator.malloc(size)
        self.static = allocator.reserved
        """Reserved before the first micro-batch, bytes."""

    def run(self, lengths: Iterable[int]) -> None:
        """Micro-batches of so many tokens, one after the other."""
        gradients: list[Block] = []
        for number, tokens in enumerate(lengths, start=1):
            first = (number - 1) % self._accumulation == 0
            left = self._micro_batch(self._trace.first if first else self._trace.later, tokens)
            gradients = left if first else gradients
            if number % self._accumulation == 0:
                self._update()
                for block in gradients:
                    self.allocator.free(block)
                gradients = []
                if self._empties:
                    self.allocator.empty_cache()

    def _micro_batch(self, events: Sequence[Event], tokens: int) -> list[Block]:
        """Play one; what it leaves are gradients."""
        held: dict[int, Block] = {}
        malloc, free = self.allocator.malloc, self.allocator.free
        for request, fixed, per_token, freed in events:
            if not freed:
                held[request] = malloc(round(fixed + per_token * tokens))
            elif request in held:
                free(held.pop(request))
        return list(held.values())

    def _update(self) -> None:
        """A step of torch's foreach AdamW: two moments each at the first, and a root of all second moments."""
        malloc = self.allocator.malloc
        if not self._states:
            self._states = [malloc(size) for size in self._trace.trained for _ in range(2)]
        roots = [malloc(size) for size in self._trace.trained]
        for block in roots:
            self.allocator.free(block)
