# SPDX-License-Identifier: Apache-2.0
"""A plan's numbers held against limits: what passes, what fails, and what cannot be told.

A prediction is a range. PASS: the whole range is within the limit. FAIL: the whole range is beyond it. UNDECIDED: the
limit lies inside the range, or there is no number to compare. Whether UNDECIDED stops a pipeline, the caller decides.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

from finetree_estimator.intervals import Interval
from finetree_estimator.memory.fit import Verdict as FitVerdict

GIB = 1024**3
MANY = 1e9
"""From here on a number of times says no more than that it is large."""
LEVELS = ("unstated", "low", "medium", "high")
"""Levels of confidence; the index is the contract's number."""


class Verdict(Enum):
    """The names are those of the contract's CheckVerdict."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Rule:
    """A kind of limit: its stable id, how its numbers are written, and the setting of a run that it is about."""

    rule_id: str
    text: Callable[[float], str]
    field_path: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule applied. `measured` is None where the estimate has no such number."""

    rule: Rule
    verdict: Verdict
    measured: Interval | None
    limit: float
    help: str


def money(currency: str) -> Callable[[float], str]:
    """Writes an amount of a currency."""
    return lambda amount: f"{amount:,.2f} {currency}" if amount >= 0.01 or amount == 0 else f"{amount:.2g} {currency}"


def amount(unit: str) -> Callable[[float], str]:
    """Writes a number of a unit."""
    return lambda value: f"{brief(value)} {unit}"


def level(number: float) -> str:
    """Writes a level of confidence."""
    return LEVELS[round(number)]


def hours(seconds: float) -> str:
    """Seconds as people read them: "40 s", "12 min", "8.4 h"."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 3600 else f"{brief(seconds / 3600)} h"


def brief(value: float) -> str:
    """Three significant digits, whole from a thousand to a billion."""
    return f"{value:,.0f}" if 1000 <= value < MANY else f"{value:.3g}"


def size(count: float) -> str:
    """Bytes in GiB, small ones in MiB."""
    return f"{count / GIB:,.2f} GiB" if count >= GIB / 10 else f"{count / 1024**2:.3g} MiB"


def within(rule: Rule, measured: Interval | None, limit: float, missing: str) -> Finding:
    """Hold a number against its upper limit; `missing` says what to give where there is no number."""
    limit += 0.0  # a negative zero is written as none
    if measured is None:
        return Finding(rule, Verdict.UNDECIDED, None, limit, missing)
    verdict = judge(measured, limit)
    return Finding(rule, verdict, measured, limit, _distance(rule.text, measured, limit, verdict))


def judge(measured: Interval, limit: float) -> Verdict:
    """PASS when the upper end is within the limit, FAIL when the lower end is beyond it, else UNDECIDED."""
    if measured.high <= limit:
        return Verdict.PASS
    return Verdict.FAIL if measured.low > limit else Verdict.UNDECIDED


def fits(rule: Rule, peak: Interval, usable: int, fit: FitVerdict) -> Finding:
    """Whether a run fits its device: FITS passes; what does not fit fails only where even the lower end does not."""
    if fit is FitVerdict.UNSPECIFIED or usable <= 0:
        text = (
            f"needs {_range(rule.text, peak)}; the device's memory is unknown: name an accelerator or give the memory"
        )
        return Finding(rule, Verdict.UNDECIDED, peak, 0.0, text)
    verdict = Verdict.UNDECIDED
    if fit is FitVerdict.FITS:
        verdict = Verdict.PASS
    elif fit is FitVerdict.DOES_NOT_FIT and peak.low > usable:
        verdict = Verdict.FAIL
    return Finding(rule, verdict, peak, float(usable), _distance(rule.text, peak, usable, verdict))


def confident(rule: Rule, memory: int, time: int, lowest: int) -> Finding:
    """Whether the lower of two levels of confidence is high enough; a level that is not stated cannot be told."""
    level = float(min(memory, time))
    stated = f"confidence is {LEVELS[memory]} for memory and {LEVELS[time]} for time, asked is {LEVELS[lowest]}"
    if not level:
        return Finding(rule, Verdict.UNDECIDED, None, float(lowest), f"{stated}; give dataset_profile.examples")
    verdict = Verdict.PASS if level >= lowest else Verdict.FAIL
    return Finding(rule, verdict, Interval(level, level, level, coverage=1.0), float(lowest), stated)


def overall(findings: Iterable[Finding]) -> Verdict:
    """FAIL when one fails, PASS when all pass, else UNDECIDED."""
    verdicts = {finding.verdict for finding in findings}
    if Verdict.FAIL in verdicts:
        return Verdict.FAIL
    return Verdict.UNDECIDED if Verdict.UNDECIDED in verdicts else Verdict.PASS


def _distance(text: Callable[[float], str], measured: Interval, limit: float, verdict: Verdict) -> str:
    """One line: the range, the limit, and by how much."""
    stated = f"{_range(text, measured)}, limit {text(limit)}"
    if not limit:  # a share of nothing says nothing
        return stated if verdict is Verdict.PASS else f"{stated}: exceeds it"
    if verdict is Verdict.PASS:
        return f"{stated}: {_share(limit - measured.high, limit)} to spare"
    if verdict is Verdict.FAIL:
        least, likely = (_share(value - limit, limit) for value in (measured.low, measured.expected))
        return f"{stated}: exceeds it by at least {least}, probably {likely}"
    return f"{stated}: may exceed it by up to {_share(measured.high - limit, limit)}"


def _range(text: Callable[[float], str], measured: Interval) -> str:
    return f"{text(measured.expected)} expected ({text(measured.low)} to {text(measured.high)})"


def _share(part: float, whole: float) -> str:
    """A share in percent, never "0 %" for what is not zero nor "100 %" for less; beyond tenfold as a factor."""
    percent = 100 * part / whole
    if 99 < percent < 100:
        return "over 99 %"
    if percent > 100 * MANY:
        return "over a billion times the limit"
    if percent > 1000:
        return f"{brief(percent / 100)} times the limit"
    return f"{percent:.0f} %" if percent >= 10 else f"{percent:.2g} %"
