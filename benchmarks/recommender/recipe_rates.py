# SPDX-License-Identifier: Apache-2.0
"""What the recommender's recipe learns at 135M parameters, with its own learning rates and with the base pack's.

    .venv/bin/python benchmarks/recommender/recipe_rates.py train  [--state build/recipe_rates] [--only PATTERN]
    .venv/bin/python benchmarks/recommender/recipe_rates.py report [--output benchmarks/results/recommender]

The question is the demo's: codes of ISO 3166 asked in wordings that were not taught, for 20 countries that no learning
rate was tuned on. `after` is evidence-1's recipe for it; `before` is the same recipe with the learning rates that the
pack would inherit from playbook-1, which is what evidence-1 gave before it had rates by size. `halved` shows what
halving full fine-tuning's rate for few rows would do, `float32-weights` what float32 weights in place of bfloat16 ones
do. The rest of a recipe is left as it is. The kind of task is not said: as new knowledge, LoRA would get rank 128 and
half the rate. One seed: read large differences, not small ones.

Each run is a process of its own that drives the worker's core (benchmarks/worker/method_process.py), and a file of the
state folder: a script that was stopped goes on where it was, and a run whose spec or rows changed is run again. Times
are not reported: the machine may be shared.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from finetree_api.recommender.v1 import recommendation_pb2
from finetree_recommender.estimator.values import Catalog, Model
from finetree_recommender.method import Method
from finetree_recommender.recipe.build import build
from finetree_recommender.request.inputs import normalize
from finetree_recommender.rule_pack.pack import Pack, builtin_packs, parse
from google.protobuf import json_format

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks/worker"))

from method_runs import ANSWER_TOKENS, LENGTH, MODEL  # noqa: E402
from method_tasks import Row, Rows, codes, question  # noqa: E402
from methods import State, answer, digest, write_json, write_rows  # noqa: E402

COUNTRIES, SEED = 20, 0
PARAMETERS = 134_515_008
RATE = "training.learning_rate"
VARIANTS = ("before", "after")
EXTRA = {("full", "halved"): 2e-4, ("full", "float32-weights"): 4e-4}
"""Runs beside those of the recipes, with their learning rates: what halving for few rows does, and pure bfloat16."""


def cases() -> list[tuple[str, str]]:
    """(method, variant) in the order of running."""
    methods = ("lora", "full", "adapter", "prefix")
    return [*((method, variant) for method in methods for variant in VARIANTS), *EXTRA]


@cache
def rows() -> Rows:
    """The rows about the first countries of the comparison's seed 0."""
    everything = codes(SEED)
    asked = everything.held_out[: 2 * COUNTRIES]
    names = {question(row).split("code of ")[1].split(";")[0] for row in asked}
    others = {question(row).split("code of ")[1].split(";")[0] for row in everything.held_out} - names
    return Rows([row for row in everything.train if _about(row, names, others)], asked)


def _about(row: Row, names: set[str], others: set[str]) -> bool:
    """Whether a question is about one of the names; the longest name in it counts, as Guinea is in Guinea-Bissau."""
    found = max((name for name in names | others if name in question(row)), key=len)
    return found in names


@cache
def packs() -> dict[str, Pack]:
    """evidence-1, and evidence-1 without its own recipe tables."""
    builtin = builtin_packs()
    raw = yaml.safe_load(builtin["evidence-1"].text)
    raw.pop("recipe")
    raw["remove"] = [name for name in raw.get("remove", []) if not name.startswith("recipe.")]
    before = parse(yaml.safe_dump(raw).encode(), {"playbook-1": builtin["playbook-1"]})
    return {"before": before, "after": builtin["evidence-1"]}


def spec(method: str, variant: str) -> dict[str, Any]:
    """The RunSpec of a case, in proto JSON."""
    pack = packs()["before" if variant == "before" else "after"]
    request = recommendation_pb2.RecommendRequest()
    request.model.name = MODEL
    request.hardware.cpu.cores = 2
    request.dataset_profile.examples = len(rows().train)
    request.dataset_profile.token_lengths.add(upper_bound=LENGTH, count=len(rows().train))
    json_format.ParseDict(_evaluation(), request.evaluation)
    inputs = normalize(request, pack, Catalog(models={MODEL: Model(PARAMETERS, 8192)}))
    built = build(pack, inputs, Method[method.upper()], parameters=PARAMETERS)
    found = json_format.MessageToDict(built.spec, preserving_proto_field_name=True)
    for name in ("hardware", "dataset"):
        found.pop(name, None)
    if (method, variant) in EXTRA:
        found["training"]["learning_rate"] = EXTRA[method, variant]
    if variant == "float32-weights":
        found["precision"] = "PRECISION_BF16_MIXED"
    return found


