# SPDX-License-Identifier: Apache-2.0
"""Other open estimators and this one on the same published rows.

    python benchmarks/estimator/peers.py --fit FILE --validation FILE [--cache FOLDER]
        [--output benchmarks/results/estimator/peers.json]

Each peer is installed at a pinned version into a virtual environment of its own (under --cache, else temporary) and
asked by `peer_calls.py`, whose functions say what each can be told; the rule of LLaMA-Factory's README is a formula
here. The project's own number is EstimateRun's, asked in process. Rows: one GPU, a known architecture, a method and a
number format that the estimator knows, and a measured peak (memory) or a measured rate (throughput). Peaks above 92 %
of a card are counted, not scored: the allocator bends there (it frees its cache and tries again), whatever the run
needs. Each estimator is scored on the rows that it answers, and the project once more on exactly those rows.

Every tool predicts one number and does not say of which quantity (canifinetune says: reserved); it is held against the
quantity that the row measured. The project's is `expected` of that quantity.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_estimator import prices
from finetree_estimator.accelerators import accelerator
from finetree_estimator.lookups import Knowledge, read_model
from finetree_estimator.servicer import EstimatorServicer
from finetree_estimator.shapes import count
from row_requests import request
from rows import GIB, MeasuredRow, measured_rows

ROOT = Path(__file__).resolve().parents[2]
CALLS = Path(__file__).with_name("peer_calls.py")
UNDER = 0.05
"""An estimate that is this share below the measurement is an under-prediction."""
BENT = 0.92
"""Share of a card's memory above which a peak is no longer the run's need."""


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


@dataclass(frozen=True, slots=True)
class Answer:
    """What an estimator predicts for a row; None where it does not say."""

    peak: float | None
    rate: float | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """A row with what the project itself predicts."""

    row: MeasuredRow
    case: dict[str, Any]
    ours: Answer


def ask_ours(row: MeasuredRow, servicer: EstimatorServicer, knowledge: Knowledge) -> Asked:
    """The project's estimate of a row, and the row as `peer_calls` wants it."""
    asked = request(row)
    estimate = servicer.estimate(asked)
    peak = {
        "allocated": estimate.memory.allocated_bytes,
        "reserved": estimate.memory.reserved_bytes,
        "device": estimate.memory.device_bytes,
    }[row.quantity].expected
    rate = estimate.time.tokens_per_second.expected
    if row.total_tokens and estimate.processed_tokens:
        # The published rate counts no padding, ours counts what passes through the model.
        rate *= row.total_tokens / estimate.processed_tokens
    return Asked(row, case(row, asked, knowledge), Answer(peak, rate))


def case(row: MeasuredRow, asked: pb.EstimateRunRequest, knowledge: Knowledge) -> dict[str, Any]:
    """A row as plain values: everything that any of the peers can be told."""
    shape = read_model(asked.spec.model, knowledge).shape
    card = accelerator(row.accelerator)
    mixed = row.precision.endswith("mixed") or row.precision.startswith("amp")
    return {
        "model": row.published_model,
        "family": _family(row),
        "parameters": count(shape).total,
        "hidden": shape.hidden,
        "layers": shape.layers,
        "heads": shape.heads,
        "kv_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "intermediate": shape.intermediate,
        "vocab": shape.vocab,
        "tied": shape.tied,
        "method": row.method,
        "variant": row.variant,
        "quant": row.quant,
        "rank": row.rank,
        "targets": list(row.targets),
        "sequence_length": row.sequence_length,
        "micro_batch": row.micro_batch,
        "checkpointing": row.checkpointing,
        "attention": row.attention,
        "weights": "fp32" if mixed else "bf16",
        "compute": "bf16",
        "accelerator": row.accelerator,
        "gpu_gib": card.usable_bytes / GIB,
        "gpu_flops": card.dense_flops,
    }


def _family(row: MeasuredRow) -> str:
    if row.shape is not None:
        return row.shape.family or "llama"
    return "phi" if row.model is not None and row.model.startswith("phi-1") else "llama"


def ask_rule(asked: dict[str, Any]) -> Answer:
    """The hardware table of LLaMA-Factory's README, "estimated": gigabytes for x billion parameters.

    18x full in mixed precision, 8x full in pure bf16, 2x LoRA, x/2 QLoRA with 4 bits (github:hiyouga/LLaMA-Factory
    README.md, "Hardware Requirement", at commit d1a60cd8). It knows neither batch nor length.
    """
    factors = {"full": 18.0 if asked["weights"] == "fp32" else 8.0, "lora": 2.0, "qlora": 0.5}
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


def memory_rows(rows: Sequence[MeasuredRow]) -> tuple[list[MeasuredRow], int]:
    """Rows whose peak is scored, and how many were left out because the card was nearly full."""
    known = [row for row in rows if row.answerable and row.devices == 1 and row.peak_bytes]
    kept = [row for row in known if not row.saturated and _share(row) <= BENT]
    return kept, len(known) - len(kept)


