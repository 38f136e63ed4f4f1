# SPDX-License-Identifier: Apache-2.0
"""What other recommenders answer to the same questions, and what each leaves out.

    python benchmarks/recommender/peers.py [--output benchmarks/results/recommender/peers.json] [--folder FOLDER]

Peers are installed from the package index, each into an environment of its own below FOLDER (kept, and used again):
ftuneai (its BudgetOptimizer) and tuning-config-recommender (its rule engine, without its estimator, which downloads a
model). ado-autoconf installs too, but trains its classifier on a dataset of a hub at its first use; where no hub is to
be had it cannot answer, and it chooses a number of GPUs, not a method. Ours is asked through the one-shot program.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PEERS = {"ftuneai": "ftuneai==0.4.1", "tuning-config-recommender": "tuning-config-recommender==0.1.7"}
OVERRIDES = "setuptools>=77\n"
"""One peer pins a setuptools that torch, which it needs too, no longer takes."""
UV = Path(__file__).resolve().parents[2] / ".bootstrap/bin/uv"

CASES: list[dict[str, Any]] = [
    {"name": "8B on a 4090", "model": "llama-3.1-8b", "accelerator": "rtx-4090", "memory_gb": 24, "examples": 5000},
    {"name": "7B on 16 GB", "model": "qwen2.5-7b", "accelerator": "rtx-4080", "memory_gb": 16, "examples": 500},
    {"name": "7B on 8 GB", "model": "qwen2.5-7b", "accelerator": "gtx-1080", "memory_gb": 8, "examples": 1000},
    {
        "name": "7B on an A100, highest quality",
        "model": "qwen2.5-7b",
        "accelerator": "a100-80gb",
        "memory_gb": 80,
        "examples": 20000,
        "quality": "MAXIMUM",
        "budget_usd_month": 10000,
    },
    {
        "name": "8B on a 4090, in minutes, for 5 USD, at the highest quality",
        "model": "llama-3.1-8b",
        "accelerator": "rtx-4090",
        "memory_gb": 24,
        "examples": 5000,
        "quality": "MAXIMUM",
        "time": "MINUTES",
        "budget_usd_run": 5,
    },
    {
        "name": "7B on an A100, many tasks",
        "model": "qwen2.5-7b",
        "accelerator": "a100-40gb",
        "memory_gb": 40,
        "examples": 5000,
        "tasks": "MANY_DIFFERENT",
    },
    {"name": "135M without a GPU", "model": "smollm2-135m-instruct", "cpu": True, "examples": 500},
    {
        "name": "135M on a 4090",
        "model": "smollm2-135m-instruct",
        "accelerator": "rtx-4090",
        "memory_gb": 24,
        "examples": 500,
    },
]
"""Situations of the playbook and of people who ask in forums."""

PREFIXES = {"quality": "QUALITY_NEED", "time": "TIME_NEED", "tasks": "TASK_VARIETY"}


def request_of(case: dict[str, Any]) -> dict[str, Any]:
    """A case as our RecommendRequest."""
    request: dict[str, Any] = {
        "model": {"name": case["model"]},
        "hardware": {"cpu": {"cores": 8, "memory_bytes": 16 << 30}}
        if case.get("cpu")
        else {"accelerator": case["accelerator"]},
        "dataset_profile": {"examples": case["examples"], "total_tokens": 250 * case["examples"]},
        "ownership": {"rented": {}},
    }
    request |= {
        f"budget_per_{period}": {"currency_code": "USD", "units": case[f"budget_usd_{period}"]}
        for period in ("month", "run")
        if f"budget_usd_{period}" in case
    }
    return request | {name: f"{prefix}_{case[name]}" for name, prefix in PREFIXES.items() if name in case}


def ours(cases: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Our answers, from the program that needs no server."""
    command = [sys.executable, "-P", "-m", "finetree_recommender", "--once"]
    answers = []
    for case in cases:
        done = subprocess.run(command, input=json.dumps(request_of(case)), capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"ours, {case['name']}: {done.stdout[:300]} {done.stderr[:300]}")
        answers.append(json.loads(done.stdout))
    return answers


def peer(name: str, cases: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """A peer's answers, from an environment of its own."""
    home = folder / name
    python = home / "bin/python"
    with tempfile.TemporaryDirectory() as scratch:
        if not python.is_file():
            overrides = Path(scratch) / "overrides.txt"
            overrides.write_text(OVERRIDES, encoding="utf-8")
            subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, home], check=True)
            install = [UV, "pip", "install", "--quiet", "--python", python, "--overrides", overrides, PEERS[name]]
            subprocess.run(install, check=True)
        asked = Path(scratch) / "cases.json"
        asked.write_text(json.dumps(cases), encoding="utf-8")
        script = Path(__file__).with_name("peer_calls.py")
        done = subprocess.run([python, script, name, asked, scratch], capture_output=True, text=True, check=True)
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


def summary_of_ours(reply: dict[str, Any]) -> dict[str, Any]:
    """What our answer holds, counted in the answer itself."""
    sources = reply.get("setting_sources", [])
    methods = reply.get("methods", [])
    return {
        "method": reply["verdict"].get("method", "METHOD_UNSPECIFIED").removeprefix("METHOD_").lower(),
        "headline": reply["verdict"]["headline"],
        "methods with a verdict and reasons": sum(bool(item.get("reasons")) for item in methods),
        "settings": len(sources),
        "settings with a source": sum("provenance" in item for item in sources),
        "settings with a range": sum("min" in item for item in sources),
        "intervals of memory, time and cost": sum(
            name in item for item in methods for name in ("device_bytes", "total_seconds", "cost_usd")
        ),
        "trace steps": len(reply.get("trace", [])),
        "changes that would change the verdict": len(reply.get("counterfactuals", [])),
        "cautions": [item["code"] for item in reply.get("cautions", [])],
        "confidence": reply.get("confidence", {}).get("level", ""),
        "other packs": len(reply.get("other_packs", [])),
    }


def summary_of_peer(answer: dict[str, Any]) -> dict[str, Any]:
    """What a peer's answer holds, counted in the same way."""
    if "refused" in answer:
        return answer
    return {
        "method": answer["method"],
        "methods with a verdict and reasons": 0,
        "settings": len(answer["answer"]),
        "settings with a source": 0,
        "settings with a comment": len(answer.get("comments", [])),
        "settings with a range": 0,
        "intervals of memory, time and cost": 0,
        "point estimates": [name for name in answer["answer"] if name.startswith("estimated_")],
        "further configurations": answer.get("others", 0),
        "trace steps": 0,
        "changes that would change the verdict": 0,
        "confidence": "",
        "answer": answer["answer"],
    }


def main() -> None:
    """Ask all, print the methods beside each other, and write everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="write the answers as JSON")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "finetree-peers")
    parser.add_argument(
        "--model-folder", default="", help="a folder with SmolLM2-135M-Instruct, for the peer that reads one"
    )
    options = parser.parse_args()
    cases = [case | {"model_folder": options.model_folder} for case in CASES]
    found = {"finetree": list(map(summary_of_ours, ours(cases)))}
    for name in PEERS:
        found[name] = list(map(summary_of_peer, peer(name, cases, options.folder)))
    rows = [
        {"case": case["name"], "asked": request_of(case)} | {name: answers[number] for name, answers in found.items()}
        for number, case in enumerate(CASES)
    ]
    for row in rows:
        said = [f"{name}: {row[name].get('method') or row[name]['refused']}" for name in found]
        print(f"{row['case']:60}  {'  |  '.join(said)}")
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"peers": PEERS, "cases": rows}, indent=1, ensure_ascii=False)
        options.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
