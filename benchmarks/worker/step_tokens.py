# SPDX-License-Identifier: Apache-2.0
"""What a micro-batch of few tokens costs beside one of many: LoRA on SmolLM2-135M, by CPU seconds of one thread.

    python benchmarks/worker/step_tokens.py
    python benchmarks/worker/step_tokens.py --rounds 7 --output benchmarks/results/worker/step_tokens.json

Sizes take turns, each the forward and backward pass of packed rows of 32 tokens, 64 to 2,048 tokens in all. The last
columns bound what several adapters gain in one pass over their frozen base: the base then computes N times as many
tokens at once, and each adapter its own ones. What is the adapter's is the difference to one that adapts the queries
alone, a seventh of the layers: a little less than all of it, so that the gain is at most what is said. CPU seconds of
one thread hardly depend on what else the machine does; the median of the turns is kept.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from method_process import Recorder, cpu_task, prepare
from method_runs import MODEL, Run

TOKENS = (64, 128, 256, 512, 1024, 2048)
ROW = 32
"""Tokens of a row."""
ADAPTERS = (2, 4, 8)
"""Adapters that share a pass."""
ALL, QUERIES = "all", "queries"
MODULES: dict[str, tuple[str, ...]] = {ALL: (), QUERIES: ("q_proj",)}
"""Layers that are adapted; none named: all linear ones."""


class Step:
    """A model with one adapter, and micro-batches of several sizes."""

    def __init__(self, folder: Path, model: Path, modules: tuple[str, ...]) -> None:
        import torch
        from finetree_worker.plan_from_task import train_plan
        from finetree_worker.tokenize.example import Example
        from finetree_worker.training import run
        from finetree_worker.training.gradients import Gradients

        torch.set_num_threads(1)
        spec = Run("codes", "lora", 1e-4).spec()
        spec["lora"] = spec["lora"] | {"target_modules": list(modules)}
        plan, quiet = train_plan(cpu_task(folder, str(model), spec, 1)), Recorder()
        _, subject = run.adapt(plan, run.load(plan, torch.device("cpu")), torch.device("cpu"))
        subject.model.train()
        self.gradients = Gradients(plan, subject, reporter=quiet, steering=quiet)
        learned = torch.arange(ROW) >= ROW // 2
        self.rows = [
            Example(n, torch.randint(1000, 40000, (ROW,), generator=torch.Generator().manual_seed(n)), learned)
            for n in range(max(TOKENS) // ROW)
        ]

    def seconds(self, tokens: int) -> float:
        """CPU seconds of the forward and backward pass of so many tokens."""
        from finetree_worker.training.attention import by_document
        from finetree_worker.training.fused.step import faster

        rows, subject = self.rows[: tokens // ROW], self.gradients.subject
        with by_document(subject.model), faster(subject.model), self.gradients.each_alone():
            self.gradients.forget()
            before = time.process_time()
            self.gradients.one(0, rows, len(rows) * ROW // 2)
            return time.process_time() - before


def figures(turns: dict[tuple[str, int], list[float]]) -> list[dict[str, Any]]:
    """Medians by size, and the bounds where the size of all adapters together was measured."""
    medians = {size: statistics.median(found) for size, found in turns.items()}
    whole = {tokens: seconds for (name, tokens), seconds in medians.items() if name == ALL}
    own = {tokens: seconds - medians[QUERIES, tokens] for tokens, seconds in whole.items()}
    sizes = []
    for tokens, seconds in whole.items():
        bounds = {
            f"at_most_by_{count}_adapters": round(
                count * seconds / (whole[count * tokens] - own[count * tokens] + count * own[tokens]), 2
            )
            for count in ADAPTERS
            if count * tokens in whole
        }
        rate = round(tokens / seconds)
        figure = {"tokens": tokens, "cpu_seconds": round(seconds, 4), "of_the_adapter": round(own[tokens], 4)}
        sizes.append(figure | {"tokens_per_second": rate} | bounds)
    return sizes


def main(arguments: list[str]) -> None:
    """Measure, print a line for each size, and write JSON where it is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "finetree-benchmarks")
    parser.add_argument("--output", type=Path, help="file for the figures as JSON")
    asked = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    from finetree_worker.process.log_capture import set_environment

    set_environment()
    prepare(asked.cache, MODEL)
    from ladder import machine

    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        steps = {name: Step(Path(folder), asked.cache / MODEL, modules) for name, modules in MODULES.items()}
        turns: dict[tuple[str, int], list[float]] = {(name, tokens): [] for name in steps for tokens in TOKENS}
        for name, tokens in turns:
            steps[name].seconds(tokens)  # what the first pass of a size makes is not what a step takes
        for _ in range(asked.rounds):
            for (name, tokens), found in turns.items():
                found.append(steps[name].seconds(tokens))
    result = {"machine": machine(1) | {"load_before": round(load, 1)}, "rounds": asked.rounds, "sizes": figures(turns)}
    for each in result["sizes"]:
        print(json.dumps(each))
    if asked.output:
        asked.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
