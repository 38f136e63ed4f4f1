# SPDX-License-Identifier: Apache-2.0
"""CPU time of a training step with shared prefixes and without, in turns within one process.

    python benchmarks/worker/shared_prefixes.py MODEL_FOLDER [--precision bf16] [--rounds 5] [--out FILE]

Batches of 8 rows of 120 tokens on average, of which a header has none, 30, 60 or 80 %; rows whose headers differ in
pairs and fours, for what a family costs; and LoRA of rank 8 with dropout. CPU seconds are those of the process (user
and system), so what else the machine does disturbs them little. The share of places that sharing saves is printed
beside the time.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from finetree_worker.control import Signal, Steering
from finetree_worker.data.prefixes import Sharing
from finetree_worker.methods.lora import Lora
from finetree_worker.plan import BaseModel, DataPlan, Optimization, Plan, Precision
from finetree_worker.tokenize.example import Example
from finetree_worker.training.attention import by_document
from finetree_worker.training.gradients import Gradients
from finetree_worker.training.run import adapt, load

ROWS, MEAN_TOKENS = 8, 120


class Quiet:
    """A reporter and a control that say nothing."""

    def emit(self, *_: Any, **__: Any) -> None:
        """Report nothing."""

    def poll(self) -> Signal:
        """Ask for nothing."""
        return Signal.NONE


def rows(header: int, size: int, *, families: int = 1) -> list[Example]:
    """Rows with a header of so many tokens, `families` different ones, and lengths around `size` with it."""
    generator = torch.Generator().manual_seed(header + size)
    headers = torch.randint(100, 40_000, (families, header), generator=generator)
    found = []
    for row in range(ROWS):
        own = max(4, round((size - header) * (0.5 + row / (ROWS - 1))))
        tokens = torch.cat([headers[row % families], torch.randint(100, 40_000, (own,), generator=generator)]).int()
        is_target = torch.arange(len(tokens)) >= header + own // 2
        found.append(Example(row + 1, tokens, is_target))
    return found


CASES = {
    "no header": rows(0, MEAN_TOKENS),
    "30 %": rows(36, MEAN_TOKENS),
    "60 %": rows(72, MEAN_TOKENS),
    "80 %": rows(96, MEAN_TOKENS),
    "93 %, long": rows(560, 600),
    "4 pairs, 8 tokens": rows(8, 64, families=4),
    "4 pairs, 16 tokens": rows(16, 64, families=4),
    "4 pairs, 32 tokens": rows(32, 64, families=4),
    "2 fours, 8 tokens": rows(8, 64, families=2),
    "2 fours, 16 tokens": rows(16, 64, families=2),
}


def measure(gradients: Gradients, cases: dict[str, list[Example]], *, overhead: int | None, rounds: int) -> Any:
    """Return by case the CPU seconds of a step, alone and shared, medians and each round's ratio, and tokens saved."""
    sharing = gradients.sharing if overhead is None else Sharing(overhead)
    found = {}
    for name, examples in cases.items():
        seconds: dict[str, list[float]] = {"alone": [], "shared": []}
        tokens = {}
        for turn in range(-1, rounds):
            for side in ("alone", "shared") if turn % 2 else ("shared", "alone"):
                gradients.sharing = sharing if side == "shared" else None
                before = resource.getrusage(resource.RUSAGE_SELF)
                tokens[side] = gradients.add(0, examples).tokens
                after = resource.getrusage(resource.RUSAGE_SELF)
                gradients.forget()
                if turn >= 0:  # the first turn compiles kernels
                    spent = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
                    seconds[side].append(spent)
        ratios = [alone / shared for alone, shared in zip(seconds["alone"], seconds["shared"], strict=True)]
        found[name] = {
            "rows": len(examples),
            "row_tokens": tokens["alone"],
            "saved_share": round(1 - tokens["shared"] / tokens["alone"], 4),
            "cpu_seconds_alone": round(statistics.median(seconds["alone"]), 4),
            "cpu_seconds_shared": round(statistics.median(seconds["shared"]), 4),
            "speedup": round(statistics.median(ratios), 3),
            "speedups": [round(ratio, 3) for ratio in ratios],
        }
        print(name, json.dumps(found[name]), flush=True)
    return found


def main() -> None:
    """Measure and print; write the figures with the machine's name where --out says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", type=Path, help="folder of a base model")
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--overhead", type=int, help="tokens that a family must save (default: the worker's)")
    parser.add_argument("--only", action="append", choices=list(CASES), help="these cases alone")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as work:
        plan = Plan(
            base=BaseModel(given.model),
            data=DataPlan(Path(work) / "none", scratch=Path(work), sequence_length=1024),
            method=Lora(dropout=0.05),
            optimization=Optimization(
                learning_rate=1e-4,
                batch_size=ROWS,
                micro_batch_size=4,
                max_steps=1,
                precision=Precision(given.precision),
            ),
            work=Path(work),
            artifact=Path(work) / "artifact",
            threads=given.threads,
        )
        cpu = torch.device("cpu")
        _, subject = adapt(plan, load(plan, cpu), cpu)
        gradients = Gradients(plan, subject, reporter=Quiet(), steering=Steering(Quiet()))
        subject.model.train()
        cases = {name: CASES[name] for name in given.only or CASES}
        with by_document(subject.model):
            found = measure(gradients, cases, overhead=given.overhead, rounds=given.rounds)
    if given.out:
        processor = next(
            (
                line.split(":")[1].strip()
                for line in Path("/proc/cpuinfo").read_text().splitlines()
                if "model name" in line
            ),
            platform.machine(),
        )
        machine = {
            "processor": processor,
            "cores": os.cpu_count(),
            "torch": torch.__version__,
            "threads": given.threads,
        }
        settings = {"model": given.model.name, "precision": given.precision, "method": "LoRA 8", "rounds": given.rounds}
        given.out.write_text(json.dumps({"machine": machine, **settings, "cases": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
