# SPDX-License-Identifier: Apache-2.0
"""Comparison of an estimate with the limits of a policy.

A prediction is an interval. PASS: the whole interval is within the limit. FAIL: the whole interval is beyond it.
UNDECIDED: the limit lies inside the interval, or the number is unknown. WAIVED: it fails or is undecided, and a waiver
or an override lifts the limit.
"""

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date
from enum import Enum

from finetree_api.types.v1 import check_pb2
from finetree_runtime.errors import invalid_field

from finetree_estimator.intervals import Interval
from finetree_estimator.memory import fit
from finetree_estimator.whatif.fallbacks import Answer
from finetree_estimator.whatif.measured import ONE_RUN, missing, names, open_lengths, predicted, setting
from finetree_estimator.whatif.policy import COSTS, NAMED, Level, Limit, Metric, Policy, Undecided
from finetree_estimator.whatif.quantities import LEVELS, brief, share


class Verdict(Enum):
    """Outcome of a check; the names are those of the contract's CheckVerdict."""

    PASS = "pass"  # noqa: S105 - no password
    WARN = "warn"
    FAIL = "fail"
    UNDECIDED = "undecided"
    WAIVED = "waived"


WORST_FIRST = (Verdict.FAIL, Verdict.UNDECIDED, Verdict.WARN, Verdict.WAIVED, Verdict.PASS)
"""Verdicts by how much they say against a plan."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Result of comparing one limit with an estimate."""

    limit: Limit
    verdict: Verdict
    measured: Interval | None = None
    """None where the estimate has no such number."""
    bound: float | None = None
    """Number that the estimate was compared with; None where there is none."""
    name: str = ""
    """Name that was judged; empty where the limit is of a number, or the name is unknown."""
    setting: str
    """RunSpec path of the setting that affects it most."""
    message: str
    """One line of text: what was found, the limit, and the distance between them."""
    waiver: check_pb2.Waiver | None = None
    """The waiver by which it is WAIVED, or one that has expired."""
    override: check_pb2.Override | None = None
    """The override by which it is WAIVED, or one that the limit's level refuses."""

    @property
    def rule_id(self) -> str:
        """Identifier of the limit's check."""
        return self.limit.rule_id

    @property
    def is_missing(self) -> bool:
        """Whether there is nothing to compare."""
        return self.verdict is Verdict.UNDECIDED and self.measured is None


def findings(policy: Policy, answer: Answer) -> tuple[Finding, ...]:
    """Compare each limit with the estimate, in order, and apply the exceptions.

    Raises InvalidArgument (CURRENCY_MISMATCH).
    """
    return tuple(_lifted(judge_limit(limit, answer), policy) for limit in policy.limits)


def judge_limit(limit: Limit, answer: Answer) -> Finding:
    """Compare one limit with the estimate, and say what was assumed of the data where that may decide.

    Raises InvalidArgument (CURRENCY_MISMATCH).
    """
    found = _compared(limit, answer)
    if found.measured is None:
        return found
    if limit.metric is Metric.MONTHLY_COST and not answer.parsed.run.runs_per_month:
        found = replace(found, message=f"{found.message}; {ONE_RUN}")
    lengths = open_lengths(limit, answer) if found.verdict is not Verdict.PASS else None
    if lengths is None:
        return found
    path, text = lengths
    return replace(found, setting=path, message=f"{found.message}; {text}")


def _compared(limit: Limit, answer: Answer) -> Finding:
    """Compare one limit with the estimate. Raises InvalidArgument (CURRENCY_MISMATCH)."""
    estimate = answer.estimate
    if limit.metric is Metric.FIT:
        usable = answer.parsed.run.device.usable_bytes
        return fits(limit, estimate.memory.device, usable, fit_verdict=estimate.fit.verdict)
    if limit.metric is Metric.CONFIDENCE:
        return confident(limit, estimate.confidence.memory.value, estimate.confidence.time.value)
    if limit.metric in NAMED:
        return _named(limit, answer)
    if limit.metric in COSTS:
        currency = estimate.cost.currency if estimate.cost is not None else ""
        if currency and limit.currency and currency != limit.currency:
            return _in_two_currencies(limit, currency, answer)
        limit = replace(limit, currency=limit.currency or currency)
    measured = predicted(limit.metric, answer)
    if measured is not None:
        return within(limit, measured, setting=setting(limit.metric, answer))
    path, text = missing(limit.metric, answer)
    return Finding(limit=limit, verdict=Verdict.UNDECIDED, bound=limit.bound, setting=path, message=text)


