# SPDX-License-Identifier: Apache-2.0
"""Other open estimators and this one on the same published rows.

    python benchmarks/estimator/peers.py --fit FILE --validation FILE [--cache FOLDER]
        [--output benchmarks/results/estimator/peers.json]

Each peer is installed at a pinned version into a virtual environment of its own (under --cache, else temporary) and
asked by `peer_calls.py`, whose functions say what each can be told; the rule of LLaMA-Factory's README is a formula
here. The project's own number is EstimateRun's, asked in process. Rows: a known architecture, a method and a number
format that the estimator knows, and a measured peak (memory) or a measured rate (throughput): those of --fit and
--validation on one GPU, and under `elsewhere` all of the sources that no constant of ours was fitted on (other_rows.py;
formulas were fixed by them; "no peer's own" leaves out what peers measured and fitted theirs on). Peaks above 92 % of
a card are counted, not scored: the allocator bends there (it frees its cache and tries again), whatever the run needs.
Each estimator is scored on the rows that it answers, and the project once more on exactly those rows.

Every tool predicts one number and does not say of which quantity (canifinetune says: reserved); it is held against the
quantity that the row measured. The project's is `expected` of that quantity.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetree_estimator.catalog import price_book
from finetree_estimator.spec.resolve import Knowledge
from peer_cases import Answer, Asked, Cases
from peer_scores import Table, show, tables
from rows import measured_rows

ROOT = Path(__file__).resolve().parents[2]
CALLS = Path(__file__).with_name("peer_calls.py")


@dataclass(frozen=True, slots=True)
class Peer:
    """A package of the index at the version that the results are for."""

    name: str
    version: str
    with_dependencies: bool = True
    """False where its estimate needs none of them (torch and CUDA among them)."""


PEERS = (
    Peer("ftuneai", "0.4.1"),
    Peer("canifinetune", "0.4.1"),
    Peer("fitcheck-llm", "0.3.1"),
    Peer("unsloth", "2026.10.9", with_dependencies=False),
    Peer("gpu-estimator", "0.2.0", with_dependencies=False),
    Peer("alloc", "0.0.16"),
)
RULE = "LLaMA-Factory's rule"


def ask_rule(asked: dict[str, Any]) -> Answer:
    """The hardware table of LLaMA-Factory's README, "estimated": gigabytes for x billion parameters.

    18x full in mixed precision, 8x full in pure bf16, 2x LoRA, x/2 QLoRA with 4 bits (github:hiyouga/LLaMA-Factory
    README.md, "Hardware Requirement", at commit d1a60cd8). It knows neither batch nor length.
    """
    factors = {"full": 18.0 if asked["weights"] == "fp32" else 8.0, "lora": 2.0, "qlora": 0.5}
    if asked["devices"] > 1:
        return Answer(None, None, "cannot be told: several devices")
    if asked["method"] not in factors:
        return Answer(None, None, f"cannot be told: the method {asked['method']}")
    return Answer(factors[asked["method"]] * asked["parameters"], None)


def ask_peer(peer: Peer, asked: Sequence[Asked], cache: Path) -> list[Answer]:
    """What a peer predicts. Raises CalledProcessError when it cannot be installed or does not run."""
    python = install(peer, cache)
    cases = json.dumps([item.case for item in asked])
    # A peer may look for nothing but what it is given: no hub, no cache of the user's.
    environment = {"PATH": os.environ.get("PATH", ""), "HOME": str(cache), "HF_HUB_OFFLINE": "1"}
    command = [str(python), str(CALLS), peer.name]
    found = subprocess.run(command, input=cases, capture_output=True, text=True, check=False, env=environment)
    if found.returncode:
        raise RuntimeError(f"{peer.name} {peer.version} failed:\n{found.stderr[-2000:]}")
    answers = json.loads(found.stdout)
    return [Answer(item["peak_bytes"], item["tokens_per_second"], item["reason"]) for item in answers]


def install(peer: Peer, cache: Path) -> Path:
    """The interpreter of the peer's environment, made at the first call."""
    folder = cache / f"{peer.name}-{peer.version}"
    python = folder / "bin" / "python"
    if not (folder / ".installed").exists():
        local = ROOT / ".bootstrap" / "bin" / "uv"
        uv = str(local) if local.exists() else shutil.which("uv") or "uv"
        wanted = [f"{peer.name}=={peer.version}"] + ([] if peer.with_dependencies else ["--no-deps"])
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", str(python), *wanted], check=True)
        (folder / ".installed").touch()
    return python


def run(files: Sequence[Path], cache: Path) -> dict[str, Any]:
    """Ask everybody about everything; the result as it is written."""
    cases = Cases(Knowledge(price_book.packaged()))
    rows = [row for file in files for row in measured_rows(file)]
    fitted, nearly_full = cases.fitted_peaks(rows)
    elsewhere, others_nearly_full = cases.other_peaks()
    return {
        "benchmark": "estimator peers",
        "peers": {peer.name: peer.version for peer in PEERS} | {RULE: "README at commit d1a60cd8"},
        "rows_nearly_full_card_left_out": nearly_full,
        "memory": ask_all(fitted, cache, what="memory", where="fitted and validation"),
        "throughput": ask_all(cases.fitted_rates(rows), cache, what="throughput", where="fitted and validation"),
        "elsewhere": {
            "peaks_nearly_full_card_left_out": others_nearly_full,
            "memory": ask_all(elsewhere, cache, what="memory", where="other sources"),
            "throughput": ask_all(cases.other_rates(), cache, what="throughput", where="other sources"),
        },
    }


def ask_all(asked: Sequence[Asked], cache: Path, *, what: str, where: str) -> Table:
    """Ask every estimator about some rows, print the scores and give them back."""
    answers = {peer.name: ask_peer(peer, asked, cache) for peer in PEERS}
    if what == "memory":
        answers[RULE] = [ask_rule(item.case) for item in asked]
    found = tables(asked, answers, what=what)
    show(f"{what}, {len(asked)} rows, {where}", found)
    return found


def main() -> int:
    """Install, ask, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--fit", type=Path, required=True, help="measured rows that constants were fitted on (CSV)")
    parser.add_argument("--validation", type=Path, required=True, help="measured rows kept for validation (CSV)")
    parser.add_argument("--cache", type=Path, help="folder to keep the peers' environments in (default: none kept)")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="peers") as name:
        result = run((options.fit, options.validation), (options.cache or Path(name)).resolve())
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
