# SPDX-License-Identifier: Apache-2.0
"""What each faster way of the worker's step gains by itself: on and off in turns, in one process, on the same rows.

    python benchmarks/worker/ladder.py                          LoRA, by CPU seconds of one thread
    python benchmarks/worker/ladder.py --method full --rounds 7
    python benchmarks/worker/ladder.py --json benchmarks/results/worker/ladder.json

A turn is the forward and backward pass of one packed micro-batch of 1,024 tokens of SmolLM2-135M, with all ways,
without each one, and without any. CPU seconds of one thread hardly depend on what else the machine does, which
wall-clock does; the median of the turns is kept. Beside it stand page faults, the bytes that the forward pass keeps for
the backward pass, the loss, and by how much the gradient differs from the plain one (norm of the difference by norm).
"""

import argparse
import json
import platform
import resource
import statistics
import sys
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import docstring_rows
from against_trl import prepared_model
from against_trl_settings import LENGTH, WAYS, spec
from method_process import Recorder, cpu_task

ROWS = 64
PLAIN, ALL = "none", "all"


class Ladder:
    """A model, one micro-batch, and the step's ways to be compared on it."""

    def __init__(self, method: str, model: Path, *, threads: int, layers: int, folder: Path) -> None:
        import torch
        from finetree_worker.data.dataset import load_dataset
        from finetree_worker.data.packing import pack
        from finetree_worker.models.load import load_tokenizer
        from finetree_worker.plan_from_task import train_plan
        from finetree_worker.training import run
        from finetree_worker.training.gradients import Gradients

        torch.set_num_threads(threads)
        task = cpu_task(folder, str(model), spec(method, 1), threads)
        task.dataset_file = str(folder / "rows.jsonl")
        docstring_rows.write(Path(task.dataset_file), docstring_rows.rows(ROWS))
        plan, quiet = train_plan(task), Recorder()
        loaded = run.load(plan, torch.device("cpu"))
        if layers:
            decoder: Any = loaded.get_decoder()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
            decoder.layers, loaded.config.num_hidden_layers = decoder.layers[:layers], layers
        data = load_dataset(plan.data, load_tokenizer(model), lambda *_: None)
        _, subject = run.adapt(plan, loaded, torch.device("cpu"))
        subject.model.train()
        self.gradients = Gradients(plan, subject, reporter=quiet, steering=quiet)
        # The middle one: its documents are neither the longest nor the leftovers.
        parts = pack(data.train, max_rows=1, max_tokens=LENGTH, packing=True)
        self.documents = parts[len(parts) // 2]
        # Adapters begin at zero, which would hide half of the products' gradients.
        with torch.no_grad():
            for name, parameter in subject.trainable.items():
                if "lora_B" in name:
                    parameter.normal_(std=0.02, generator=torch.Generator().manual_seed(1))

    def ways(self) -> dict[str, frozenset[Any]]:
        """The sets of levers to be compared, by name: all, all without one, none."""
        from finetree_worker.training.fused.levers import Lever

        every = frozenset(Lever)
        return {ALL: every, PLAIN: frozenset()} | {str(lever): every - {lever} for lever in Lever}

    def turn(self, levers: Iterable[Any]) -> dict[str, float]:
        """Run the micro-batch forwards and backwards with some levers; return what it took."""
        from finetree_worker.training.attention import by_document
        from finetree_worker.training.fused.levers import only
        from finetree_worker.training.fused.step import faster

        subject = self.gradients.subject
        self.gradients.forget()
        with only(levers), by_document(subject.model), faster(subject.model):
            # Once alone: what a way makes at first is not what a step takes.
            self._once()
            before = resource.getrusage(resource.RUSAGE_SELF)
            loss = self._once()
            after = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
            "kernel_seconds": after.ru_stime - before.ru_stime,
            "page_faults": after.ru_minflt - before.ru_minflt,
            "loss": loss,
        }

    def _once(self) -> float:
        self.gradients.forget()
        return self.gradients.one(0, self.documents, sum(example.targets for example in self.documents)).loss

    def gradient(self, levers: Iterable[Any]) -> tuple[Any, int]:
        """Return the gradient of all parameters as one vector, and the bytes kept for the backward pass."""
        import torch
        from finetree_worker.training.attention import by_document
        from finetree_worker.training.fused.levers import only
        from finetree_worker.training.fused.step import faster

        kept: dict[int, int] = {}
        weights = {p.untyped_storage().data_ptr() for p in self.gradients.subject.model.parameters()}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        subject = self.gradients.subject
        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with only(levers), by_document(subject.model), faster(subject.model), hooks:
            self._once()
        parts = [p.grad.flatten().double() for p in subject.trainable.values() if p.grad is not None]
        return torch.cat(parts), sum(kept.values())


def compare(ladder: Ladder, rounds: int) -> dict[str, dict[str, float]]:
    """Take turns; return each way's medians, and its gain as the ratio of what the step takes without it."""
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in ladder.ways()}
    for _ in range(rounds):
        for name, levers in ladder.ways().items():
            turns[name].append(ladder.turn(levers))
    found: dict[str, dict[str, float]] = {}
    plain, _ = ladder.gradient(ladder.ways()[PLAIN])
    for name, levers in ladder.ways().items():
        medians = {key: statistics.median(each[key] for each in turns[name]) for key in turns[name][0]}
        gradient, kept = ladder.gradient(levers)
        difference = float((gradient - plain).norm() / plain.norm())
        found[name] = medians | {"kept_bytes": kept, "gradient_difference": difference}
    best = found[ALL]["cpu_seconds"]
    for name, each in found.items():
        each["step_without_it"] = each["cpu_seconds"] / best if name != ALL else 1.0
    return found


def machine(threads: int) -> dict[str, Any]:
    """What the figures hold for."""
    import torch
    from finetree_worker.process.core import cpu_name

    names = ("torch", "transformers", "peft")
    return {
        "cpu": cpu_name(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "bfloat16_in_hardware": torch.cpu._is_avx512_bf16_supported(),  # noqa: SLF001 - torch has no public way to ask
        "threads": threads,
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in names},
        "date": datetime.now(UTC).date().isoformat(),
    }


def main(arguments: list[str]) -> None:
    """Compare, print a line for each way, and write JSON where it is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=list(WAYS), default="lora")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=0, help="the model's first layers alone; 0: all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "finetree-benchmarks")
    parser.add_argument("--note", default="", help="what else the machine did, for the JSON")
    parser.add_argument("--json", type=Path, help="add the method's figures to this file")
    asked = parser.parse_args(arguments)
    from finetree_worker.process.log_capture import set_environment

    set_environment()
    asked.cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        model = prepared_model(asked.cache)
        ladder = Ladder(asked.method, model, threads=asked.threads, layers=asked.layers, folder=Path(folder))
        found = compare(ladder, asked.rounds)
        documents = [len(each) for each in ladder.documents]
    for name, each in found.items():
        line = (
            f"{each['cpu_seconds']:.2f} CPU s, {each['page_faults']:.0f} faults, {each['kept_bytes'] / 1e6:.0f} MB kept"
        )
        print(f"{name:12} {line}, x{each['step_without_it']:.2f}, gradient {each['gradient_difference']:.1e}")
    if asked.json:
        whole = json.loads(asked.json.read_text()) if asked.json.exists() else {}
        entry = {"machine": machine(asked.threads), "note": asked.note, "documents": documents, "ways": found}
        whole[asked.method] = entry | {"rounds": asked.rounds, "layers": asked.layers or "all"}
        asked.json.write_text(json.dumps(whole, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
