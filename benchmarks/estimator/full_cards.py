# SPDX-License-Identifier: Apache-2.0
"""Whether runs of mixed rows go on where the allocator's cache fills the card: replays at the borders of the verdict.

    python benchmarks/estimator/full_cards.py [--json OUT]

The cases are those of fragmentation.py. A card has just the upper end, or just the expected value, of the peak that the
verdict goes by: at the first a run begins to FIT, at the second to fit tightly. Counted are the orders of the rows in
which every request is met, unused segments being given back as often as the card is full.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from allocation_trace import trace
from cuda_allocator import CachingAllocator, CardFullError
from finetree_estimator import constants as c
from finetree_estimator.estimate import fit_of
from fragmentation import ACCUMULATION, config_of, lengths, method_of, run_of
from replay import Replay, Trace

CASES = (
    ("qwen-1.8b", True),
    ("qwen2.5-0.5b", True),
    ("qwen2.5-0.5b", False),
    ("tinyllama-1.1b", True),
    ("tinyllama-1.1b", False),
    ("llama-3-8b", True),
    ("llama-3-8b", False),
)
"""Models of fragmentation.py, and whether activations are recomputed."""
LIMITS = (2048, 8192)
DRAWS = 6
MICRO_BATCHES = 48


@dataclass(frozen=True, slots=True)
class Border:
    """A case on the two smallest cards; sizes in GiB without the driver's context."""

    model: str
    checkpointing: bool
    longest: int
    fitting: float
    """The smallest card on which the run fits."""
    fitting_runs: int
    """Orders, of DRAWS, that run there to the end."""
    tight: float
    """The smallest card on which it fits tightly."""
    tight_runs: int
    without_limit: float
    """Reserved by the first order on a card that is never full."""


def border(name: str, steps: Trace, limit: int, *, checkpointing: bool) -> Border:
    """The replays of a case."""
    peak = fit_of(run_of(name, limit, checkpointing=checkpointing))[1].peak
    high, expected = (int(end - c.CUDA_CONTEXT) for end in (peak.high, peak.expected))
    free = CachingAllocator()
    Replay(steps, free, accumulation=ACCUMULATION).run(lengths(limit, 0)[:MICRO_BATCHES])
    return Border(
        name,
        checkpointing,
        limit,
        _gib(high),
        sum(runs(steps, high, limit, seed) for seed in range(DRAWS)),
        _gib(expected),
        sum(runs(steps, expected, limit, seed) for seed in range(DRAWS)),
        _gib(free.peak_reserved),
    )


def runs(steps: Trace, card: int, limit: int, seed: int) -> bool:
    """Whether every request of an order of the rows is met on a card of so many bytes."""
    try:
        Replay(steps, CachingAllocator(card), accumulation=ACCUMULATION).run(lengths(limit, seed)[:MICRO_BATCHES])
    except CardFullError:
        return False
    return True


def _gib(size: float) -> float:
    return round(size / 2**30, 2)


def borders() -> Iterator[Border]:
    """All cases, one after the other."""
    for name, checkpointing in CASES:
        steps = trace(config_of(name), method_of(name), checkpointing=checkpointing)
        for limit in LIMITS:
            yield border(name, steps, limit, checkpointing=checkpointing)


def main() -> None:
    """Play every case and print, or write, the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = []
    for one in borders():
        found.append(one)
        print(
            f"{one.model:16}{'recomputed' if one.checkpointing else 'kept':12}{one.longest:6}"
            f"  fits {one.fitting:6.2f} GiB: {one.fitting_runs} of {DRAWS}"
            f"  tight {one.tight:6.2f} GiB: {one.tight_runs} of {DRAWS}  without limit {one.without_limit:6.2f} GiB",
            flush=True,
        )
    if options.json:
        body = {"micro_batches": MICRO_BATCHES, "draws": DRAWS, "unit": "GiB", "rows": [asdict(one) for one in found]}
        options.json.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
