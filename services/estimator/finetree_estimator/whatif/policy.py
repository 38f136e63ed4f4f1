# SPDX-License-Identifier: Apache-2.0
"""A policy: limits of a plan, how binding each is, what becomes of undecided ones, and the exceptions to them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from enum import Enum
from typing import TypeVar

from finetree_api.estimator.v1 import check_plan_pb2
from finetree_api.types.v1 import check_pb2
from finetree_runtime.errors import invalid_field
from finetree_runtime.money import to_float

from finetree_estimator.intervals import Interval
from finetree_estimator.whatif.quantities import LEVELS, brief, duration, money, size

Lift = TypeVar("Lift", check_pb2.Waiver, check_pb2.Override)


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
    EXAMPLES = "examples"
    TOKENS = "tokens"
    METHOD = "method"
    MODEL = "model"
    MODEL_LICENSE = "model_license"
    PROVIDER = "provider"


COSTS = (Metric.COST, Metric.MONTHLY_COST)
NAMED = (Metric.METHOD, Metric.MODEL, Metric.MODEL_LICENSE, Metric.PROVIDER)
"""Metrics of names, not of numbers."""
NUMBERS = tuple(metric for metric in Metric if metric not in (*NAMED, Metric.FIT, Metric.CONFIDENCE))
"""Metrics of a number with an upper bound."""


_WRITTEN: Mapping[Metric, Callable[[float], str]] = {
    Metric.DURATION_SECONDS: duration,
    Metric.DEVICE_BYTES: size,
    Metric.FIT: size,
    Metric.ENERGY_KWH: lambda number: f"{brief(number)} kWh",
    Metric.CARBON_KG: lambda number: f"{brief(number)} kg CO2e",
    Metric.CONFIDENCE: lambda number: LEVELS[round(number)],
    Metric.EXAMPLES: lambda number: f"{number:,.0f} rows",
    Metric.TOKENS: lambda number: f"{number:,.0f} tokens",
}
"""How the numbers of a metric are written; costs have a currency."""


class Severity(Enum):
    """Severity of a limit; the names are those of the contract's enum."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Level(Enum):
    """How binding a limit is; the names are those of the contract's LimitLevel."""

    ADVISORY = "advisory"
    OVERRIDABLE = "overridable"
    HARD = "hard"


class Undecided(Enum):
    """What becomes of undecided limits; the names are those of the contract's UndecidedPolicy."""

    FAIL = "fail"
    WARN = "warn"
    PASS = "pass"  # noqa: S105 - no password


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit of a policy."""

    metric: Metric
    bound: float | None = 0.0
    """In the metric's unit; for CONFIDENCE the number of a level. None: it depends on a number of the base run that is
    unknown."""
    currency: str = ""
    """Of a cost."""
    severity: Severity = Severity.ERROR
    path: str = "policy.limits[0]"
    """Path of the limit in the request."""
    level: Level = Level.HARD
    own_id: str = ""
    """Id that the policy gives it; empty for that of its metric."""
    allowed: tuple[str, ...] = ()
    """Patterns of names; empty allows every name."""
    denied: tuple[str, ...] = ()
    increase: float | None = None
    """Largest share by which the expected number may exceed the base run's; None for an absolute limit."""
    base: Interval | None = None
    """The number of the base run; None without one, or where it is unknown."""
    has_base: bool = False
    """Whether there is a base run."""

    @property
    def rule_id(self) -> str:
        """Identifier of its check."""
        return self.own_id or (self.metric.value if self.increase is None else f"{self.metric.value}_increase")

    @property
    def stops(self) -> bool:
        """Whether a failure fails the plan."""
        return self.severity is Severity.ERROR

    def compared(self, measured: Interval) -> float:
        """The number of an interval that must be within the bound for the limit to pass."""
        return measured.high if self.increase is None else measured.expected

    def write(self, number: float) -> str:
        """Format a number of the metric with its unit."""
        if self.metric in COSTS:
            return money(number, self.currency)
        return _WRITTEN[self.metric](number)


@dataclass(frozen=True, slots=True)
class Policy:
    """The limits of a request, and what may lift them."""

    limits: tuple[Limit, ...]
    undecided: Undecided = Undecided.FAIL
    waivers: Mapping[str, check_pb2.Waiver] | None = None
    """By the rule id of the limit that each lifts."""
    overrides: Mapping[str, check_pb2.Override] | None = None
    """By the rule id of the limit that each is meant to lift."""
    today: date = date.min
    """Day for which waivers are judged; of no meaning without any."""

    def waiver(self, rule_id: str) -> check_pb2.Waiver | None:
        """Return the waiver of a limit, also one that has expired."""
        return (self.waivers or {}).get(rule_id)

    def override(self, rule_id: str) -> check_pb2.Override | None:
        """Return the override of a limit, also one that its level refuses."""
        return (self.overrides or {}).get(rule_id)


