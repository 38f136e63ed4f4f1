# SPDX-License-Identifier: Apache-2.0
"""How fast answers are decoded: by this worker's engine, and by transformers' `generate`, in turns on the same prompts.

    python benchmarks/worker/generate.py [--rounds 5] [--tokens 48] [--cases 0,2] [--precision bf16] [--output FILE]

The model is SmolLM2-135M-Instruct. A case is asked of both sides in turns, the one first in even rounds, the other in
odd ones, with the same tokens of prompt and answer, greedily and without an end token. Tokens per second are of the
whole call, the reading of the prompt included. With targets the peer is peft: one adapter, or a batch with an adapter
for each row (`adapter_names`), which peft has for LoRA alone. In float32 both sides must give the same tokens.
"""

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from against_trl import prepared_model
from finetree_api.trainer.v1 import artifact_pb2, serving_pb2
from finetree_worker.generate import adapters
from finetree_worker.generate.adapters import Adapters
from finetree_worker.generate.engine import Engine
from finetree_worker.methods.weights import Weights
from finetree_worker.models.load import load_model, load_tokenizer
from finetree_worker.process.core import cpu_name
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import GenerationConfig
from transformers.utils import logging

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
CACHE = Path(tempfile.gettempdir()) / "finetree-test-cache"
"""Where tests keep the model."""
QUESTION = "Write a short story about a fine tree that learned to talk, and about who listened to it. "
"""Repeated for the long prompt."""


@dataclass(frozen=True, slots=True)
class Case:
    """What is asked: targets (empty: so many equal questions to the base) and repetitions of the question."""

    name: str
    targets: tuple[str, ...]
    repeats: int = 2


CASES = (
    Case("base, one answer", ("base",)),
    Case("base, one answer, long prompt", ("base",), 40),
    Case("base, four answers", ("base",) * 4),
    Case("one LoRA, one answer", ("rank8",)),
    Case("base and three LoRA in one batch", ("base", "rank4", "rank8", "rank16")),
)
RANKS = (4, 8, 16)


def make_adapters(folder: Path, model: Path) -> None:
    """Save a LoRA of each rank on all linear layers, with random weights that change the answers."""
    for rank in RANKS:
        base = load_model(model, torch.float32, device=torch.device("cpu"))
        adapted = get_peft_model(base, LoraConfig(r=rank, lora_alpha=rank, target_modules="all-linear"))
        torch.manual_seed(rank)
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(0.0, 0.01)
        adapted.save_pretrained(str(folder / f"rank{rank}"))


class Own:
    """This worker's engine with all targets loaded."""

    def __init__(self, model: Path, folder: Path, dtype: torch.dtype) -> None:
        base = load_model(model, dtype, device=torch.device("cpu"))
        self._engine = Engine(base, load_tokenizer(model), Adapters(base))
        self._engine._prompts.__dict__["end_tokens"] = frozenset()  # noqa: SLF001 - answers of one length
        for rank in RANKS:
            weights = Weights(f"rank{rank}", folder / f"rank{rank}", artifact_pb2.ARTIFACT_KIND_ADAPTER)
            self._engine.adapters.add(weights.name, adapters.read(weights, base))

    def __call__(self, case: Case, prompt: str, tokens: int) -> list[str]:
        """Answer a case; the base's equal questions are requests of their own."""
        settings = serving_pb2.Sampling(max_new_tokens=tokens)
        same = len(set(case.targets)) < len(case.targets)
        groups = [[target] for target in case.targets] if same else [list(case.targets)]
        for number, group in enumerate(groups):
            self._engine.start(number, serving_pb2.GenerateRequest(targets=group, prompt=prompt, sampling=settings))
        found: dict[tuple[int, int], str] = {}
        while self._engine.busy:
            for number, said in self._engine.step():
                for piece in said.pieces:  # type: ignore[union-attr]  # an error would end the benchmark here
                    key = (number, piece.target_index)
                    found[key] = found.get(key, "") + piece.text
        return [found[key] for key in sorted(found)]


