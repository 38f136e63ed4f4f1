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
    everything = result("estimator/peers.json", "elsewhere", "memory", "all")
    ours = everything.pop("finetree")["peer"]
    most = {name: each for name, each in everything.items() if each["peer"]["n"] > ours["n"] / 2}
    best = min(most.values(), key=lambda each: each["peer"]["mean_absolute_percent"])
    off = percent(ours["mean_absolute_percent"] / 100)
    yield f"On the {ours['n']} of all these that are of one card it is {off} off"
    theirs, same = best["peer"], best["finetree_on_the_same"]
    yield (
        f"the best other open tool answers {theirs['n']} of them, {percent(theirs['mean_absolute_percent'] / 100)} off "
        f"where it is {percent(same['mean_absolute_percent'] / 100)}"
    )


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


def compared_in_full():
    """What the page on estimates says of three of them: peer, our figure on the same rows."""
    for what, name in (("memory", "fitcheck-llm"), ("memory", "alloc"), ("throughput", "ftuneai")):
        found = result("estimator/peers.json", "elsewhere", what, "all", name)
        theirs, ours = found["peer"], found["finetree_on_the_same"]
        means, middles = (
            [percent(each[f"{kind}_absolute_percent"] / 100) for each in (theirs, ours)] for kind in ("mean", "median")
        )
        yield (
            f"{name}, answers {theirs['n']}" if name == "fitcheck-llm" else f"{name} answers {theirs['n']}",
            f"{means[0]} off on average, {middles[0]} in the median, where this one is {means[1]} and {middles[1]}",
        )


@pytest.mark.parametrize("words", [words for pair in compared_in_full() for words in pair])
def test_a_figure_of_the_page_on_estimates_is_the_measured_one(words):
    assert words in ESTIMATES


@pytest.mark.parametrize("words", [*estimated(), *compared(), *recommended(), *trained()])
def test_a_figure_of_the_readme_is_the_measured_one(words):
    assert words in README
