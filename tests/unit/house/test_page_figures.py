# SPDX-License-Identifier: Apache-2.0
"""Figures in docs/ are those of the committed results."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
RESULTS_PAGE, ACCURACY, ESTIMATES = (
    re.sub(r"\s+", " ", (ROOT / name).read_text(encoding="utf-8"))
    for name in ("docs/results.md", "docs/accuracy.md", "docs/estimates.md")
)
RESULTS = ROOT / "benchmarks/results"


def result(name: str, *keys: str) -> Any:
    """A part of a result that is committed."""
    found = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    for key in keys:
        found = found[key]
    return found


def percent(share, digits=0):
    """A share as the pages have it."""
    return f"{100 * share:.{digits}f} %"


def estimated():
    """The estimator's accuracy."""
    fit, other = result("estimator/accuracy.json", "fit"), result("estimator/other_sources.json")
    checked = result("estimator/accuracy.json", "validation", "memory · all")
    memory, speed, fast = fit["memory · all"], fit["speed · all"], other["other_rows"]["tables"]["speed · all"]
    assert checked["above_high"] == memory["above_high"] == 0.0
    yield f"On {memory['rows']} published peaks"
    yield f"memory is {percent(memory['mean_absolute_error'])} off on average"
    yield f"on {checked['rows']} of another source {percent(checked['mean_absolute_error'], 1)}, none above"
    every = other["all"]["memory"]
    yield f"On {every['rows']} peaks of {other['all']['sources']} more sources, which formulas were mended by"
    yield f"it is {percent(every['mean_absolute_error'])} off, {percent(every['median_absolute_error'])} in the median"
    yield f"{percent(speed['median_absolute_error'])} off in the median on {speed['rows']} fitted runs"
    yield f"{percent(fast['median_absolute_error'])} on {fast['rows']} of other sources"


def tabled():
    """The rows of the page on accuracy that say how far the estimator is off now."""
    other = result("estimator/other_sources.json")
    for name, found in other.items():
        if "tables" not in found:
            continue
        for kind, last in (("memory", "above_high"), ("speed", "inside")):
            one = found["tables"].get(f"{kind} · all")
            if one is not None:
                errors = ", ".join(f"{100 * one[f'{key}_absolute_error']:.1f}" for key in ("mean", "median"))
                yield f"{errors}, {100 * one[last]:.{1 if kind == 'memory' else 0}f} % |"
        assert f"| `{name}.csv`" in ACCURACY
    every = other["all"]["memory"]
    errors = ", ".join(f"{100 * every[f'{key}_absolute_error']:.1f}" for key in ("mean", "median"))
    yield f"| all: {every['rows']} peaks |"
    yield f"of {other['all']['sources']} | | {errors}, {100 * every['above_high']:.1f} % |"
    limits = result("estimator/published_limits.json")
    yield f"asks about {limits['rows']} published limits"
    yield f"{limits['right']} verdicts are right"


def compared():
    """Other estimators on rows that nobody fitted on: of those that answer most, the closest."""
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
    """The recommender's speed."""
    milliseconds = result("recommender/speed.json", "with_estimator", "new", "p50_ms")
    yield f"with its prices takes {milliseconds:.0f} ms in the median"


def trained():
    """The worker's speed beside other trainers."""
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
"""Whom the page on accuracy compares, and on what."""


def compared_in_full():
    """What it says of them, and of the project on the same rows."""
    for what, rows, name in COMPARED:
        found = result("estimator/peers.json", "elsewhere", what, rows, name)
        theirs, ours = errors(found["peer"], found["finetree_on_the_same"])
        yield f"answers {found['peer']['n']}"
        yield f"{theirs[0]} off on average, {theirs[1]} in the median, where this one is {ours[0]} and {ours[1]}"


@pytest.mark.parametrize("words", [*compared_in_full(), *tabled()])
def test_a_figure_of_the_page_on_accuracy_is_the_measured_one(words):
    assert words in ACCURACY


def test_the_page_on_estimates_says_the_same():
    every = result("estimator/other_sources.json", "all")
    memory, words = every["memory"], "on which no value was fitted, memory is"
    off, median = percent(memory["mean_absolute_error"]), percent(memory["median_absolute_error"])

    assert f"On {memory['rows']} published peaks of {every['sources']} sources {words} {off} off" in ESTIMATES
    assert f"off on average and {median} in the median" in ESTIMATES


@pytest.mark.parametrize("words", [*estimated(), *compared(), *recommended(), *trained()])
def test_a_figure_of_the_page_on_results_is_the_measured_one(words):
    assert words in RESULTS_PAGE