def read_policy(request: check_plan_pb2.CheckPlanRequest) -> Policy:
    """Read the policy of a validated request, in its order.

    Raises:
        InvalidArgument: An id stands for two limits; an advisory limit has severity ERROR; a waiver or an override
            names no limit, or one a second time; a day is missing or none.
    """
    policy = request.policy
    limits = tuple(_limit(limit, f"policy.limits[{number}]") for number, limit in enumerate(policy.limits))
    rule_ids: set[str] = set()
    for limit in limits:
        if limit.rule_id in rule_ids:
            raise invalid_field(f"{limit.path}.rule_id", f"{limit.rule_id!r} is the id of another limit too")
        rule_ids.add(limit.rule_id)
    undecided = Undecided.FAIL
    if policy.undecided:
        name = check_plan_pb2.UndecidedPolicy.Name(policy.undecided)
        undecided = Undecided[name.removeprefix("UNDECIDED_POLICY_")]
    if policy.waivers and not request.evaluation_date:
        raise invalid_field("evaluation_date", "is required where the policy has waivers")
    for number, waiver in enumerate(policy.waivers):
        _day(waiver.until, f"policy.waivers[{number}].until")
    return Policy(
        limits=limits,
        undecided=undecided,
        waivers=_by_rule(policy.waivers, rule_ids, "policy.waivers"),
        overrides=_by_rule(request.overrides, rule_ids, "overrides"),
        today=_day(request.evaluation_date, "evaluation_date") if request.evaluation_date else date.min,
    )


def with_base(limit: Limit, base: Interval | None, *, currency: str) -> Limit:
    """Add the number of the base run, in `currency`, to a limit; one on the increase gets its bound from it."""
    if limit.metric in COSTS and limit.increase is not None:
        limit = replace(limit, currency=currency)
    if limit.metric in COSTS and limit.currency != currency:
        base = None
    limit = replace(limit, base=base, has_base=True)
    if limit.increase is None:
        return limit
    return replace(limit, bound=base.expected * (1 + limit.increase) if base is not None else None)


def _limit(limit: check_plan_pb2.PolicyLimit, path: str) -> Limit:
    metric = Metric[check_plan_pb2.PolicyMetric.Name(limit.metric).removeprefix("POLICY_METRIC_")]
    severity, level = _severity_and_level(limit, path)
    bound: float | None = limit.max + 0.0  # a negative zero is written as zero
    currency = ""
    if limit.HasField("max_money"):
        bound, currency = to_float(limit.max_money), limit.max_money.currency_code
    elif metric is Metric.CONFIDENCE:
        bound = float(limit.min_confidence)
    elif limit.HasField("max_increase") or limit.HasField("names"):
        bound = None
    return Limit(
        metric=metric,
        bound=bound,
        currency=currency,
        severity=severity,
        path=path,
        level=level,
        own_id=limit.rule_id,
        allowed=tuple(limit.names.allowed),
        denied=tuple(limit.names.denied),
        increase=limit.max_increase if limit.HasField("max_increase") else None,
    )


def _severity_and_level(limit: check_plan_pb2.PolicyLimit, path: str) -> tuple[Severity, Level]:
    """Read severity and level; where one is unset, it follows from the other. Raises InvalidArgument."""
    severity, level = None, None
    if limit.severity:
        severity = Severity[check_pb2.Severity.Name(limit.severity).removeprefix("SEVERITY_")]
    if limit.level:
        level = Level[check_pb2.LimitLevel.Name(limit.level).removeprefix("LIMIT_LEVEL_")]
    if (severity, level) == (Severity.ERROR, Level.ADVISORY):
        raise invalid_field(f"{path}.level", "an advisory limit cannot have severity ERROR")
    if severity is None:
        severity = Severity.WARNING if level is Level.ADVISORY else Severity.ERROR
    if level is None:
        level = Level.HARD if severity is Severity.ERROR else Level.ADVISORY
    return severity, level


def _by_rule(exceptions: Iterable[Lift], rule_ids: set[str], path: str) -> dict[str, Lift]:
    """Index waivers or overrides by the limit that each names. Raises InvalidArgument."""
    found: dict[str, Lift] = {}
    for number, each in enumerate(exceptions):
        if each.rule_id not in rule_ids:
            text = f"no limit has the id {each.rule_id!r}; the policy has {', '.join(sorted(rule_ids))}"
            raise invalid_field(f"{path}[{number}].rule_id", text)
        if each.rule_id in found:
            raise invalid_field(f"{path}[{number}].rule_id", f"{each.rule_id!r} is named twice; keep one")
        found[each.rule_id] = each
    return found


def _day(text: str, path: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise invalid_field(path, f"{text!r} is no day of the calendar") from error