def within(limit: Limit, measured: Interval, *, setting: str) -> Finding:
    """Compare an interval with its upper limit, or with the base run's number."""
    if limit.bound is None:
        verdict = Verdict.UNDECIDED if limit.has_base else Verdict.PASS
        text = "unknown in the base run" if limit.has_base else "nothing to compare with: no base run"
        text = f"{_range(limit, measured)}; {text}"
        return Finding(limit=limit, verdict=verdict, measured=measured, setting=setting, message=text)
    verdict = judge(measured, limit.bound)
    if limit.increase is not None:
        verdict = Verdict.PASS if measured.expected <= limit.bound else Verdict.FAIL
    text = _distance(limit, measured, limit.bound, verdict=verdict)
    return Finding(limit=limit, verdict=verdict, measured=measured, bound=limit.bound, setting=setting, message=text)


def judge(measured: Interval, bound: float) -> Verdict:
    """Return PASS where the upper end is within the bound, FAIL where the lower end is beyond it, else UNDECIDED."""
    if measured.high <= bound:
        return Verdict.PASS
    return Verdict.FAIL if measured.low > bound else Verdict.UNDECIDED


def fits(limit: Limit, peak: Interval, usable_bytes: int, *, fit_verdict: fit.Verdict) -> Finding:
    """Compare a peak with the device: FITS passes; DOES_NOT_FIT fails only where the lower end exceeds the memory."""
    if fit_verdict is fit.Verdict.UNSPECIFIED or usable_bytes <= 0:
        text = f"{_range(limit, peak)}; the device's memory is unknown: name an accelerator or give its memory"
        return Finding(limit=limit, verdict=Verdict.UNDECIDED, measured=peak, setting="hardware", message=text)
    verdict = Verdict.UNDECIDED
    if fit_verdict is fit.Verdict.FITS:
        verdict = Verdict.PASS
    elif fit_verdict is fit.Verdict.DOES_NOT_FIT and peak.low > usable_bytes:
        verdict = Verdict.FAIL
    text = _distance(limit, peak, usable_bytes, verdict=verdict)
    return Finding(
        limit=limit, verdict=verdict, measured=peak, bound=float(usable_bytes), setting="hardware", message=text
    )


def confident(limit: Limit, memory: int, time: int) -> Finding:
    """Compare the lower of two levels of confidence with the required one."""
    level, required = float(min(memory, time)), limit.bound or 0.0
    text = f"confidence is {LEVELS[memory]} for memory and {LEVELS[time]} for time, required is {limit.write(required)}"
    return Finding(
        limit=limit,
        verdict=Verdict.PASS if level >= required else Verdict.FAIL,
        measured=Interval(level, level, level, coverage=1.0),
        bound=limit.bound,
        setting="model",
        message=text,
    )


def _named(limit: Limit, answer: Answer) -> Finding:
    """Compare the names that an answer has for a metric with the patterns of a limit."""
    found = names(limit.metric, answer)
    if not found:
        path, text = missing(limit.metric, answer)
        return Finding(limit=limit, verdict=Verdict.UNDECIDED, setting=path, message=text)
    denied = next((pattern for pattern in limit.denied if matches(pattern, found)), None)
    allowed = not limit.allowed or any(matches(pattern, found) for pattern in limit.allowed)
    if denied is not None:
        text = f"{found[0]} is denied by {denied!r}"
    elif allowed:
        text = f"{found[0]} is {'allowed' if limit.allowed else 'not denied'}"
    else:
        text = f"{found[0]} is not allowed; allowed: {', '.join(limit.allowed)}"
    return Finding(
        limit=limit,
        verdict=Verdict.PASS if allowed and denied is None else Verdict.FAIL,
        name=found[0],
        setting=setting(limit.metric, answer),
        message=text,
    )


def accepts(limit: Limit, name: str) -> bool:
    """Whether a limit lets a name pass."""
    denied = any(matches(pattern, (name,)) for pattern in limit.denied)
    return not denied and (not limit.allowed or any(matches(pattern, (name,)) for pattern in limit.allowed))


def matches(pattern: str, found: Iterable[str]) -> bool:
    """Whether a pattern ("*" any text, "?" one character) matches one of the names, in any letter case."""
    # fnmatch reads "[" as the beginning of a set of characters.
    plain = pattern.casefold().replace("[", "[[]")
    return any(fnmatch.fnmatchcase(name.casefold(), plain) for name in found)


