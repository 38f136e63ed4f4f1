# SPDX-License-Identifier: Apache-2.0
"""The method comparison as JSON, as a Markdown table, as a plot, and as observations for the estimator."""

import json
from pathlib import Path
from typing import Any

from method_plot import plot
from method_runs import (
    BATCH,
    EPOCHS,
    METHODS,
    MODEL,
    PRECISIONS,
    RATES,
    SAME_RATE,
    SETTINGS,
    Run,
    chosen_rate,
    scored_order,
    tuning_runs,
)
from method_statistics import Found, Summary, curve, held_out_loss, paces, step_median, summaries

PLAYBOOK = {"full": 100, "lora": 95, "qlora": 90, "prefix": 85, "adapter": 92}
"""Quality in percent of full fine-tuning by the playbook's table (playbook-1, "playbook L144")."""
TASKS = {
    "codes": "ISO 3166 codes of 60 countries, asked in wordings that were not taught",
    "tweets": "tweets that people rated as positive, negative or neutral",
}
HEADER = (
    "Method", "Accuracy before", "Accuracy (lowest to highest)", "Of full (95 % interval)", "Playbook, of full",
    "Learning rate", "Loss, training", "Loss, held out", "Trained", "Time", "Tokens/s", "Memory", "Artifact",
)  # fmt: skip


