# SPDX-License-Identifier: Apache-2.0
"""Comparison of an estimate with the limits of a policy.

A prediction is an interval. PASS: the whole interval is within the limit. FAIL: the whole interval is beyond it.
UNDECIDED: the limit lies inside the interval, or the number is unknown; the caller decides what follows from that.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from finetree_api.estimator.v1 import check_plan_pb2
from finetree_api.types.v1 import check_pb2
from finetree_runtime.errors import invalid_field
from finetree_runtime.money import to_float

from finetree_estimator.catalog.names import GIB
from finetree_estimator.estimate import Estimate
from finetree_estimator.intervals import Interval
from finetree_estimator.memory import fit
from finetree_estimator.whatif.fallbacks import Answer

NO_ROWS = "unknown without the number of rows; give dataset.profile.examples"
ROWS_ELSEWHERE = "unknown without the number of rows of dataset.{source}; give it beside the run"
NO_POWER = "unknown without the power of the devices; give ownership.owned.watts"
NO_PRICE = (
    "unknown without a price of this hardware; give ownership.rented.price_id, or ownership.owned with a price_per_kwh"
)
MANY = 1e9
"""Ratio from which on "a billion times" is printed."""
LEVELS = ("unspecified", "low", "medium", "high")
"""Levels of confidence; the index is the contract's number."""


class Metric(Enum):
    """Quantity of a limit, the contract's PolicyMetric; the value is the rule_id of its check."""

    COST = "cost"
    MONTHLY_COST = "monthly_cost"
    DURATION_SECONDS = "duration_seconds"
    DEVICE_BYTES = "device_bytes"
    ENERGY_KWH = "energy_kwh"
    CARBON_KG = "carbon_kg"
    FIT = "fit"
    CONFIDENCE = "confidence"


COSTS = (Metric.COST, Metric.MONTHLY_COST)


class Severity(Enum):
    """Severity of a limit; the names are those of the contract's enum."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Verdict(Enum):
    """Outcome of a check; the names are those of the contract's CheckVerdict."""

    PASS = "pass"  # noqa: S105 - no password
    WARN = "warn"
    FAIL = "fail"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit of a policy."""

    metric: Metric
    bound: float = 0.0
    """In the metric's unit; for CONFIDENCE the number of a level, for FIT unused."""
    currency: str = ""
    """Of COST and MONTHLY_COST."""
    severity: Severity = Severity.ERROR
    path: str = "policy.limits[0]"
    """Path of the limit in the request."""

    def write(self, number: float) -> str:
        """Format a number of the metric with its unit."""
        match self.metric:
            case Metric.COST | Metric.MONTHLY_COST:
                return money(number, self.currency)
            case Metric.DURATION_SECONDS:
                return duration(number)
            case Metric.DEVICE_BYTES | Metric.FIT:
                return size(number)
            case Metric.ENERGY_KWH:
                return f"{brief(number)} kWh"
            case Metric.CARBON_KG:
                return f"{brief(number)} kg CO2e"
            case Metric.CONFIDENCE:
                return LEVELS[round(number)]


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of comparing one limit with an estimate."""

    limit: Limit
    verdict: Verdict
    measured: Interval | None
    """None where the estimate has no such number."""
    bound: float | None
    """Number that the estimate was compared with; None where there is none."""
    setting: str
    """RunSpec path of the setting that affects it most."""
    message: str
    """One line of text with the interval, the limit and the distance between them."""

    @property
    def rule_id(self) -> str:
        """Stable identifier of the limit's metric."""
        return self.limit.metric.value


def read_limits(policy: check_plan_pb2.PlanPolicy) -> tuple[Limit, ...]:
    """Read the limits of a validated policy, in its order."""
    return tuple(_limit(limit, f"policy.limits[{number}]") for number, limit in enumerate(policy.limits))