def _lifted(finding: Finding, policy: Policy) -> Finding:
    """Apply the waiver and the override of a limit that fails or is undecided; say where one has no effect."""
    if finding.verdict is Verdict.PASS:
        return finding
    waiver, override = policy.waiver(finding.rule_id), policy.override(finding.rule_id)
    if waiver is not None:
        if policy.today <= date.fromisoformat(waiver.until):
            return replace(finding, verdict=Verdict.WAIVED, waiver=waiver)
        text = f"{finding.message}; the waiver by {waiver.owner} expired after {waiver.until}"
        finding = replace(finding, waiver=waiver, message=text)
    if override is None:
        return finding
    if finding.limit.level is Level.OVERRIDABLE:
        return replace(finding, verdict=Verdict.WAIVED, waiver=None, override=override)
    refused = "refused: the limit is hard" if finding.limit.level is Level.HARD else "not needed: the limit is advisory"
    return replace(finding, override=override, message=f"{finding.message}; the override by {override.by} is {refused}")


def overall(found: Iterable[Finding], undecided: Undecided) -> Verdict:
    """Combine findings: the worst of what each amounts to under the policy."""
    given = {_effect(finding, undecided) for finding in found}
    return next((verdict for verdict in WORST_FIRST if verdict in given), Verdict.PASS)


def _effect(finding: Finding, undecided: Undecided) -> Verdict:
    """What a finding does to the plan: a limit that may not stop it warns at most."""
    verdict = finding.verdict
    if verdict is Verdict.UNDECIDED and undecided is not Undecided.FAIL:
        verdict = Verdict.WARN if undecided is Undecided.WARN else Verdict.PASS
    if not finding.limit.stops and verdict in (Verdict.FAIL, Verdict.UNDECIDED):
        verdict = Verdict.WARN
    return verdict


def is_settled(finding: Finding, undecided: Undecided) -> bool:
    """Whether nothing needs to change for a limit: it passes, is waived, or is undecided and that counts as passed."""
    passed = finding.verdict in (Verdict.PASS, Verdict.WAIVED)
    return passed or (finding.verdict is Verdict.UNDECIDED and undecided is Undecided.PASS)


def _in_two_currencies(limit: Limit, currency: str, answer: Answer) -> Finding:
    """Finding where a base run and a run have costs in two currencies.

    Raises InvalidArgument where it is the limit itself whose currency differs: amounts are not converted.
    """
    if limit.increase is None:
        text = f"the limit is in {limit.currency}, the price is in {currency}; give the limit in {currency}"
        raise invalid_field(f"{limit.path}.max_money.currency_code", text, "CURRENCY_MISMATCH")
    text = f"the base run's cost is in {limit.currency}, this run's in {currency}: they are not compared"
    return Finding(limit=limit, verdict=Verdict.UNDECIDED, setting=setting(limit.metric, answer), message=text)


def _distance(limit: Limit, measured: Interval, bound: float, *, verdict: Verdict) -> str:
    """State the interval, the limit and the distance between them, in one line."""
    if limit.increase is not None:
        return _change(limit, measured)
    stated = f"{_range(limit, measured)}, limit {limit.write(bound)}"
    if not bound:  # no share of zero exists
        return stated if verdict is Verdict.PASS else f"{stated}: exceeded"
    if verdict is Verdict.PASS:
        return f"{stated}: {share(bound - measured.high, bound)} below it"
    if verdict is Verdict.FAIL:
        least, likely = (share(value - bound, bound) for value in (measured.low, measured.expected))
        by = f"at least {least}, probably by {likely}" if measured.low < measured.expected else least
        return f"{stated}: exceeded by {by}"
    return f"{stated}: possibly exceeded, by at most {share(measured.high - bound, bound)}"


def _change(limit: Limit, measured: Interval) -> str:
    """State the expected numbers of base and run, and the change against the largest one that passes."""
    before = limit.base.expected if limit.base is not None else 0.0
    stated = f"{limit.write(before)} before, {limit.write(measured.expected)} expected"
    most = f"limit {_times(1 + (limit.increase or 0.0))}"
    return f"{stated}: {_times(measured.expected / before)}, {most}" if before else f"{stated}, {most}"


def _times(ratio: float) -> str:
    """Format a ratio as a change: "+20 %", "-5 %", from 10 on as a factor."""
    return f"{brief(ratio)} times" if ratio >= 10 else f"{100 * (ratio - 1):+.3g} %"


def _range(limit: Limit, measured: Interval) -> str:
    expected, low, high = map(limit.write, (measured.expected, measured.low, measured.high))
    return f"{expected} expected ({low} to {high})" if measured.low < measured.high else expected
