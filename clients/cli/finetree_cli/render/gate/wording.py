# SPDX-License-Identifier: Apache-2.0
"""Words that every format shares: figures with their ranges, signed differences, findings with their fixes."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from finetree_cli.gate.base.difference import CHANGES, Totals, delta, totals
from finetree_cli.gate.report import (
    WORST_FIRST,
    CheckResult,
    Cost,
    Figures,
    Patch,
    PlanEntry,
    Problem,
    Range,
    Report,
    Revisions,
)
from finetree_cli.render import units

UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Measure:
    """One of the figures that are compared: how it is called, read and written."""

    name: str
    of: Callable[[Figures], Range | Cost | None]
    words: Callable[[float, str], str]
    """Formats a number; the second argument is the currency of an amount."""


MEASURES = (
    Measure("memory", lambda figures: figures.memory_bytes, lambda number, _: units.size(number)),
    Measure("time", lambda figures: figures.duration_seconds, lambda number, _: units.duration(number)),
    Measure("cost", lambda figures: figures.cost, units.amount_of),
)
"""Memory of a device, time and cost, in the order of the columns."""


@dataclass(frozen=True, slots=True)
class Line:
    """A figure of a job, and what the change does to it."""

    name: str
    value: str
    """Expected value and range after the change; before it, for a removed job."""
    change: str
    """Signed difference with its range; "" where nothing is compared."""


def currency(figure: Range | Cost | None) -> str:
    """Return the currency of an amount; "" of anything else."""
    return figure.currency_code if isinstance(figure, Cost) else ""


def spread(figure: Range | Cost, words: Callable[[float, str], str], code: str = "") -> str:
    """Format a number with its range: "14.20 GiB (13.10 GiB to 15.90 GiB)"; without one where both ends look alike."""
    code = code or currency(figure)
    low, expected, high = (words(number, code) for number in (figure.low, figure.expected, figure.high))
    return expected if low == expected == high else f"{expected} ({low} to {high})"


def signed(number: float, words: Callable[[float, str], str], code: str = "") -> str:
    """Format a difference: "+4.70 GiB", "-$12.40"; "±0" for none."""
    if number == 0:
        return "±0"
    return f"{'+' if number > 0 else '-'}{words(abs(number), code)}"


def signed_spread(base: Range | Cost, head: Range | Cost, words: Callable[[float, str], str], code: str = "") -> str:
    """Format what a change does to a number: "+4.70 GiB, +33 % (+3.90 GiB to +5.80 GiB)"."""
    found = delta(base, head)
    if found is None:
        return f"was {spread(base, words)}"
    low, expected, high = (signed(number, words, code) for number in (found.low, found.expected, found.high))
    percent = 100 * found.expected / base.expected if base.expected else 0.0
    share = f", {percent:+.0f} %" if round(percent) else ""
    return f"{expected}{share}" if low == expected == high else f"{expected}{share} ({low} to {high})"


def change_of(entry: PlanEntry, former: Callable[[str], str]) -> str:
    """Return a job's change, with its former name as `former` writes it: "changed, was a.yaml"; "" without a base."""
    return f"{entry.change or ''}, was {former(entry.former_file)}" if entry.former_file else entry.change or ""


def lines(entry: PlanEntry) -> list[Line]:
    """Return memory, time and cost of a job, each with what the change does to it."""
    found = []
    for measure in MEASURES:
        before = measure.of(entry.base) if entry.base is not None else None
        after = measure.of(entry.figures)
        shown = before if entry.change == "removed" else after
        value = spread(shown, measure.words) if shown is not None else UNKNOWN
        if isinstance(after, Cost) and shown is after and entry.price is not None:
            value += ", rented"
        found.append(Line(measure.name, value, _change(measure, entry, before, after)))
    return found


def _change(measure: Measure, entry: PlanEntry, before: Range | Cost | None, after: Range | Cost | None) -> str:
    if entry.change != "changed" or (before is None and after is None):
        return entry.change if entry.change in ("new", "removed") else ""
    if before is None:
        return "was unknown"
    if after is None:
        return f"was {spread(before, measure.words)}"
    return signed_spread(before, after, measure.words, currency(after))


def data(entry: PlanEntry) -> str:
    """Say of which rows the figures are: "100 rows, about 2,090 tokens, 14% of them learned, from t.csv".

    "" where their number is unknown.
    """
    found = entry.profile
    if found is None:
        return ""
    parts = [f"{found.examples:,} {'row' if found.examples == 1 else 'rows'}"]
    if found.total_tokens is not None:
        parts.append(f"{'' if found.exact else 'about '}{found.total_tokens:,} tokens")
    if found.target_fraction is not None:
        parts.append(f"{found.target_fraction:.0%} of them learned")
    return ", ".join(
        [*parts, f"from the {found.source}" if found.source in ("job", "options") else f"from {found.source}"]
    )


@dataclass(frozen=True, slots=True)
class ActualLine:
    """A figure of a finished run beside its estimate."""

    name: str
    actual: str
    """What was measured, and whether the estimate's range holds it."""
    estimate: str


def actual_lines(entry: PlanEntry) -> list[ActualLine]:
    """Return memory, time and cost of a plan's finished run beside what was estimated; none without a run."""
    ran = entry.actual
    if ran is None:
        return []
    measured = (ran.memory_bytes, ran.duration_seconds, ran.cost)
    found = []
    for measure, number in zip(MEASURES, measured, strict=True):
        figure = measure.of(entry.figures)
        estimate = spread(figure, measure.words) if figure is not None else UNKNOWN
        code = ran.currency_code if measure.name == "cost" else ""
        comparable = figure is not None and code == currency(figure)
        held = _held(number, figure) if number is not None and comparable and figure is not None else ""
        found.append(ActualLine(measure.name, _measured(number, measure, code) + held, estimate))
    return found