def _limit(limit: check_plan_pb2.PolicyLimit, path: str) -> Limit:
    metric = Metric[check_plan_pb2.PolicyMetric.Name(limit.metric).removeprefix("POLICY_METRIC_")]
    severity = Severity.ERROR
    if limit.severity != check_pb2.SEVERITY_UNSPECIFIED:
        severity = Severity[check_pb2.Severity.Name(limit.severity).removeprefix("SEVERITY_")]
    bound, currency = limit.max + 0.0, ""  # a negative zero is written as zero
    if metric in COSTS:
        bound, currency = to_float(limit.max_money), limit.max_money.currency_code
    elif metric is Metric.CONFIDENCE:
        bound = float(limit.min_confidence)
    return Limit(metric=metric, bound=bound, currency=currency, severity=severity, path=path)


def findings(limits: Iterable[Limit], answer: Answer) -> Iterator[Finding]:
    """Compare each limit with the estimate, in order. Raises InvalidArgument (CURRENCY_MISMATCH)."""
    estimate = answer.estimate
    for limit in limits:
        match limit.metric:
            case Metric.FIT:
                usable = answer.parsed.run.device.usable_bytes
                yield fits(limit, estimate.memory.device, usable, fit_verdict=estimate.fit.verdict)
            case Metric.CONFIDENCE:
                yield confident(limit, estimate.confidence.memory.value, estimate.confidence.time.value)
            case Metric.COST | Metric.MONTHLY_COST:
                _require_currency(limit, estimate)
                payer = "ownership" if answer.parsed.request.spec.HasField("ownership") else "hardware"
                yield _limited(limit, answer, setting=payer)
            case metric:
                yield _limited(limit, answer, setting="training" if metric is Metric.DURATION_SECONDS else "hardware")


def _limited(limit: Limit, answer: Answer, *, setting: str) -> Finding:
    """Compare a predicted number with its upper limit; without a number, name the setting that would give one."""
    measured = predicted(limit.metric, answer.estimate)
    if measured is not None:
        return within(limit, measured, setting=setting)
    setting, text = _missing(limit, answer)
    return within(limit, None, setting=setting, missing=text)


def predicted(metric: Metric, estimate: Estimate) -> Interval | None:
    """Predicted number of a metric with an upper bound, in its unit; None where unknown."""
    cost, times = estimate.cost, estimate.times
    if metric is Metric.DEVICE_BYTES:
        return estimate.memory.device
    if metric is Metric.DURATION_SECONDS:
        return times.total if times is not None else None
    if cost is None:
        return None
    if metric is Metric.MONTHLY_COST:
        # Without runs_per_month the run is counted once.
        return cost.monthly or cost.amount
    return {Metric.COST: cost.amount, Metric.ENERGY_KWH: cost.energy_kwh, Metric.CARBON_KG: cost.carbon_kg}[metric]


def _missing(limit: Limit, answer: Answer) -> tuple[str, str]:
    """Name the setting whose value is missing for a number, and explain it."""
    run = answer.parsed.run
    if run.rows is None or run.steps == 0:
        source = answer.parsed.request.spec.dataset.WhichOneof("source")
        # A file or a dataset excludes a profile in the spec.
        text = NO_ROWS if source in (None, "profile") else ROWS_ELSEWHERE.format(source=source)
        return "dataset.profile.examples", text
    if limit.metric in COSTS and run.payment is None:
        return "ownership", NO_PRICE
    return "ownership.owned.watts", NO_POWER


def _require_currency(limit: Limit, estimate: Estimate) -> None:
    """Raise InvalidArgument where limit and cost have different currencies: amounts are not converted."""
    currency = estimate.cost.currency if estimate.cost is not None else ""
    if currency and currency != limit.currency:
        text = f"the limit is in {limit.currency}, the price is in {currency}; give the limit in {currency}"
        raise invalid_field(f"{limit.path}.max_money.currency_code", text, "CURRENCY_MISMATCH")


def within(limit: Limit, measured: Interval | None, *, setting: str, missing: str = "") -> Finding:
    """Compare an interval with its upper limit; `missing` is the message where there is no interval."""
    if measured is None:
        return Finding(
            limit=limit, verdict=Verdict.UNDECIDED, measured=None, bound=limit.bound, setting=setting, message=missing
        )
    verdict = judge(measured, limit.bound)
    return Finding(
        limit=limit,
        verdict=verdict,
        measured=measured,
        bound=limit.bound,
        setting=setting,
        message=_distance(limit, measured, limit.bound, verdict=verdict),
    )


