# SPDX-License-Identifier: Apache-2.0
"""What the CUDA allocator reserves beyond what is allocated where a loss makes no logits, beside the estimator's share.

    python benchmarks/estimator/fused_fragments.py [--json OUT]

Micro-batches of one length run on the allocator's rules (cuda_allocator.py) with the requests of transformers' and
PEFT's own classes (allocation_trace.py), whose layers are recomputed. What is left over follows layer inputs and what
lives for a moment: FUSED_FRAGMENTATION was fitted here by eye, and on no measured run.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import transformers
from allocation_trace import trace
from cuda_allocator import CachingAllocator
from finetree_estimator import constants as c
from finetree_estimator.methods.lora import Lora
from replay import Replay

MODELS = {"mistral-7b": (4096, 14_336, 32, 8, 32_000), "powerlm-3b": (2304, 9216, 36, 36, 49_152)}
"""Hidden and intermediate size, heads, heads of keys, vocabulary."""
LAYERS = (8, 16, 32)
TOKENS = (16_384, 32_768)
METHOD = Lora(8, ("q_proj", "k_proj", "v_proj", "o_proj"))


@dataclass(frozen=True, slots=True)
class Played:
    """A replay; sizes in GiB."""

    model: str
    layers: int
    tokens: int
    kept: float
    """Layer inputs."""
    passing: float
    """What is alive beside them and the weights at the peak."""
    left_over: float
    estimator: float


def replays() -> Iterator[Played]:
    """All cases."""
    for model, (hidden, intermediate, heads, kv_heads, vocab) in MODELS.items():
        for layers in LAYERS:
            config = transformers.LlamaConfig(
                hidden_size=hidden,
                intermediate_size=intermediate,
                num_attention_heads=heads,
                num_key_value_heads=kv_heads,
                vocab_size=vocab,
                num_hidden_layers=layers,
            )
            asked = trace(config, METHOD, checkpointing=True, fused_loss=True)
            for tokens in TOKENS:
                allocator = CachingAllocator()
                played = Replay(asked, allocator)
                played.run([tokens] * 4)
                kept = 2 * hidden * layers * tokens
                passing = allocator.peak_allocated - played.static - kept
                stored, share = c.FUSED_FRAGMENTATION
                sizes = (kept, passing, allocator.reserved - allocator.peak_allocated, stored * kept + share * passing)
                yield Played(model, layers, tokens, *(round(size / 2**30, 3) for size in sizes))


def main() -> None:
    """Replay, and print or write what is left over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = []
    for one in replays():
        print(one, flush=True)
        found.append(asdict(one))
    if options.json:
        options.json.write_text(json.dumps({"replays": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
