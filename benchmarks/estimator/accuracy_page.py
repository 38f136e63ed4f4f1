# SPDX-License-Identifier: Apache-2.0
"""Write the tables of docs/accuracy.md from the committed results.

    python benchmarks/estimator/accuracy_page.py

Each table stands between `<!-- begin NAME -->` and `<!-- end NAME -->`; what is written by hand around them stays.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/accuracy.md"
RESULTS = ROOT / "benchmarks/results/estimator"
TABLES = {
    "other_rows": "the first eleven sources; formulas grew with them",
    "fresh_rows": "eight sources",
    "later_rows": "five sources, one device",
    "sharded_rows": "fourteen sources, most on several devices",
    "unseen_rows": "26 sources, half on several devices",
    "speed_rows": "fifteen sources of speeds",
}
"""What each table of published runs holds (benchmarks/estimator/<name>.csv)."""


def page(text: str) -> str:
    """The page with each table as the results have it now."""
    for name, lines in BLOCKS.items():
        begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"docs/accuracy.md has no block {name!r}, or several")
        before, _, rest = text.partition(begin)
        after = rest.partition(end)[2]
        text = "".join((before, begin, *(f"{line}\n" for line in lines()), end, after))
    return text


def _result(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.0995 else f"{100 * share:.1f} %"


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _head(*cells: str) -> list[str]:
    return [_row(*cells), _row(*("---" for _ in cells))]


def fitted() -> Iterator[str]:
    """Errors on the rows that constants were fitted on, and on the source that was kept for a check."""
    found = _result("accuracy")
    yield from _head("rows", "quantity", "number", "mean error", "median error", "above the upper end")
    # LitGPT's rows say nothing of their lengths, which a speed depends on.
    for part, quantity in (("fit", "memory"), ("fit", "speed"), ("validation", "memory")):
        one, words = found[part][f"{quantity} · all"], "fitted on" if part == "fit" else "LitGPT, not fitted on"
        errors = _percent(one["mean_absolute_error"]), _percent(one["median_absolute_error"])
        yield _row(words, quantity, one["rows"], *errors, _percent(one["above_high"]))


def _others(quantity: str, last: str) -> Iterator[str]:
    found, first = _result("other_sources"), _result("first_looks")
    for name, words in TABLES.items():
        one = found[name]["tables"].get(f"{quantity} · all")
        if not one:
            continue
        then = first.get(name, {}).get(quantity)
        look = ", ".join(_percent(then[key]) for key in ("mean", "median", last)) if then else ""
        errors = one["mean_absolute_error"], one["median_absolute_error"], one[last]
        yield _row(f"`{name}`: {words}", one["rows"], look, *map(_percent, errors))


def memory() -> Iterator[str]:
    """Errors of peaks of sources that no expected value was fitted on."""
    yield from _head(
        "table", "peaks", "first look: mean, median, above", "mean now", "median now", "above the upper end"
    )
    yield from _others("memory", "above_high")
    found = _result("other_sources")["all"]
    every, sources = found["memory"], found["sources"]
    errors = every["mean_absolute_error"], every["median_absolute_error"], every["above_high"]
    yield _row(f"**all {sources} sources**", every["rows"], "", *map(_percent, errors))


def speed() -> Iterator[str]:
    """Errors of speeds of sources that no expected value was fitted on."""
    head = ("table", "speeds", "first look: mean, median, inside", "mean now", "median now", "inside the interval")
    yield from _head(*head)
    yield from _others("speed", "inside")


def peers() -> Iterator[str]:
    """Other tools on those rows, each beside this one on the rows that it answers."""
    found = _result("peers")["elsewhere"]
    yield from _head("tool", "rows", "answered", "mean and median error", "this estimator on the same")
    for quantity, rows in (("memory", "one card"), ("memory", "several cards"), ("throughput", "all")):
        asked = found[quantity][rows]["finetree"]["peer"]["n"]
        others = {name: each for name, each in found[quantity][rows].items() if name != "finetree"}
        for name, each in sorted(others.items(), key=lambda item: -item[1]["peer"]["n"]):
            if each["peer"]["n"] < asked / 4:
                continue
            theirs, ours = (
                f"{one['mean_absolute_percent']:.0f} %, {one['median_absolute_percent']:.0f} %"
                for one in (each["peer"], each["finetree_on_the_same"])
            )
            words = "speeds" if quantity == "throughput" else f"peaks, {rows.replace('card', 'device')}"
            yield _row(name, words, f"{each['peer']['n']} of {asked}", theirs, ours)


def limits() -> Iterator[str]:
    """How many published limits the verdict is right about."""
    found = _result("published_limits")
    tight = sum(one["verdict"] == "TIGHT" and not one["ran"] for one in found["answers"])
    right = f"Of {found['rows']} published limits {found['right']} verdicts are right."
    yield f"{right} Of the others {tight} say TIGHT of a run that failed."


def whole_runs() -> Iterator[str]:
    """Published hours of whole runs against the answer's total."""
    yield from _head("runs", "number", "inside the interval", "median error", "interval in units of expected")
    for name, one in _result("whole_runs")["groups"].items():
        width = f"{one['low_over_expected']:.1f} to {one['high_over_expected']:.1f}"
        yield _row(name, one["runs"], _percent(one["inside"]), _percent(one["median_error"]), width)


BLOCKS: dict[str, Callable[[], Iterable[str]]] = {
    "fitted": fitted,
    "memory": memory,
    "speed": speed,
    "peers": peers,
    "limits": limits,
    "whole-runs": whole_runs,
}
"""The tables of the page, by the name of their block."""

if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
