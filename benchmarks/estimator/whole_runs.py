# SPDX-License-Identifier: Apache-2.0
"""Published hours and costs of whole fine-tunings beside what is predicted of them (whole_runs.csv).

    python benchmarks/estimator/whole_runs.py [--json OUT]

A row is a run as its source describes it: model, recipe, GPUs, rows, epochs, and where it is known the number of
tokens. `hours` is what the source says (`says`, in its own words) of the whole run. Nothing is fitted on these runs
but on those of PEFT, which are counted apart. After a first look the descriptions were set right where they did not
say what the source says (how often it saves, when its clock runs); no constant was. What a source leaves out is
assumed and said in `note`. The interval is that of the total (loading, tokenizing, training, evaluation, saving), or
of those of its `phases` alone in which the source's clock ran. Where nobody knows how long the rows are, the expected
time is that of rows at the limit and the interval reaches down to a fifth of it: such runs are counted apart, since
it is easy to be inside. The cost is that of the price book's cheapest offer, which is years younger than most of
these runs: it is shown, not scored.
"""

import argparse
import csv
import json
import statistics
from pathlib import Path
from typing import Any

from finetree_api.estimator.v1 import estimate_pb2
from finetree_api.types.v1 import training_pb2
from finetree_estimator.catalog import price_book
from finetree_estimator.spec.resolve import Knowledge
from made_runs import MadeRuns
from other_rows import request_of

TABLE = Path(__file__).with_name("whole_runs.csv")
GROUPS = ("unseen", "fitted", "row lengths unknown")
TARGET = 0.8
"""Share of the runs whose published time has to be inside the interval."""
FITTED = "github:huggingface/peft"
"""Whose runs are among those that constants were fitted on."""
ANSWER_TOKENS = 200
"""Tokens of a held-out question with its answer (GSM8K, as MetaMathQA's 210 on average); half of them the answer."""


def whole_runs(path: Path = TABLE) -> list[dict[str, str]]:
    """The rows of the table, in its order."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def request(row: dict[str, str]) -> estimate_pb2.EstimateRunRequest:
    """What EstimateRun is asked for a row. Raises KeyError (an unknown word) and ValueError (no number)."""
    prefix = row["method"] == "prefix"
    found = request_of(row | {"packing": "off", "method": "full" if prefix else row["method"]})
    if prefix:
        found.spec.prefix.virtual_tokens = int(row["virtual_tokens"])
    found.spec.training.epochs = float(row["epochs"])
    examples, tokens = int(row["examples"]), int(row["total_tokens"] or 0)
    found.dataset_profile.Clear()
    found.dataset_profile.examples = examples
    if tokens:
        found.dataset_profile.total_tokens = tokens
    found.dataset_profile.exact = tokens > 0
    # Where the source saves nothing on the way: a step that never comes.
    found.spec.checkpoints.every_steps = int(row["save_every"] or 100_000_000)
    if answers := int(row["answers"]):
        found.spec.evaluation.metrics.append(training_pb2.METRIC_EXACT_MATCH)
        found.spec.evaluation.max_new_tokens = int(row["answer_tokens"])
        found.evaluation_profile.examples = answers
        found.evaluation_profile.total_tokens = answers * ANSWER_TOKENS
    return found


def predicted(row: dict[str, str], servicer: MadeRuns) -> dict[str, Any]:
    """A run and what is predicted of it; times in hours, money in the price book's currency."""
    found = servicer.estimate(request(row))
    cost, hours = found.cost.total.amount, float(row["hours"])
    low, expected, high = (seconds / 3600 for seconds in _timed(found.time, row["phases"]))
    return {
        "run": f"{row['model']} {row['method']}, {row['devices']} x {row['accelerator']}, {row['epochs']} epochs",
        "source": row["source"],
        "locator": row["locator"],
        "says": row["says"],
        "note": row["note"],
        "group": _group(row),
        "hours": hours,
        "timed": row["phases"] or "everything",
        "predicted_hours": [round(value, 3) for value in (low, expected, high)],
        "error": round(expected / hours - 1, 3),
        "inside": low <= hours <= high,
        "usd": [float(row[end]) for end in ("usd_low", "usd_high") if row[end]],
        "predicted_usd": [round(value, 2) for value in (cost.low, cost.expected, cost.high)],
    }


def _group(row: dict[str, str]) -> str:
    if row["source"] == FITTED:
        return "fitted"
    return "unseen" if row["total_tokens"] else "row lengths unknown"


def _timed(time: estimate_pb2.TimeEstimate, phases: str) -> tuple[float, float, float]:
    """Seconds of the named phases together, of all where none is named."""
    kinds = {estimate_pb2.TimePhaseKind.Value(f"TIME_PHASE_KIND_{name.upper()}") for name in phases.split(";") if name}
    parts = [phase.seconds for phase in time.phases if phase.kind in kinds] or [time.total_seconds]
    return sum(each.low for each in parts), sum(each.expected for each in parts), sum(each.high for each in parts)


def summary(found: list[dict[str, Any]]) -> dict[str, float]:
    """How many are inside, how far the expected values are off, and how wide the intervals are."""
    errors, ends = [abs(one["error"]) for one in found], [one["predicted_hours"] for one in found]
    return {
        "runs": len(found),
        "sources": len({one["source"] for one in found}),
        "inside": round(sum(one["inside"] for one in found) / len(found), 3),
        "median_error": round(statistics.median(errors), 3),
        "mean_error": round(statistics.mean(errors), 3),
        "low_over_expected": round(statistics.mean(low / expected for low, expected, _ in ends), 2),
        "high_over_expected": round(statistics.mean(high / expected for _, expected, high in ends), 2),
    }


def main() -> int:
    """Print the table, write it where asked; 1 when too few of the runs of unseen sources are inside."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    servicer = MadeRuns(Knowledge(price_book.packaged()))
    found = [predicted(row, servicer) for row in whole_runs()]
    for one in found:
        low, expected, high = one["predicted_hours"]
        mark = " " if one["inside"] else "!"
        hours = f"{one['hours']:7.2f} h  {low:7.2f} {expected:7.2f} {high:7.2f}"
        print(f"{mark} {hours}  {one['error']:+7.1%}  {one['run']} ({one['group']})")
    groups = {name: summary([one for one in found if one["group"] == name]) for name in GROUPS}
    print(json.dumps(groups, indent=1))
    if options.json:
        body = {"target_inside": TARGET, "groups": groups, "runs": found}
        options.json.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0 if groups["unseen"]["inside"] >= TARGET else 1


if __name__ == "__main__":
    raise SystemExit(main())