def _share(row: MeasuredRow) -> float:
    return (row.peak_bytes or 0) / accelerator(row.accelerator).usable_bytes


def rate_rows(rows: Sequence[MeasuredRow]) -> list[MeasuredRow]:
    """Rows whose rate is scored: on one GPU, in tokens."""
    return [row for row in rows if row.answerable and row.devices == 1 and row.tokens_per_second]


def score(predicted: Sequence[float], measured: Sequence[float]) -> dict[str, Any]:
    """Mean and median absolute error, mean error, worst, and the share predicted more than 5 % too low."""
    errors = [guess / truth - 1.0 for guess, truth in zip(predicted, measured, strict=True)]
    if not errors:
        return {"n": 0}
    absolute = [abs(error) for error in errors]
    return {
        "n": len(errors),
        "mean_absolute_percent": round(100 * statistics.fmean(absolute), 2),
        "median_absolute_percent": round(100 * statistics.median(absolute), 2),
        "mean_percent": round(100 * statistics.fmean(errors), 2),
        "worst_percent": round(100 * max(errors, key=abs), 2),
        "under_5_percent": round(100 * sum(error < -UNDER for error in errors) / len(errors), 2),
    }


def compare(asked: Sequence[Asked], answers: Sequence[Answer], *, what: str) -> dict[str, Any]:
    """A peer's score on the rows that it answers, the project's on the same rows, and how many it does not answer."""
    pairs = [(item, answer) for item, answer in zip(asked, answers, strict=True) if _value(answer, what) is not None]
    measured = [_measured(item.row, what) for item, _ in pairs]
    reasons: dict[str, int] = {}
    for answer in answers:
        if _value(answer, what) is None:
            reason = answer.reason or "does not predict it"
            reasons[reason] = reasons.get(reason, 0) + 1
    return {
        "peer": score([_value(answer, what) or 0.0 for _, answer in pairs], measured),
        "finetree_on_the_same": score([_value(item.ours, what) or 0.0 for item, _ in pairs], measured),
        "not_answered": dict(sorted(reasons.items())),
    }


def _value(answer: Answer, what: str) -> float | None:
    return answer.peak if what == "memory" else answer.rate


def _measured(row: MeasuredRow, what: str) -> float:
    return float((row.peak_bytes if what == "memory" else row.tokens_per_second) or 0)


def tables(
    asked: Sequence[Asked], answers: dict[str, list[Answer]], *, what: str
) -> dict[str, dict[str, dict[str, Any]]]:
    """Group (source and method, and "all") to estimator to its comparison."""
    groups: dict[str, list[int]] = {"all": list(range(len(asked)))}
    for number, item in enumerate(asked):
        groups.setdefault(f"{item.row.family} {item.row.method}", []).append(number)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for group, numbers in sorted(groups.items(), key=lambda entry: (entry[0] == "all", entry[0])):
        chosen = [asked[number] for number in numbers]
        measured = [_measured(item.row, what) for item in chosen]
        ours = score([_value(item.ours, what) or 0.0 for item in chosen], measured)
        found[group] = {"finetree": {"peer": ours, "not_answered": {}}}
        for name, all_answers in answers.items():
            picked = [all_answers[number] for number in numbers]
            found[group][name] = compare(chosen, picked, what=what)
    return found


def show(title: str, table: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Print a table: n answered, mean (median) absolute % error, % under, and finetree's error on the same rows."""
    print(f"\n{title}\n{'':22} {'':22} {'n':>4} {'mean %':>8} {'median %':>9} {'under %':>8} {'ours, same rows':>16}")
    for group, columns in table.items():
        for name, entry in columns.items():
            found, same = entry["peer"], entry.get("finetree_on_the_same", {})
            if not found["n"]:
                continue
            mean, median = found["mean_absolute_percent"], found["median_absolute_percent"]
            line = f"{found['n']:4} {mean:8.1f} {median:9.1f} {found['under_5_percent']:8.1f}"
            print(f"{group:22} {name:22} {line} {same.get('mean_absolute_percent', mean):16.1f}")


def run(files: Sequence[Path], cache: Path) -> dict[str, Any]:
    """Ask everybody about everything; the result as it is written."""
    knowledge = Knowledge(prices.packaged())
    servicer = EstimatorServicer(knowledge)
    rows = [row for file in files for row in measured_rows(file)]
    scored, nearly_full = memory_rows(rows)
    result: dict[str, Any] = {
        "benchmark": "estimator peers",
        "peers": {peer.name: peer.version for peer in PEERS} | {RULE: "README at commit d1a60cd8"},
        "rows_nearly_full_card_left_out": nearly_full,
    }
    for what, chosen in (("memory", scored), ("throughput", rate_rows(rows))):
        asked = [ask_ours(row, servicer, knowledge) for row in chosen]
        answers = {peer.name: ask_peer(peer, asked, cache) for peer in PEERS}
        if what == "memory":
            answers[RULE] = [ask_rule(item.case) for item in asked]
        result[what] = tables(asked, answers, what=what)
        show(f"{what}, {len(asked)} rows", result[what])
    return result


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
