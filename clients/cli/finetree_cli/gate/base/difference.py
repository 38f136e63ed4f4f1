# SPDX-License-Identifier: Apache-2.0
"""What a change does to memory, time and cost: the jobs of two reports, paired by file.

Both ends of an interval come from the same formulas, prices and calibration on both sides, so their errors go
together: a difference is taken end by end, and is narrower than if the two intervals were independent.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetree_cli.gate.report import Change, Cost, Figures, PlanEntry, Range, Report, make_report

CHANGES: tuple[Change, ...] = ("new", "changed", "removed", "unchanged")
"""In the order in which they are listed."""
Pair = tuple[Figures | None, Figures | None]
"""What a job takes before and after the change; None where it does not exist."""


@dataclass(frozen=True, slots=True)
class Sides:
    """A sum before and after the change."""

    base: Range
    head: Range


@dataclass(frozen=True, slots=True)
class Totals:
    """Jobs by their change, and the sums of their time and cost before and after it."""

    jobs: Mapping[Change, int]
    duration_seconds: Sides | None
    """Of the jobs whose time is known on each side on which they exist; None without any."""
    cost: Mapping[str, Sides]
    """By currency, of the jobs whose cost is known on each side on which they exist; empty without any."""
    untimed: int
    """Jobs that the sum of the time leaves out."""
    unpriced: int
    """Jobs that the sums of the cost leave out."""


def compare(base: Report, head: Report, *, base_ref: str, renames: Mapping[str, str] | None = None) -> Report:
    """Return the head's report with each job's change and base, and the jobs that only the base has.

    Args:
        base: before the change.
        head: after it.
        base_ref: name of the base for people.
        renames: file in the base by file in the head, of files that have another name there.
    """
    before = {entry.file: entry for entry in base.plans}
    named = {entry.file: (renames or {}).get(entry.file, entry.file) for entry in head.plans}
    kept = set(named.values())
    plans = [_with_base(entry, before.get(named[entry.file])) for entry in head.plans]
    plans += [_removed(entry) for entry in base.plans if entry.file not in kept]
    known = head if head.plans else base
    made = make_report(plans, as_of=head.as_of, revisions=known.revisions, policy=head.policy, base_ref=base_ref)
    return dataclasses.replace(made, finetree_version=head.finetree_version)


def _with_base(entry: PlanEntry, base: PlanEntry | None) -> PlanEntry:
    if base is None:
        return dataclasses.replace(entry, change="new", base=None)
    change: Change = "unchanged" if _same(entry, base) else "changed"
    former = base.file if base.file != entry.file else ""
    return dataclasses.replace(entry, change=change, base=base.figures, former_file=former)


def _same(entry: PlanEntry, base: PlanEntry) -> bool:
    """Tell whether two files are the same job: comments, the order of keys and newer revisions alone are no change."""
    if entry.error is not None or base.error is not None:
        return (entry.error is None) == (base.error is None) and entry.file_sha256 == base.file_sha256
    return _run(entry.plan) == _run(base.plan) and entry.figures == base.figures


def _run(plan: Mapping[str, Any] | None) -> dict[str, Any]:
    return {key: value for key, value in (plan or {}).items() if key not in ("revision", "digest")}


def _removed(base: PlanEntry) -> PlanEntry:
    """Return a job that is gone: nothing of it is checked."""
    return PlanEntry(file=base.file, change="removed", verdict="PASS", passed=True, base=base.figures)


def delta(base: Range | Cost | None, head: Range | Cost | None) -> Range | None:
    """Return head - base, its ends from low to high; None where one is unknown or the currencies differ."""
    if base is None or head is None:
        return None
    if isinstance(base, Cost) and isinstance(head, Cost) and base.currency_code != head.currency_code:
        return None
    ends = (head.low - base.low, head.expected - base.expected, head.high - base.high)
    return Range(low=min(ends), expected=ends[1], high=max(ends))


def totals(report: Report) -> Totals:
    """Sum time and cost over the jobs of a compared report."""
    jobs = Counter(entry.change for entry in report.plans if entry.change is not None)
    pairs = [(entry.base, None if entry.change == "removed" else entry.figures) for entry in report.plans]
    timed = [pair for pair in pairs if all(side is None or side.duration_seconds for side in pair)]
    priced = [pair for pair in pairs if all(side is None or side.cost for side in pair)]
    currencies = sorted({side.cost.currency_code for pair in priced for side in pair if side and side.cost})
    return Totals(
        jobs={change: jobs[change] for change in CHANGES},
        duration_seconds=Sides(*(_duration(side) for side in _columns(timed))) if timed else None,
        cost={code: Sides(*(_cost(side, code) for side in _columns(priced))) for code in currencies},
        untimed=len(pairs) - len(timed),
        unpriced=len(pairs) - len(priced),
    )


def _columns(pairs: Sequence[Pair]) -> tuple[list[Figures], list[Figures]]:
    """Return what is known of the base, and of the head."""
    return [base for base, _ in pairs if base is not None], [head for _, head in pairs if head is not None]


def _duration(jobs: Iterable[Figures]) -> Range:
    return _sum(each.duration_seconds for each in jobs)


def _cost(jobs: Iterable[Figures], currency: str) -> Range:
    return _sum(each.cost for each in jobs if each.cost is not None and each.cost.currency_code == currency)


def _sum(ranges: Iterable[Range | Cost | None]) -> Range:
    known = [each for each in ranges if each is not None]
    return Range(
        low=sum(each.low for each in known),
        expected=sum(each.expected for each in known),
        high=sum(each.high for each in known),
    )
