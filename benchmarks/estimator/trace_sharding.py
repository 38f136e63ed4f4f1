# SPDX-License-Identifier: Apache-2.0
"""What one device of several holds at the fullest moment of a step under fully_shard, traced without any other device.

    python benchmarks/estimator/trace_sharding.py [--json OUT]

A small Llama is sharded by torch's own fully_shard over a process group that exists in name only, and torch's memory
tracker counts parameters, gradients and buffers of both collectives while it trains. The peak of the second step is
compared with the estimator's formulas. Rows are short: what counts is what is whole, and when.
"""

import argparse
import itertools
import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from finetree_estimator.catalog.devices import by_memory_class
from finetree_estimator.memory.model_states import model_states
from finetree_estimator.memory.step_peak import step_peak
from finetree_estimator.methods.full import Full
from finetree_estimator.programs import PYTORCH, TRANSFORMERS, variant
from finetree_estimator.run import Run
from finetree_estimator.shapes.config_json import hf_config
from torch import distributed
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore

warnings.filterwarnings("ignore")

SIZES: Mapping[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 64,
}
DEVICES = 8
TOKENS = 32
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Case:
    """How a model is sharded and trained."""

    vocab: int
    tied: bool
    apart: bool
    """Whether embeddings and head are units of their own."""
    micro_batches: int
    """Of which all but the last reduce nothing, as in accelerate, unless embeddings are apart."""


@dataclass(frozen=True, slots=True)
class Traced:
    """Bytes of the fullest moment: traced, and by the formulas."""

    case: Case
    traced: int
    formula: float

    @property
    def error(self) -> float:
        """Relative error of the formula."""
        return self.formula / self.traced - 1


CASES = (
    *(Case(vocab, tied, apart=False, micro_batches=1) for vocab in (1024, 4096, 16384) for tied in (False, True)),
    *(Case(vocab, tied=False, apart=True, micro_batches=1) for vocab in (1024, 4096, 16384)),
    *(Case(vocab, tied=False, apart=apart, micro_batches=2) for vocab in (1024, 4096) for apart in (False, True)),
)


def traced(case: Case) -> int:
    """Bytes at the peak of the second step, when the optimizer has its states."""
    model: Any = transformers.LlamaForCausalLM(_config(case))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    _shard(model, case)
    optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
    tracker: Any = FSDPMemTracker(model, optimizer)
    ids = torch.zeros(1, TOKENS, dtype=torch.long)
    with tracker:
        for _ in range(2):
            for micro in range(case.micro_batches):
                tracker.reset_mod_stats()
                model.set_requires_gradient_sync(case.apart or micro == case.micro_batches - 1)
                model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    peak: int = tracker.get_tracker_snapshot("peak")[CPU]["Total"]
    return peak


def _shard(model: Any, case: Case) -> None:
    mesh = init_device_mesh("cpu", (DEVICES,))
    reduced = torch.float32 if case.apart else torch.bfloat16
    precision = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=reduced)
    apart = [model.model.embed_tokens, [model.model.norm, model.lm_head]] if case.apart else []
    for unit in itertools.chain(apart, model.model.layers, [model]):
        fully_shard(unit, mesh=mesh, mp_policy=precision)


def _config(case: Case) -> transformers.LlamaConfig:
    return transformers.LlamaConfig(**SIZES, vocab_size=case.vocab, tie_word_embeddings=case.tied, use_cache=False)


def formula(case: Case) -> float:
    """The same by the estimator's formulas."""
    program = replace(PYTORCH if case.apart else TRANSFORMERS, expands_kv=True)
    run = Run(
        shape=hf_config.parse({**_config(case).to_dict(), "model_type": "llama"}).shape,
        method=Full(),
        device=by_memory_class(80),
        devices=DEVICES,
        sharding="full",
        micro_batch=1,
        batch=DEVICES * case.micro_batches,
        sequence_length=TOKENS,
        packing=False,
        rows=None,
        steps=1,
        weight_bytes=4,
        compute_bytes=2,
        master_bytes=4,
        checkpointing=True,
        optimizer="adamw",
        loss="full-logits",
        program=variant(program, compiled=False, frozen_kept=False),
    )
    holds = model_states(run)
    static = holds.base_weights + holds.trainable_weights + holds.optimizer_states
    return static + step_peak(run).total


def main() -> None:
    """Trace every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    distributed.init_process_group("fake", rank=0, world_size=DEVICES, store=FakeStore())
    found = [Traced(case, traced(case), formula(case)) for case in CASES]
    for one in found:
        print(f"{one.case}: traced {one.traced / 1e6:.1f} MB, formula {one.formula / 1e6:.1f} MB, {one.error:+.1%}")
    if options.json:
        rows = [asdict(one) for one in found]
        body = {"torch": torch.__version__, "sizes": dict(SIZES), "devices": DEVICES, "tokens": TOKENS, "rows": rows}
        options.json.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