def judge(measured: Interval, bound: float) -> Verdict:
    """Return PASS where the upper end is within the bound, FAIL where the lower end is beyond it, else UNDECIDED."""
    if measured.high <= bound:
        return Verdict.PASS
    return Verdict.FAIL if measured.low > bound else Verdict.UNDECIDED


def fits(limit: Limit, peak: Interval, usable_bytes: int, *, fit_verdict: fit.Verdict) -> Finding:
    """Compare a peak with the device: FITS passes; DOES_NOT_FIT fails only where the lower end exceeds the memory."""
    if fit_verdict is fit.Verdict.UNSPECIFIED or usable_bytes <= 0:
        text = f"{_range(limit, peak)}; the device's memory is unknown: name an accelerator or give its memory"
        return Finding(
            limit=limit, verdict=Verdict.UNDECIDED, measured=peak, bound=None, setting="hardware", message=text
        )
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
    level = float(min(memory, time))
    text = (
        f"confidence is {LEVELS[memory]} for memory and {LEVELS[time]} for time, required is {limit.write(limit.bound)}"
    )
    verdict = Verdict.PASS if level >= limit.bound else Verdict.FAIL
    return Finding(
        limit=limit,
        verdict=verdict,
        measured=Interval(level, level, level, coverage=1.0),
        bound=limit.bound,
        setting="model",
        message=text,
    )


def overall(found: Iterable[Finding]) -> Verdict:
    """Combine findings: FAIL or UNDECIDED from limits of severity ERROR, else WARN where another limit fails."""
    found = tuple(found)
    errors = {finding.verdict for finding in found if finding.limit.severity is Severity.ERROR}
    for verdict in (Verdict.FAIL, Verdict.UNDECIDED):
        if verdict in errors:
            return verdict
    return Verdict.WARN if any(finding.verdict is Verdict.FAIL for finding in found) else Verdict.PASS


def money(amount: float, currency: str) -> str:
    """Format an amount with its currency ("12.50 USD"), below 0.01 with two significant digits."""
    return f"{amount:,.2f} {currency}" if amount >= 0.01 or amount == 0 else f"{amount:.2g} {currency}"


def duration(seconds: float) -> str:
    """Format seconds as "40 s", "12 min" or "8.4 h"."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 3600 else f"{brief(seconds / 3600)} h"


def size(count: float) -> str:
    """Format bytes in GiB, below 0.1 GiB in MiB."""
    return f"{count / GIB:,.2f} GiB" if count >= GIB / 10 else f"{count / 1024**2:.3g} MiB"


def brief(value: float) -> str:
    """Format a number with three significant digits, from 1,000 to a billion without fraction."""
    return f"{value:,.0f}" if 1000 <= value < MANY else f"{value:.3g}"


def _distance(limit: Limit, measured: Interval, bound: float, *, verdict: Verdict) -> str:
    """State the interval, the limit and the distance between them, in one line."""
    stated = f"{_range(limit, measured)}, limit {limit.write(bound)}"
    if not bound:  # no share of zero exists
        return stated if verdict is Verdict.PASS else f"{stated}: exceeded"
    if verdict is Verdict.PASS:
        return f"{stated}: {_share(bound - measured.high, bound)} below it"
    if verdict is Verdict.FAIL:
        least, likely = (_share(value - bound, bound) for value in (measured.low, measured.expected))
        return f"{stated}: exceeded by at least {least}, probably by {likely}"
    return f"{stated}: possibly exceeded, by at most {_share(measured.high - bound, bound)}"


def _range(limit: Limit, measured: Interval) -> str:
    expected, low, high = map(limit.write, (measured.expected, measured.low, measured.high))
    return f"{expected} expected ({low} to {high})"


def _share(part: float, whole: float) -> str:
    """Format a share in percent without rounding to 0 % or 100 %; above 1,000 % as a factor."""
    percent = 100 * part / whole
    if 99 < percent < 100:
        return "over 99 %"
    if percent > 100 * MANY:
        return "a billion times the limit"
    if percent > 1000:
        return f"{brief(percent / 100)} times the limit"
    return f"{percent:.0f} %" if percent >= 10 else f"{percent:.2g} %"