def _evaluation() -> dict[str, Any]:
    return {"metrics": ["METRIC_LOSS", "METRIC_EXACT_MATCH"], "max_new_tokens": ANSWER_TOKENS}


def measured(state: Path, models: Path, threads: int, method: str, variant: str) -> dict[str, Any]:
    """The result of a case, which is trained unless that was done with the same spec and rows before."""
    file = state / f"{method}-{variant}.json"
    identity = {
        "method": method,
        "variant": variant,
        "spec": spec(method, variant),
        "rows_sha256": digest(rows().train + rows().held_out),
    }
    known = json.loads(file.read_text()) if file.exists() else None
    if known is not None and all(known[key] == value for key, value in identity.items()):
        found: dict[str, Any] = known
        return found
    with tempfile.TemporaryDirectory(prefix="recipe-rates-") as name:
        folder = Path(name)
        write_rows(folder / "train.jsonl", rows().train)
        write_rows(folder / "held_out.jsonl", rows().held_out)
        case = {"spec": identity["spec"], "threads": threads, "model_dir": str(models / MODEL)}
        write_json(folder / "case.json", case)
        found = identity | {"threads": threads, "measured": answer("train", str(folder))}
    write_json(file, found)
    return found


def line(found: dict[str, Any]) -> str:
    """A case in a line."""
    last = found["measured"]["evaluations"][-1]
    rate = found["spec"]["training"]["learning_rate"]
    return f"{found['method']:8} {found['variant']:8} {rate:8g} {last['exact_match']:7.1%} {last['loss']:8.4f}"


def report(state: Path) -> dict[str, Any]:
    """Everything that was measured, as one document."""
    files = [state / f"{method}-{variant}.json" for method, variant in cases()]
    found = [json.loads(file.read_text()) for file in files if file.exists()]
    if not found:
        sys.exit("nothing was measured yet")
    return {
        "benchmark": "recipe_rates",
        "model": MODEL,
        "task": f"ISO 3166 codes of {COUNTRIES} countries, asked in wordings that were not taught",
        "rows": len(rows().train),
        "questions": len(rows().held_out),
        "seeds": 1,
        "machine": {"model_name": found[-1]["measured"]["cpu"], "threads": found[-1]["threads"]},
        "versions": found[-1]["measured"]["versions"],
        "cases": list(_entries(found)),
    }


def _entries(found: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for item in found:
        last = item["measured"]["evaluations"][-1]
        training = item["spec"]["training"]
        yield {
            "method": item["method"],
            "variant": item["variant"],
            "learning_rate": training["learning_rate"],
            "effective_batch_size": int(training["effective_batch_size"]),
            "epochs": training["epochs"],
            "precision": item["spec"]["precision"],
            "settings": item["spec"][item["method"]],
            "steps": item["measured"]["steps"],
            "accuracy": round(last["exact_match"], 4),
            "held_out_loss": round(last["loss"], 4),
            "train_loss_last": round(item["measured"]["losses"][-1], 4),
        }


def main() -> None:
    """Do what was asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=["train", "report"])
    parser.add_argument("--state", type=Path, default=ROOT / "build/recipe_rates")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", action="append", default=[], help="pattern of cases, as lora-*")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/recommender")
    options = parser.parse_args()
    if options.what == "report":
        write_json(options.output / "recipe_rates.json", report(options.state))
        return
    models = State(options.state, options.threads).models
    if not (models / MODEL / "model.safetensors").exists():
        answer("prepare", str(models), MODEL)
    for method, variant in cases():
        if any(fnmatchcase(f"{method}-{variant}", pattern) for pattern in options.only or ["*"]):
            print(line(measured(options.state, models, options.threads, method, variant)), flush=True)


if __name__ == "__main__":
    main()
