# SPDX-License-Identifier: Apache-2.0
"""Words that the formats share."""

import json

from finetree_cli.gate.report import Cost, Patch, PlanEntry, Range, Report, Revisions
from finetree_cli.render import units


def figures(entry: PlanEntry) -> str:
    """Format memory, time and cost with their ranges: "14.2 GiB (13.1 GiB to 15.9 GiB), 2 h 5 min (…), $3.10 (…)"."""
    parts = []
    if (memory := entry.memory_bytes) is not None:
        parts.append(f"{units.size(memory.expected)} ({units.size(memory.low)} to {units.size(memory.high)})")
    if (time := entry.duration_seconds) is not None:
        parts.append(f"{units.duration(time.expected)} ({units.duration(time.low)} to {units.duration(time.high)})")
    if (cost := entry.cost) is not None:
        low, expected, high = (
            units.amount_of(amount, cost.currency_code) for amount in (cost.low, cost.expected, cost.high)
        )
        parts.append(f"{expected} ({low} to {high})")
    return ", ".join(parts)


def setting(patch: Patch) -> str:
    """Format a change as in a job file: "training.micro_batch_size: 1"."""
    return f"{patch.field_path}: {json.dumps(patch.value, ensure_ascii=False)}"


def revisions(found: Revisions) -> str:
    """Format the ids of the versions behind an answer."""
    parts = (found.engine, found.catalog, found.price_book, found.calibration)
    return ", ".join(part.id for part in parts if part is not None and part.id)


def summary(report: Report) -> str:
    """Format the verdict with the number of jobs behind it: "FAIL, 1 of 10 jobs does not pass"."""
    stopped, count = sum(not entry.passed for entry in report.plans), len(report.plans)
    if count == 1 or not stopped:
        return report.verdict
    return f"{report.verdict}, {stopped} of {count} jobs {'does' if stopped == 1 else 'do'} not pass"


def actual_lines(entry: PlanEntry) -> list[str]:
    """Format what a plan's run has taken, each beside its estimate; none before the run."""
    ran = entry.actual
    if ran is None:
        return []
    lines = [f"job {ran.job} {ran.state}"]
    measured: list[tuple[str, float | None, Range | Cost | None, units.Words]] = [
        ("memory", ran.memory_bytes, entry.memory_bytes, units.size),
        ("time", ran.duration_seconds, entry.duration_seconds, units.duration),
        ("cost", ran.cost, entry.cost, lambda amount: units.amount_of(amount, ran.currency_code)),
    ]
    for name, number, estimate, words in measured:
        if number is None:
            continue
        line = f"{name:6}  {words(number)}"
        if estimate is not None:
            inside = "within" if estimate.low <= number <= estimate.high else "outside"
            line += f", {inside} the estimate of {words(estimate.expected)}"
            line += f" ({words(estimate.low)} to {words(estimate.high)})"
        lines.append(line)
    return lines