def _measured(number: float | None, measure: Measure, code: str) -> str:
    return "not measured" if number is None else measure.words(number, code)


def _held(number: float, figure: Range | Cost) -> str:
    if figure.low <= number <= figure.high:
        return " (within the range)"
    return " (below the range)" if number < figure.low else " (above the range)"


def total_lines(report: Report) -> list[str]:
    """Return what the change does to all jobs together: counts, then time and cost before and after."""
    found = totals(report)
    counts = ", ".join(f"{found.jobs[change]} {change}" for change in CHANGES if found.jobs[change])
    return [f"Jobs: {counts or 'none'}", *_sums(found)]


def _sums(found: Totals) -> list[str]:
    """Format the sums; one that no job is in is unknown, which is not the same as nothing."""
    times = {"": found.duration_seconds} if found.duration_seconds is not None else {}
    result, left_out = [], []
    for measure, sums, missing in ((MEASURES[1], times, found.untimed), (MEASURES[2], found.cost, found.unpriced)):
        for code, each in sums.items():
            before, after = measure.words(each.base.expected, code), measure.words(each.head.expected, code)
            change = signed_spread(each.base, each.head, measure.words, code)
            result.append(f"Total {measure.name}: {before} → {after}: {change}")
        if missing and sums:
            left_out.append(f"{_jobs(missing)} of unknown {measure.name}")
        elif missing:
            result.append(f"Total {measure.name}: {UNKNOWN}")
    return [*result, f"Not in the totals: {', '.join(left_out)}"] if left_out else result


def is_compared(report: Report) -> bool:
    """Tell whether the report says what a change does."""
    return any(entry.change is not None for entry in report.plans)


def fails(entry: PlanEntry, check: CheckResult) -> bool:
    """Tell whether a finding stops the job: a failed limit, or an undecided one that the policy refuses."""
    stops = check.severity == "error" and check.verdict in ("FAIL", "UNDECIDED")
    return stops and not entry.passed


def findings(entry: PlanEntry) -> list[CheckResult]:
    """Return the limits that do not simply pass, worst first."""
    found = [check for check in entry.checks if check.verdict != "PASS"]
    return sorted(found, key=lambda check: (not fails(entry, check), WORST_FIRST.index(check.verdict)))


def problem(found: Problem) -> str:
    """Format a mistake of a file: "lora.ranks: unknown setting"."""
    path = found.location.field_path
    return f"{path}: {found.message}" if path else found.message


def with_remedy(message: str, remedy: str) -> str:
    """Return why a file could not be checked with what to do about it, on one line."""
    return f"{message}; {remedy}" if remedy else message


def setting(patch: Patch) -> str:
    """Format a change as in a job file: "training.micro_batch_size: 1", "optimizer: adamw-8bit"."""
    value = patch.value
    from finetree_cli.jobfile.yaml_scalars import setting_word

    word = setting_word(patch.field_path, value)
    return f"{patch.field_path}: {word or json.dumps(value, ensure_ascii=False)}"


def exception(check: CheckResult) -> str:
    """Say who lets a limit be broken, why, and until when; "" if nobody does. An expired waiver is the message's."""
    if check.verdict != "WAIVED":
        return ""
    if check.waiver is not None:
        until = f" until {check.waiver.until}" if check.waiver.until else ""
        return f"waived by {check.waiver.owner}{until}: {check.waiver.reason}"
    if check.override is not None:
        return f"overridden by {check.override.by}: {check.override.reason}"
    return ""


def explained(check: CheckResult) -> str:
    """Return a finding's message with its exception and its fix, on one line."""
    parts = [check.message, exception(check), f"passes with {setting(check.fix)}" if check.fix is not None else ""]
    return "; ".join(part for part in parts if part)


def revisions(found: Revisions) -> str:
    """Format the ids of the versions behind an answer."""
    parts = (found.engine, found.catalog, found.price_book, found.calibration)
    return ", ".join(part.id for part in parts if part is not None and part.id)


def verdict(entry: PlanEntry) -> str:
    """Return a job's verdict; "" where nothing was checked: the job is gone, or there are no limits."""
    return entry.verdict if entry.checks or entry.error is not None else ""


def summary(report: Report) -> str:
    """Return the verdict with the number of jobs behind it: "FAIL: 1 of 10 jobs does not pass"."""
    checked = [entry for entry in report.plans if verdict(entry)]
    unread = sum(entry.error is not None for entry in checked)
    if unread and unread == len(checked):
        return f"{report.verdict}: {unread} of {_jobs(len(report.plans))} could not be read"
    if not checked:
        return f"{_jobs(len(report.plans))} compared" if is_compared(report) else f"{report.verdict}: no limit"
    stopped = sum(not entry.passed or entry.error is not None for entry in checked)
    if not stopped:
        return f"{report.verdict}: {_jobs(len(checked))} checked"
    return f"{report.verdict}: {stopped} of {_jobs(len(checked))} {'does' if stopped == 1 else 'do'} not pass"


def _jobs(count: int) -> str:
    return "1 job" if count == 1 else f"{count} jobs"


def in_order(plans: Sequence[PlanEntry]) -> list[PlanEntry]:
    """Return jobs as a reader wants them: those that are stopped, then by what changed, then by name."""

    def place(entry: PlanEntry) -> tuple[bool, int, int, str]:
        stopped = not entry.passed or entry.error is not None
        change = CHANGES.index(entry.change) if entry.change is not None else 0
        return not stopped, WORST_FIRST.index(entry.verdict), change, entry.file

    return sorted(plans, key=place)
