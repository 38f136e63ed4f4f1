# SPDX-License-Identifier: Apache-2.0
"""The README's figures are those of the results that are committed: whoever measures anew writes them anew."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
README, ESTIMATES = (
    re.sub(r"\s+", " ", (ROOT / name).read_text(encoding="utf-8")) for name in ("README.md", "docs/estimates.md")
)
RESULTS = ROOT / "benchmarks/results"


def result(name: str, *keys: str) -> Any:
    """A part of a result that is committed."""
    found = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    for key in keys:
        found = found[key]
    return found


def percent(share, digits=0):
    """A share as the README has it."""
    return f"{100 * share:.{digits}f} %"


def estimated():
    """What the README says of the estimator's accuracy."""
    fit, other = (
        result("estimator/accuracy.json", "fit"),
        result("estimator/other_sources.json", "other_rows", "tables"),
    )
    checked = result("estimator/accuracy.json", "validation", "memory · all")
    memory, fast = fit["memory · all"], other["speed · all"]
    assert checked["above_high"] == memory["above_high"] == 0.0
    assert fast["inside"] == 1.0
    yield f"On {memory['rows']} published peaks"
    yield f"memory is {percent(memory['mean_absolute_error'], 1)} off on average"
    yield f"on {checked['rows']} of another source {percent(checked['mean_absolute_error'], 1)}, none above"
    everything = other["memory · all"]
    yield f"On {everything['rows']} peaks of eleven more sources"
    yield f"it is {percent(everything['mean_absolute_error'])} off, {percent(everything['median_absolute_error'])} in"
    speed = fit["speed · all"]
    yield f"{percent(speed['median_absolute_error'])} off in the median on {speed['rows']} fitted runs"
    yield f"{percent(fast['median_absolute_error'])} on {fast['rows']} of other sources"


def compared():
    """What it says of other estimators on rows that nobody fitted on: of those that answer most, the closest."""
    everything = result("estimator/peers.json", "elsewhere", "memory", "one card")
    ours = everything.pop("finetree")["peer"]
    most = {name: each for name, each in everything.items() if each["peer"]["n"] > ours["n"] / 2}
    best = min(most.values(), key=lambda each: each["peer"]["mean_absolute_percent"])
    (off, _), (theirs, same) = errors(ours, ours), errors(best["peer"], best["finetree_on_the_same"])
    yield f"On the {ours['n']} of all these that are of one card it is {off[0]} off"
    yield f"the best other open tool answers {best['peer']['n']} of them, {theirs[0]} off where it is {same[0]}"


def errors(*scores: dict[str, float]) -> list[list[str]]:
    """Mean and median error of each score."""
    return [[percent(each[f"{kind}_absolute_percent"] / 100) for kind in ("mean", "median")] for each in scores]


def recommended():
    """What it says of the recommender's speed."""
    milliseconds = result("recommender/speed.json", "with_estimator", "new", "p50_ms")
    yield f"with its prices takes {milliseconds:.0f} ms in the median"


def trained():
    """What it says of the worker's speed beside other trainers."""
    methods = {each["method"]: each for each in result("worker/against_trl.json", "methods")}
    assert all(each["same_curve"] for name, each in methods.items() if name != "adapter")  # which claims no loss
    ratio = {name: f"{each['ratio']:.2f}" for name, each in methods.items()}
    yield f"LoRA trains {ratio['lora']} times as many tokens"
    yield f"QLoRA {ratio['qlora']}, prefix tuning {ratio['prefix']} and full fine-tuning {ratio['full']} times"
    yield f"adapter layers {ratio['adapter']} times"


COMPARED = (
    ("memory", "one card", "fitcheck-llm"),
    ("memory", "one card", "alloc"),
    ("memory", "several cards", "ftuneai"),
    ("throughput", "all", "ftuneai"),
)
"""Whom the page on estimates compares, and on what."""


def compared_in_full():
    """What it says of them, and of the project on the same rows."""
    for what, rows, name in COMPARED:
        found = result("estimator/peers.json", "elsewhere", what, rows, name)
        theirs, ours = errors(found["peer"], found["finetree_on_the_same"])
        yield f"answers {found['peer']['n']}"
        yield f"{theirs[0]} off on average, {theirs[1]} in the median, where this one is {ours[0]} and {ours[1]}"


@pytest.mark.parametrize("words", [*compared_in_full()])
def test_a_figure_of_the_page_on_estimates_is_the_measured_one(words):
    assert words in ESTIMATES


@pytest.mark.parametrize("words", [*estimated(), *compared(), *recommended(), *trained()])
def test_a_figure_of_the_readme_is_the_measured_one(words):
    assert words in README
