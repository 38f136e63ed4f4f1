# SPDX-License-Identifier: Apache-2.0
"""Scores of estimators on published numbers, each beside this project's on the same ones, as tables."""

import statistics
from collections.abc import Sequence
from typing import Any

from peer_cases import Answer, Asked

UNDER = 0.05
"""An estimate that is this share below the measurement is an under-prediction."""
Table = dict[str, dict[str, dict[str, Any]]]
"""Group to estimator to its comparison."""


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
    measured = [item.measured for item, _ in pairs]
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


def tables(asked: Sequence[Asked], answers: dict[str, list[Answer]], *, what: str) -> Table:
    """Every group of the rows, and "all", last, with every estimator's comparison."""
    groups: dict[str, list[int]] = {"all": list(range(len(asked)))}
    for number, item in enumerate(asked):
        for group in item.groups:
            groups.setdefault(group, []).append(number)
    found: Table = {}
    for group, numbers in sorted(groups.items(), key=lambda entry: (entry[0] == "all", entry[0])):
        chosen = [asked[number] for number in numbers]
        ours = score([_value(item.ours, what) or 0.0 for item in chosen], [item.measured for item in chosen])
        found[group] = {"finetree": {"peer": ours, "not_answered": {}}}
        for name, all_answers in answers.items():
            found[group][name] = compare(chosen, [all_answers[number] for number in numbers], what=what)
    return found


def show(title: str, table: Table) -> None:
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