def write(state: Path, target: Path) -> None:
    """Write methods.json, methods.md, methods.svg and observations.jsonl; the same state gives the same bytes."""
    tuning, timed = kept(state, "tuning"), kept(state, "speed")
    scored = current(kept(state, "scored"), tuning)
    file = state / "machine.json"
    machine = json.loads(file.read_text()) if file.exists() else None
    found = summaries(scored, paces(timed))
    target.mkdir(parents=True, exist_ok=True)
    whole = json.dumps(document(found, scored, tuning, timed, machine), indent=1)
    (target / "methods.json").write_text(whole + "\n", encoding="utf-8")
    (target / "methods.md").write_text(markdown(found, scored, machine), encoding="utf-8")
    (target / "methods.svg").write_text(plot(found, TASKS, PLAYBOOK), encoding="utf-8")
    lines = [json.dumps(observation(run, machine)) for run in [*scored, *timed]]
    (target / "observations.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def kept(state: Path, purpose: str) -> list[Found]:
    """Whole runs of a purpose that the state folder holds, in the order of running; those cut short are left out."""
    files = (json.loads(file.read_text()) for file in sorted((state / "runs").glob(f"{purpose}-*.json")))
    found = [each for each in files if purpose == "speed" or not each["run"]["steps"]]
    places = {key: number for number, key in enumerate(scored_order())}
    return sorted(found, key=lambda each: places.get(_key(each["run"]), len(places)))


def current(scored: list[Found], tuning: list[Found]) -> list[Found]:
    """The runs with the rate that the tuning runs choose now; says which others are left out."""
    losses: dict[str, dict[float, float]] = {}
    for each in tuning:
        losses.setdefault(each["run"]["method"], {})[each["run"]["rate"]] = held_out_loss(each)
    chosen = {
        method: chosen_rate(losses[tuned]) for method in METHODS if (tuned := SAME_RATE.get(method, method)) in losses
    }
    for run in (each["run"] for each in scored if each["run"]["rate"] != chosen[each["run"]["method"]]):
        rate = chosen[run["method"]]
        print(
            f"left out: {'-'.join(map(str, _key(run)))}, trained with {run['rate']:g} instead of {rate:g}; train again"
        )
    return [each for each in scored if each["run"]["rate"] == chosen[each["run"]["method"]]]


def _key(run: dict[str, Any]) -> tuple[str, str, int]:
    return str(run["task"]), str(run["method"]), int(run["seed"])


def document(
    found: list[Summary], scored: list[Found], tuning: list[Found], timed: list[Found], machine: dict[str, Any] | None
) -> dict[str, Any]:
    """Everything, for programs."""
    return {
        "benchmark": "methods",
        "model": MODEL,
        "machine": machine,
        "versions": scored[0]["measured"]["versions"] if scored else {},
        "recipe": {
            "epochs": EPOCHS,
            "effective_batch_size": BATCH,
            "methods": {
                method: {"settings": SETTINGS[method], "precision": PRECISIONS.get(method, "PRECISION_BF16")}
                for method in METHODS
            },
            "learning_rates": rates(tuning),
        },
        "playbook_percent_of_full": PLAYBOOK,
        "tasks": TASKS,
        "summaries": [summary.document() for summary in found],
        "runs": [record(run) for run in [*scored, *timed]],
    }


def rates(tuning: list[Found]) -> dict[str, Any]:
    """Held-out loss of each learning rate that was tried, by method; a method that takes another's says whose."""
    known = {
        (each["run"]["method"], each["run"]["rate"]): each["measured"]["evaluations"][-1]["loss"] for each in tuning
    }
    tried = [
        {"method": run.method, "rate": run.rate, "held_out_loss": known[run.method, run.rate]}
        for run in tuning_runs()
        if (run.method, run.rate) in known
    ]
    return {
        "tried": tried,
        "taken_from": SAME_RATE,
        "considered": {name: list(listed) for name, listed in RATES.items()},
    }


def record(found: Found) -> dict[str, Any]:
    """A run for programs: everything but its steps one by one."""
    measured = {name: value for name, value in found["measured"].items() if name not in ("losses", "step_seconds")}
    run: dict[str, Any] = found["run"] | {"rows_sha256": found["rows_sha256"], "threads": found["threads"]}
    return run | measured | {"loss_curve": curve(found["measured"]["losses"])}


def markdown(found: list[Summary], scored: list[Found], machine: dict[str, Any] | None) -> str:
    """The table for people, one for each task."""
    parts = ["# The five methods on two tasks\n", _preface(scored, machine)]
    for task, about in TASKS.items():
        rows = [summary for summary in found if summary.task == task]
        if rows:
            seeds = max(len(summary.seeds) for summary in rows)
            asked = rows[0].questions // len(rows[0].seeds)
            parts.append(f"## {about[0].upper()}{about[1:]}\n\n{_counted(seeds, asked, rows[0])}\n\n{_table(rows)}")
    return "\n".join(parts)


def _counted(seeds: int, asked: int, one: Summary) -> str:
    plural = "s" if seeds > 1 else ""
    return f"{seeds} seed{plural}, {asked} held-out questions each; {one.steps} steps, {one.tokens} tokens a run."


def _preface(scored: list[Found], machine: dict[str, Any] | None) -> str:
    versions = scored[0]["measured"]["versions"] if scored else {}
    text = (
        f"SmolLM2-135M-Instruct, {EPOCHS} epochs, batch {BATCH}, written by `benchmarks/worker/methods.py report`. "
        "Accuracy is the share of held-out questions that are answered exactly, as the worker's evaluation reports it. "
        "Learning rates were chosen on the codes of other countries (methods.json has all that were tried). "
        f"Libraries: {', '.join(f'{name} {version}' for name, version in versions.items())}."
    )
    if machine is None:
        return f"{text} No speed was measured.\n"
    rate = machine["bf16_flops_per_second"] / 1e9
    return (
        f"{text} Times: {machine['model_name']}, threads: {machine['cores']}, {rate:.0f} GFLOP/s in bfloat16 and "
        f"{machine['fp32_flops_per_second'] / 1e9:.0f} in float32; steps at their median and two evaluations, without "
        "loading and saving.\n"
    )


def _table(rows: list[Summary]) -> str:
    lines = [HEADER, tuple("---" for _ in HEADER), *map(_cells, rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _cells(row: Summary) -> tuple[str, ...]:
    spread = f" ({row.accuracy_lowest:.1%} to {row.accuracy_highest:.1%})" if len(row.seeds) > 1 else ""
    pace = row.pace
    return (
        row.method,
        f"{row.accuracy_before:.1%}",
        f"{row.accuracy:.1%}{spread}",
        _of_full(row),
        f"{PLAYBOOK[row.method]} %",
        f"{row.learning_rate:g}",
        f"{row.train_loss:.3f}",
        f"{row.held_out_loss:.3f}",
        f"{row.trainable_parameters:,} ({row.trainable_share:.2%})",
        f"{row.seconds:.0f} s" if row.seconds else "-",
        f"{pace.tokens_per_second:.0f}" if pace else "-",
        f"{row.peak_bytes / 1e9:.2f} GB",
        f"{row.artifact_bytes / 1e6:.1f} MB",
    )


def _of_full(row: Summary) -> str:
    ratio = row.relative_to_full
    if row.method == "full":
        return "100 %"
    return f"{ratio.expected:.0%} ({ratio.low:.0%} to {ratio.high:.0%})" if ratio else "-"


def observation(found: Found, machine: dict[str, Any] | None) -> dict[str, Any]:
    """A run as a ReportObservationRequest in proto JSON.

    Scored runs report their memory alone: their time was nobody's. Timed ones report the median of their steps too.
    """
    run, measured = Run(**found["run"]), found["measured"]
    held_out = measured["profiles"]["evaluation"]
    spec = dict(found["spec"])
    spec["dataset"] = {"profile": measured["profiles"]["train"]}
    spec["evaluation"] = spec["evaluation"] | {"dataset": {"profile": held_out}}
    spec["hardware"] = {"cpu": _device(found, machine)}
    told: dict[str, Any] = {
        "job": f"benchmarks/methods/{run.name}",
        "attempt": 1,
        "run": {"spec": spec, "dataset_profile": measured["profiles"]["train"], "evaluation_profile": held_out},
        "device_bytes": measured["peak_bytes"],
        "steps": measured["steps"],
        "end_time": measured["end_time"],
    }
    if run.purpose == "speed":
        told["step_seconds"] = round(step_median([measured]), 4)
    return {"observation": told, "request_id": f"methods-{run.name}"}


def _device(found: Found, machine: dict[str, Any] | None) -> dict[str, Any]:
    """The machine; its rates only where they were measured with as many threads as the run had."""
    if machine is not None and machine["cores"] == found["threads"]:
        return machine
    return {"cores": found["threads"], "model_name": found["measured"]["cpu"]}
