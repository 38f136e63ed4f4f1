# SPDX-License-Identifier: Apache-2.0
"""What rows of many lengths make the CUDA allocator reserve: replays of traced steps beside what the estimator says.

    python benchmarks/estimator/fragmentation.py [--json OUT]

Micro-batches of drawn lengths run on the allocator's rules (cuda_allocator.py); what they ask for are the allocations
of transformers' and PEFT's own classes (allocation_trace.py), at the widths of four models. What is left over is what
is reserved beyond a run whose rows are all as long as the longest: its mean over the draws stands beside the
estimator's, less its share for one draw. Two constants of the estimator were fitted here, and none on a measured run.
"""

import argparse
import json
import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import transformers
from allocation_trace import trace
from cuda_allocator import CachingAllocator
from finetree_estimator import constants as c
from finetree_estimator.catalog.devices import by_memory_class
from finetree_estimator.memory import fragmentation
from finetree_estimator.methods.base import Method
from finetree_estimator.methods.full import Full
from finetree_estimator.methods.lora import Lora
from finetree_estimator.programs import TRANSFORMERS
from finetree_estimator.run import LengthRange, Rows, Run
from finetree_estimator.shapes.config_json import hf_config
from replay import Replay, Trace

MODELS: dict[str, tuple[int, int, int, int, int]] = {
    "qwen-1.8b": (24, 2048, 5504, 16, 151_936),
    "qwen2.5-0.5b": (8, 896, 4864, 14, 151_936),
    "tinyllama-1.1b": (22, 2048, 5632, 32, 32_000),
    "llama-2-7b": (32, 4096, 11_008, 32, 32_000),
    "llama-3-8b": (8, 4096, 14_336, 32, 128_256),
}
"""Layers, hidden and intermediate size, heads and vocabulary; all heads have keys of their own. The first is trained
fully; of the others two have all their layers, which weigh more than logits where they are kept, and two a third or a
quarter of them."""
LIMITS = (512, 2048, 8192)
DRAWS = 6
MICRO_BATCHES = 80
ACCUMULATION = 16


@dataclass(frozen=True, slots=True)
class Played:
    """Replays of a case; sizes in GiB."""

    model: str
    checkpointing: bool
    longest: int
    allocated: float
    equal_rows: float
    """Reserved where all rows have the longest length."""
    left_over: float
    """Reserved beyond that, in the mean."""
    left_over_of_draws: tuple[float, ...]
    expanding: float
    """Reserved with expandable segments, of the first draw."""
    estimator: float
    """What the estimator says is left over, in the mean."""


def method_of(name: str) -> Method:
    """How a model is trained."""
    return Full() if name == "qwen-1.8b" else Lora(8, ("q_proj", "v_proj"))


def lengths(limit: int, seed: int) -> list[int]:
    """Lengths of micro-batches, spread evenly over the upper four fifths of the limit."""
    draws = random.Random(seed)
    return [draws.randint(limit // 5, limit) for _ in range(MICRO_BATCHES)]


def reserved(steps: Trace, drawn: Sequence[int], *, expandable: bool = False) -> CachingAllocator:
    """The allocator after micro-batches of these lengths."""
    allocator = CachingAllocator(expandable=expandable)
    Replay(steps, allocator, accumulation=ACCUMULATION).run(drawn)
    return allocator


def played(name: str, steps: Trace, limit: int, *, checkpointing: bool) -> Played:
    """The replays of a case, and what the estimator says of it."""
    orders = [lengths(limit, seed) for seed in range(DRAWS)]
    equal = reserved(steps, [limit] * 2 * ACCUMULATION)
    mixed = [reserved(steps, drawn) for drawn in orders]
    extra = [one.peak_reserved - equal.peak_reserved for one in mixed]
    found = fragmentation.left_over(run_of(name, limit, checkpointing=checkpointing))
    return Played(
        name,
        checkpointing,
        limit,
        _gib(equal.peak_allocated),
        _gib(equal.peak_reserved),
        _gib(statistics.mean(extra)),
        tuple(map(_gib, sorted(extra))),
        _gib(reserved(steps, orders[0], expandable=True).peak_reserved),
        _gib(found.expected / c.DRAW if found is not None else 0.0),
    )


def _gib(size: float) -> float:
    return round(size / 2**30, 3)


def config_of(name: str) -> Any:
    """The configuration of a model."""
    layers, hidden, intermediate, heads, vocabulary = MODELS[name]
    return transformers.AutoConfig.for_model(
        "qwen2",
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        num_hidden_layers=layers,
        vocab_size=vocabulary,
        tie_word_embeddings=False,
        max_position_embeddings=max(LIMITS),
    )


def run_of(name: str, limit: int, *, checkpointing: bool) -> Run:
    """What the estimator is asked: the same steps, and lengths that are spread as they are drawn."""
    mean = 0.6 * limit
    spread = (LengthRange(float(limit // 5), float(limit), 1.0),)
    return Run(
        shape=hf_config.parse({**config_of(name).to_dict(), "model_type": "qwen2"}).shape,
        method=method_of(name),
        device=by_memory_class(80),
        devices=1,
        micro_batch=1,
        batch=ACCUMULATION,
        sequence_length=limit,
        packing=False,
        rows=Rows(
            count=MICRO_BATCHES,
            mean=mean,
            mean_square=mean * mean * 1.15,
            longest=limit,
            target_fraction=1.0,
            length_ranges=spread,
        ),
        steps=MICRO_BATCHES // ACCUMULATION,
        weight_bytes=2,
        compute_bytes=2,
        master_bytes=2 if isinstance(method_of(name), Full) else 4,
        optimizer="adamw",
        checkpointing=checkpointing,
        loss="full-logits",
        program=TRANSFORMERS,
    )


def cases() -> Iterator[Played]:
    """All cases, one after the other."""
    for name in MODELS:
        for checkpointing in (True,) if isinstance(method_of(name), Full) else (True, False):
            steps = trace(config_of(name), method_of(name), checkpointing=checkpointing)
            for limit in LIMITS:
                yield played(name, steps, limit, checkpointing=checkpointing)


def main() -> None:
    """Play every case and print, or write, the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = []
    for one in cases():
        found.append(one)
        low, high = one.left_over_of_draws[0], one.left_over_of_draws[-1]
        print(
            f"{one.model:16}{'recomputed' if one.checkpointing else 'kept':12}{one.longest:6}"
            f"  equal rows {one.equal_rows:7.2f}  left over {one.left_over:7.2f} ({low:.2f} to {high:.2f})"
            f"  estimator {one.estimator:7.2f}  expandable {one.expanding:7.2f} GiB",
            flush=True,
        )
    if options.json:
        rows = [asdict(one) for one in found]
        body = {"models": MODELS, "micro_batches": MICRO_BATCHES, "draws": DRAWS, "unit": "GiB", "rows": rows}
        options.json.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
