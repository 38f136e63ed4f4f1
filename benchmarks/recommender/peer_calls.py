# SPDX-License-Identifier: Apache-2.0
"""Asks one peer about the cases in a JSON file, inside that peer's own environment, and prints what it answers.

    VENV/bin/python peer_calls.py ftuneai|tuning-config-recommender CASES.json FOLDER

It imports nothing of this project.
"""

import contextlib
import dataclasses
import io
import json
import sys
from pathlib import Path
from typing import Any

FTUNE_MODELS = {"llama-3.1-8b": "meta-llama/Llama-3.1-8B", "qwen2.5-7b": "Qwen/Qwen2.5-7B"}
FTUNE_GPUS = {
    "rtx-4090": "RTX-4090-24GB",
    "rtx-4080": "RTX-4080-16GB",
    "a100-80gb": "A100-80GB",
    "a100-40gb": "A100-40GB",
}
FTUNE_PRIORITY = {"MAXIMUM": "quality", "CRITICAL": "quality"}


def ftuneai(case: dict[str, Any], folder: Path) -> dict[str, Any]:  # noqa: ARG001 - one signature for both
    """What its BudgetOptimizer puts first."""
    from ftuneai.optimizer import BudgetOptimizer  # type: ignore[import-not-found]

    model, gpu = FTUNE_MODELS.get(case["model"]), FTUNE_GPUS.get(case.get("accelerator", ""))
    missing = [f"model {case['model']}"] * (model is None)
    missing += [case.get("accelerator", "no GPU")] * (gpu is None)
    if missing:
        return {"refused": f"not in its catalog: {', '.join(missing)}"}
    found = BudgetOptimizer.optimize(
        model=model,
        gpu=gpu,
        dataset_size=case["examples"],
        budget=case.get("budget_usd_run"),
        priority="speed" if case.get("time") == "MINUTES" else FTUNE_PRIORITY.get(case.get("quality", ""), "cost"),
        seq_length=512,
    )
    if not found:
        return {"refused": "no configuration fits"}
    return {"method": found[0].method, "answer": dataclasses.asdict(found[0]), "others": len(found) - 1}


def tuning_config_recommender(case: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The patches that it makes to a LoRA configuration of a model folder."""
    from tuning_config_recommender.adapters import VanillaAdapter  # type: ignore[import-not-found]

    if case["model"] != "smollm2-135m-instruct":
        return {"refused": "needs the model's files on this machine"}
    rows = folder / "rows.jsonl"
    rows.write_text(
        "".join(f'{{"input": "Question {i}?", "output": "Answer {i}."}}\n' for i in range(case["examples"]))
    )
    changed, patches = VanillaAdapter().execute(
        tuning_config={
            "model_name_or_path": case["model_folder"],
            "training_data_path": str(rows),
            "peft_method": "lora",
        },
        compute_config={"num_nodes": 1, "num_gpus_per_node": 1, "gpu_memory_in_gb": case.get("memory_gb", 0)},
        accelerate_config={},
        data_config={"dataprocessor": {"type": "default"}, "datasets": [{"name": "rows", "data_paths": [str(rows)]}]},
        unique_tag="",
        skip_estimator=True,
    )
    settings = {key: value for key, value in changed.tuning_config.items() if "path" not in key}
    comments = [str(patch.get("comment")) for patch in patches if patch.get("comment")]
    return {"method": "lora, as it was told", "answer": settings, "comments": comments}


def main() -> None:
    """Answer every case; what the peer prints or raises is kept apart from the answer."""
    peer, cases, folder = sys.argv[1], json.loads(Path(sys.argv[2]).read_text()), Path(sys.argv[3])
    ask = {"ftuneai": ftuneai, "tuning-config-recommender": tuning_config_recommender}[peer]
    answers = []
    for case in cases:
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                answers.append(ask(case, folder))
            except Exception as error:  # noqa: BLE001 - whatever it raises is its answer
                answers.append({"refused": f"{type(error).__name__}: {str(error)[:200]}"})
    print(json.dumps(answers, default=str))


if __name__ == "__main__":
    main()