class Peer:
    """transformers' `generate`; for targets that of peft."""

    def __init__(self, model: Path, folder: Path, dtype: torch.dtype) -> None:
        self._tokenizer = load_tokenizer(model)
        self._base = load_model(model, dtype, device=torch.device("cpu")).eval()
        first, *rest = RANKS
        wrapped: Any = load_model(model, dtype, device=torch.device("cpu")).eval()
        self._adapted = PeftModel.from_pretrained(wrapped, str(folder / f"rank{first}"), f"rank{first}")
        for rank in rest:
            self._adapted.load_adapter(str(folder / f"rank{rank}"), f"rank{rank}")
        self._adapted.eval()
        for each in (self._base, wrapped):
            # Else `generate` would end at the model's own end token: answers of one length are compared.
            each.generation_config.eos_token_id = None

    def __call__(self, case: Case, prompt: str, tokens: int) -> list[str]:
        """Answer a case in one batch."""
        ids = self._tokenizer([prompt] * len(case.targets), return_tensors="pt", add_special_tokens=False)["input_ids"]
        settings = GenerationConfig(max_new_tokens=tokens, do_sample=False, use_cache=True, pad_token_id=0)
        named: dict[str, Any] = {"generation_config": settings, "attention_mask": torch.ones_like(ids)}
        model: Any = self._base
        if set(case.targets) != {"base"}:
            model = self._adapted
            if len(set(case.targets)) > 1:
                named["adapter_names"] = ["__base__" if name == "base" else name for name in case.targets]
            else:
                model.set_adapter(case.targets[0])
        with torch.inference_mode():
            output = model.generate(input_ids=ids, **named)
        return [str(self._tokenizer.decode(row[ids.shape[1] :], skip_special_tokens=True)) for row in output]


def timed(
    side: Callable[[Case, str, int], list[str]], case: Case, prompt: str, tokens: int
) -> tuple[float, float, list[str]]:
    """Wall and CPU seconds of one call, and its answers."""
    began, used = time.perf_counter(), time.process_time()
    answers = side(case, prompt, tokens)
    return time.perf_counter() - began, time.process_time() - used, answers


def compare(case: Case, own: Own, peer: Peer, options: argparse.Namespace) -> dict[str, Any]:
    """One case, in turns."""
    prompt = QUESTION * case.repeats
    seconds: dict[str, list[float]] = {"own": [], "peer": []}
    cpu: dict[str, list[float]] = {"own": [], "peer": []}
    equal = True
    for number in range(options.rounds + 1):
        sides: Sequence[tuple[str, Any]] = (("own", own), ("peer", peer))
        answers = {}
        for name, side in sides if number % 2 == 0 else tuple(reversed(sides)):
            wall, used, answers[name] = timed(side, case, prompt, options.tokens)
            if number:  # the first round warms up
                seconds[name].append(wall)
                cpu[name].append(used)
        equal = equal and answers["own"] == answers["peer"]
    if options.precision == "fp32" and not equal:
        raise SystemExit(f"{case.name}: the answers differ")
    made = options.tokens * len(case.targets)
    ratios = [theirs / mine for mine, theirs in zip(seconds["own"], seconds["peer"], strict=True)]
    result = {
        "case": case.name,
        "answers": len(case.targets),
        "equal_answers": equal,
        "tokens_per_second": round(made / statistics.median(seconds["own"]), 2),
        "peer_tokens_per_second": round(made / statistics.median(seconds["peer"]), 2),
        "times_as_fast": round(statistics.median(ratios), 3),
        "times_as_fast_lowest": round(min(ratios), 3),
        "times_as_fast_cpu_time": round(statistics.median(cpu["peer"]) / statistics.median(cpu["own"]), 3),
    }
    print(json.dumps(result), file=sys.stderr, flush=True)
    return result


def chosen(numbers: str) -> list[Case]:
    """The cases of numbers with commas between them."""
    return [CASES[int(number)] for number in numbers.split(",")]


def main() -> None:
    """Compare all cases and print the result as JSON."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds of each case")
    parser.add_argument("--tokens", type=int, default=48, help="tokens of each answer")
    parser.add_argument("--precision", choices=sorted(TYPES), default="fp32", help="of the weights and the cache")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    parser.add_argument("--cases", type=chosen, default=CASES, help="numbers of cases, from 0, as in 0,2; else all")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder for the model")
    parser.add_argument("--output", type=Path, help="file for the JSON, else standard output")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # the library leaves it untyped
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # the library leaves it untyped
    model = prepared_model(options.cache)
    with tempfile.TemporaryDirectory() as folder:
        make_adapters(Path(folder), model)
        dtype = TYPES[options.precision]
        own, peer = Own(model, Path(folder), dtype), Peer(model, Path(folder), dtype)
        cases = [compare(case, own, peer, options) for case in options.cases]
    versions = {name: __import__(name).__version__ for name in ("torch", "transformers", "peft")}
    found = {
        "machine": {"cpu": cpu_name(), "threads": options.threads, "python": platform.python_version(), **versions},
        "model": "SmolLM2-135M-Instruct",
        "precision": options.precision,
        "tokens": options.tokens,
        "rounds": options.rounds,
        "cases": cases,
    }
    text = json.dumps(found, indent=2) + "\n"
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
