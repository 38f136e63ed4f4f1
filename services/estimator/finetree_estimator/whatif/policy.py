# SPDX-License-Identifier: Apache-2.0
"""A policy's limits held against an estimate: what passes, what fails, and what cannot be told.

A prediction is a range. PASS: the whole range is within the limit. FAIL: the whole range is beyond it. UNDECIDED: the
limit lies inside the range, or there is no number to compare. Whether UNDECIDED stops a pipeline, the caller decides.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_runtime.errors import invalid_field

from finetree_estimator.catalog.names import GIB, is_currency
from finetree_estimator.intervals import Interval
from finetree_estimator.memory import fit
from finetree_estimator.whatif.fallbacks import Answer

NO_ROWS = "the number of rows is: give dataset_profile.examples"
NO_POWER = "the device's power is: give ownership.owned.watts"
NO_PRICE = "no price is known for this hardware: give ownership.rented.price_id, or ownership.owned with a tariff"
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


def amount_of(unit: str) -> Callable[[float], str]:
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


def fits(rule: Rule, peak: Interval, usable: int, fits_as: fit.Verdict) -> Finding:
    """Whether a run fits its device: FITS passes; what does not fit fails only where even the lower end does not."""
    if fits_as is fit.Verdict.UNSPECIFIED or usable <= 0:
        text = (
            f"needs {_range(rule.text, peak)}; the device's memory is unknown: name an accelerator or give the memory"
        )
        return Finding(rule, Verdict.UNDECIDED, peak, 0.0, text)
    verdict = Verdict.UNDECIDED
    if fits_as is fit.Verdict.FITS:
        verdict = Verdict.PASS
    elif fits_as is fit.Verdict.DOES_NOT_FIT and peak.low > usable:
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


def findings(policy: pb.PlanPolicy, answer: Answer) -> Iterator[Finding]:
    """One for each limit that the policy names, in the order of its fields. Raises InvalidArgument."""
    estimate, run = answer.estimate, answer.parsed.run
    payer = "ownership" if answer.parsed.request.spec.HasField("ownership") else "hardware"
    unpriced = f"the cost is unknown because {NO_PRICE if estimate.times is not None else NO_ROWS}"
    cost = estimate.cost
    currency = cost.currency if cost is not None else ""
    amount = cost.amount if cost is not None else None
    if policy.HasField("max_cost"):
        _require_currency(policy, currency)
        yield within(Rule("policy.max_cost", money(currency), payer), amount, policy.max_cost, unpriced)
    if policy.HasField("max_monthly_cost"):
        _require_currency(policy, currency)
        rule = Rule("policy.max_monthly_cost", money(currency), payer)
        # A run that is not said to be repeated is made once (the contract's reading of runs_per_month = 0).
        monthly = cost.monthly if cost is not None and cost.monthly is not None else amount
        yield within(rule, monthly, policy.max_monthly_cost, unpriced)
    if policy.HasField("max_seconds"):
        rule = Rule("policy.max_seconds", hours, "training")
        seconds = estimate.times.total if estimate.times is not None else None
        yield within(rule, seconds, policy.max_seconds, f"the time is unknown because {NO_ROWS}")
    peak = estimate.memory.device
    if policy.HasField("max_device_bytes"):
        yield within(Rule("policy.max_device_bytes", size, "hardware"), peak, policy.max_device_bytes, "")
    if policy.must_fit:
        yield fits(Rule("policy.must_fit", size, "hardware"), peak, run.device.usable_bytes, estimate.fit.verdict)
    yield from _footprint(policy, answer)


def _footprint(policy: pb.PlanPolicy, answer: Answer) -> Iterator[Finding]:
    """Energy, carbon and confidence."""
    cost, confidence = answer.estimate.cost, answer.estimate.confidence
    why = NO_POWER if answer.estimate.times is not None else NO_ROWS
    if policy.HasField("max_energy_kwh"):
        rule = Rule("policy.max_energy_kwh", amount_of("kWh"), "hardware")
        energy = cost.energy_kwh if cost is not None else None
        yield within(rule, energy, policy.max_energy_kwh, f"the energy is unknown because {why}")
    if policy.HasField("max_carbon_kg"):
        rule = Rule("policy.max_carbon_kg", amount_of("kg CO2e"), "hardware")
        carbon = cost.carbon_kg if cost is not None else None
        yield within(rule, carbon, policy.max_carbon_kg, f"the carbon is unknown because {why}")
    if policy.min_confidence:
        rule = Rule("policy.min_confidence", level, "model")
        yield confident(rule, confidence.memory.value, confidence.time.value, policy.min_confidence)


def require_limit(policy: pb.PlanPolicy) -> None:
    """Refuse a policy that limits nothing. Raises InvalidArgument (POLICY_EMPTY)."""
    names = {field.name for field, _ in policy.ListFields()} - {"currency_code"}
    if not names:
        known = ", ".join(field.name for field in pb.PlanPolicy.DESCRIPTOR.fields if field.name != "currency_code")
        raise invalid_field("policy", f"names no limit; give at least one of {known}", "POLICY_EMPTY")


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


def _require_currency(policy: pb.PlanPolicy, currency: str) -> None:
    """Refuse limits in another currency than the cost's. Raises InvalidArgument (CURRENCY_UNKNOWN)."""
    wanted = policy.currency_code.upper() or "USD"
    if not is_currency(wanted):
        text = f"{policy.currency_code!r} is no ISO 4217 code such as USD"
        raise invalid_field("policy.currency_code", text, "CURRENCY_UNKNOWN")
    if currency and wanted != currency:
        text = f"limits are in {wanted}, the price is in {currency}; state the limits in {currency}"
        raise invalid_field("policy.currency_code", text, "CURRENCY_UNKNOWN")
