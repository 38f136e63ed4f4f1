# SPDX-License-Identifier: Apache-2.0
"""Policies as the estimator judges them: limits, waivers, overrides, a base run. Numbers are the fake's own."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from datetime import date
from typing import Any

from finetree_api.estimator.v1 import check_plan_pb2, estimate_pb2
from finetree_api.types.v1 import check_pb2, estimate_summary_pb2, evidence_pb2

from finetree.money import to_float
from finetree.testing.catalog import find_model
from finetree.testing.estimator.estimates import profile_of
from finetree.testing.requests import invalid, not_promised

PASS, WARN, FAIL = check_pb2.CHECK_VERDICT_PASS, check_pb2.CHECK_VERDICT_WARN, check_pb2.CHECK_VERDICT_FAIL
UNDECIDED, WAIVED = check_pb2.CHECK_VERDICT_UNDECIDED, check_pb2.CHECK_VERDICT_WAIVED
WORST_FIRST = (FAIL, UNDECIDED, WARN, WAIVED, PASS)
_UNITS = {
    "cost": check_pb2.CHECK_UNIT_MONEY,
    "monthly_cost": check_pb2.CHECK_UNIT_MONEY,
    "duration_seconds": check_pb2.CHECK_UNIT_SECONDS,
    "device_bytes": check_pb2.CHECK_UNIT_BYTES,
    "fit": check_pb2.CHECK_UNIT_BYTES,
    "energy_kwh": check_pb2.CHECK_UNIT_KILOWATT_HOURS,
    "carbon_kg": check_pb2.CHECK_UNIT_KILOGRAMS_CO2,
    "confidence": check_pb2.CHECK_UNIT_CONFIDENCE_LEVEL,
    "tokens": check_pb2.CHECK_UNIT_TOKENS,
}
_SETTINGS = {"provider": "ownership.rented.price_id", "fit": "hardware", "device_bytes": "hardware"}


def judge(
    request: check_plan_pb2.CheckPlanRequest, estimate: estimate_pb2.Estimate, base: estimate_pb2.Estimate | None
) -> check_plan_pb2.CheckPlanResponse:
    """Compare an estimate with every limit, apply what lifts them, and combine.

    Raises:
        InvalidArgument: INVALID_REQUEST, CURRENCY_MISMATCH.
    """
    _require_exceptions(request)
    checks = [
        _lifted(_check(limit, f"policy.limits[{number}]", request, estimate=estimate, base=base), request)
        for number, limit in enumerate(request.policy.limits)
    ]
    undecided = request.policy.undecided
    effects = {_effect(check, undecided) for check in checks}
    verdict = next(each for each in WORST_FIRST if each in effects or each == PASS)
    # The estimator proposes changes here, or says why there are none; the fake has none to propose.
    broken = [check.rule_id for check in checks if _effect(check, undecided) not in (PASS, WAIVED)]
    why = f"the fake suite proposes no changes; not met: {', '.join(broken)}" if broken else ""
    return check_plan_pb2.CheckPlanResponse(verdict=verdict, checks=checks, estimate=estimate, no_remedy=why)


def metric_of(limit: check_plan_pb2.PolicyLimit) -> str:
    """Metric of a limit, in small letters."""
    return check_plan_pb2.PolicyMetric.Name(limit.metric).removeprefix("POLICY_METRIC_").lower()


def rule_id(limit: check_plan_pb2.PolicyLimit) -> str:
    """Id of a limit's check."""
    return limit.rule_id or f"{metric_of(limit)}{'_increase' if limit.HasField('max_increase') else ''}"


def _require_exceptions(request: check_plan_pb2.CheckPlanRequest) -> None:
    rule_ids = list(map(rule_id, request.policy.limits))
    for number, name in enumerate(rule_ids):
        if name in rule_ids[:number]:
            raise invalid(f"policy.limits[{number}].rule_id", f"{name!r} is the id of another limit too")
    if request.policy.waivers and not request.evaluation_date:
        raise invalid("evaluation_date", "is required where the policy has waivers")
    for number, waiver in enumerate(request.policy.waivers):
        _day(waiver.until, f"policy.waivers[{number}].until")
    if request.evaluation_date:
        _day(request.evaluation_date, "evaluation_date")
    for where, exceptions in (("policy.waivers", request.policy.waivers), ("overrides", request.overrides)):
        _require_known(exceptions, rule_ids, where)


def _require_known(exceptions: Iterable[Any], rule_ids: list[str], where: str) -> None:
    seen: set[str] = set()
    for number, each in enumerate(exceptions):
        if each.rule_id not in rule_ids:
            raise invalid(f"{where}[{number}].rule_id", f"no limit has the id {each.rule_id!r}")
        if each.rule_id in seen:
            raise invalid(f"{where}[{number}].rule_id", f"{each.rule_id!r} is named twice; keep one")
        seen.add(each.rule_id)


def _day(text: str, field: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise invalid(field, f"{text!r} is no day of the calendar") from None


def _check(
    limit: check_plan_pb2.PolicyLimit,
    where: str,
    request: check_plan_pb2.CheckPlanRequest,
    *,
    estimate: estimate_pb2.Estimate,
    base: estimate_pb2.Estimate | None,
) -> check_pb2.Check:
    metric = metric_of(limit)
    severity, level = _severity_and_level(limit, where)
    check = check_pb2.Check(
        rule_id=rule_id(limit),
        severity=severity,
        level=level,
        verdict=UNDECIDED,
        unit=_UNITS.get(metric, check_pb2.CHECK_UNIT_UNSPECIFIED),
        field_path=_SETTINGS.get(metric, "training"),
        allowed=limit.names.allowed,
        denied=limit.names.denied,
    )
    if metric == "fit":
        return _fits(check, estimate)
    if metric == "confidence":
        return _confident(check, limit, estimate)
    if limit.HasField("names"):
        return _named(check, metric, estimate, request.run)
    return _number(check, limit, where, request=request, estimate=estimate, base=base)


def _severity_and_level(
    limit: check_plan_pb2.PolicyLimit, where: str
) -> tuple[check_pb2.Severity.ValueType, check_pb2.LimitLevel.ValueType]:
    advisory = limit.level == check_pb2.LIMIT_LEVEL_ADVISORY
    if advisory and limit.severity == check_pb2.SEVERITY_ERROR:
        raise invalid(f"{where}.level", "an advisory limit cannot have severity ERROR")
    severity = limit.severity or (check_pb2.SEVERITY_WARNING if advisory else check_pb2.SEVERITY_ERROR)
    usual = check_pb2.LIMIT_LEVEL_HARD if severity == check_pb2.SEVERITY_ERROR else check_pb2.LIMIT_LEVEL_ADVISORY
    return severity, limit.level or usual


def _fits(check: check_pb2.Check, estimate: estimate_pb2.Estimate) -> check_pb2.Check:
    check.measured.CopyFrom(estimate.memory.device_bytes)
    check.message = estimate.fit.summary
    if not estimate.memory.usable_device_bytes:
        return check
    check.limit = estimate.memory.usable_device_bytes
    if estimate.fit.verdict == estimate_summary_pb2.FIT_VERDICT_FITS:
        check.verdict = PASS
    elif estimate.fit.verdict == estimate_summary_pb2.FIT_VERDICT_DOES_NOT_FIT:
        check.verdict = FAIL
    return check


def _confident(
    check: check_pb2.Check, limit: check_plan_pb2.PolicyLimit, estimate: estimate_pb2.Estimate
) -> check_pb2.Check:
    level = min(estimate.confidence.memory, estimate.confidence.time)
    check.measured.CopyFrom(evidence_pb2.Interval(low=level, expected=level, high=level, coverage=1.0))
    check.limit = limit.min_confidence
    check.verdict = PASS if level >= limit.min_confidence else FAIL
    check.field_path, check.message = "model", "confidence in invented numbers is low"
    return check


def _named(
    check: check_pb2.Check,
    metric: str,
    estimate: estimate_pb2.Estimate,
    run: estimate_pb2.EstimateRunRequest,
) -> check_pb2.Check:
    spec = estimate.resolved_spec
    owned = spec.ownership.WhichOneof("kind") == "owned"
    names: dict[str, list[str]] = {
        "method": [spec.WhichOneof("method") or ""],
        "model": _model_names(run),
        "provider": ["owned" if owned else estimate.cost.provider],
    }
    if metric not in names:
        raise not_promised(f"knows no {metric.replace('_', ' ')}")
    found = [name for name in names[metric] if name]
    if not found:
        check.message = f"{metric} is unknown"
        return check
    denied = any(_matches(pattern, name) for pattern in check.denied for name in found)
    allowed = not check.allowed or any(_matches(pattern, name) for pattern in check.allowed for name in found)
    check.verdict = PASS if allowed and not denied else FAIL
    check.measured_name = found[0]
    check.message = f"{found[0]} is {'allowed' if check.verdict == PASS else 'not allowed'}"
    return check


def _model_names(run: estimate_pb2.EstimateRunRequest) -> list[str]:
    """The name in the spec, the catalog's name, and the hub id."""
    source = run.spec.model
    entry = find_model(source, "run.spec.model")
    return list(dict.fromkeys([source.name or source.hub.id, entry.name, entry.hub_id]))


def _matches(pattern: str, name: str) -> bool:
    return fnmatch.fnmatchcase(name.casefold(), pattern.casefold().replace("[", "[[]"))


def _number(
    check: check_pb2.Check,
    limit: check_plan_pb2.PolicyLimit,
    where: str,
    *,
    request: check_plan_pb2.CheckPlanRequest,
    estimate: estimate_pb2.Estimate,
    base: estimate_pb2.Estimate | None,
) -> check_pb2.Check:
    metric = metric_of(limit)
    measured = _measured(metric, estimate, request.run)
    if metric in ("cost", "monthly_cost"):
        check.currency_code = limit.max_money.currency_code or estimate.cost.total.currency_code
        _require_currency(limit, where, estimate)
    before = _measured(metric, base, request.base_run) if base is not None else None
    if before is not None:
        check.base.CopyFrom(before)
    bound = _bound(limit, before)
    if bound is not None:
        check.limit = bound
    if measured is None:
        check.field_path, check.message = _missing(metric, estimate)
        return check
    check.measured.CopyFrom(measured)
    if bound is None:
        check.verdict = PASS if base is None else UNDECIDED
        check.message = "nothing to compare with: no base run" if base is None else "unknown in the base run"
        return check
    if limit.HasField("max_increase"):
        check.verdict = PASS if measured.expected <= bound else FAIL
    elif measured.high <= bound:
        check.verdict = PASS
    elif measured.low > bound:
        check.verdict = FAIL
    check.message = f"{measured.expected:g} {check.currency_code} expected, limit {bound:g}"
    if metric == "monthly_cost" and not request.run.runs_per_month:
        check.message += "; one run a month is counted: give runs_per_month"
    return check


def _require_currency(limit: check_plan_pb2.PolicyLimit, where: str, estimate: estimate_pb2.Estimate) -> None:
    asked, have = limit.max_money.currency_code, estimate.cost.total.currency_code
    if asked and have and asked != have:
        text = f"the limit is in {asked}, the price is in {have}; give the limit in {have}"
        raise invalid(f"{where}.max_money.currency_code", text, "CURRENCY_MISMATCH")


def _bound(limit: check_plan_pb2.PolicyLimit, before: evidence_pb2.Interval | None) -> float | None:
    if limit.HasField("max_increase"):
        return before.expected * (1 + limit.max_increase) if before is not None else None
    return to_float(limit.max_money) if limit.HasField("max_money") else limit.max


def _measured(
    metric: str, estimate: estimate_pb2.Estimate, run: estimate_pb2.EstimateRunRequest
) -> evidence_pb2.Interval | None:
    priced, timed = estimate.cost.HasField("total"), estimate.HasField("time")
    profile = profile_of(run, run.spec)
    known: dict[str, evidence_pb2.Interval | None] = {
        "cost": estimate.cost.total.amount if priced else None,
        "monthly_cost": _monthly(estimate, run) if priced else None,
        "duration_seconds": estimate.time.total_seconds if timed else None,
        "device_bytes": estimate.memory.device_bytes,
        "energy_kwh": estimate.cost.energy_kwh if estimate.HasField("cost") else None,
        "carbon_kg": estimate.cost.carbon_kg if estimate.HasField("cost") else None,
        "tokens": _exactly(profile.total_tokens) if profile is not None else None,
        "examples": _exactly(profile.examples) if profile is not None else None,
    }
    return known[metric]


def _monthly(estimate: estimate_pb2.Estimate, run: estimate_pb2.EstimateRunRequest) -> evidence_pb2.Interval:
    """Cost of a month; of one run where no number of runs is stated."""
    return estimate.cost.monthly.amount if run.runs_per_month else estimate.cost.total.amount


def _exactly(number: int) -> evidence_pb2.Interval | None:
    return evidence_pb2.Interval(low=number, expected=number, high=number, coverage=1.0) if number else None


def _missing(metric: str, estimate: estimate_pb2.Estimate) -> tuple[str, str]:
    """Setting by which an unknown number would be known, and what to do."""
    spec = estimate.resolved_spec
    if metric == "tokens":
        return "dataset.profile.total_tokens", f"{metric}: unknown; give dataset.profile.total_tokens"
    fits = estimate.fit.verdict != estimate_summary_pb2.FIT_VERDICT_DOES_NOT_FIT
    if not fits and metric != "examples":
        return "hardware", f"{metric}: unknown, since the run does not fit"
    if estimate.HasField("time"):
        return "ownership", f"{metric}: unknown without a price; state ownership.owned"
    if spec.dataset.path:
        return "dataset.path", f"{metric}: unknown; the server does not read the rows of dataset.path"
    return "dataset.profile.examples", f"{metric}: unknown; give dataset.profile.examples"


def _lifted(check: check_pb2.Check, request: check_plan_pb2.CheckPlanRequest) -> check_pb2.Check:
    """Apply the waiver and the override of a check that does not pass."""
    if check.verdict == PASS:
        return check
    waiver = next((each for each in request.policy.waivers if each.rule_id == check.rule_id), None)
    override = next((each for each in request.overrides if each.rule_id == check.rule_id), None)
    if waiver is not None:
        check.waiver.CopyFrom(waiver)
        if request.evaluation_date <= waiver.until:
            check.verdict = WAIVED
            return check
        check.message += f"; the waiver by {waiver.owner} expired after {waiver.until}"
    if override is not None:
        check.override.CopyFrom(override)
        if check.level == check_pb2.LIMIT_LEVEL_OVERRIDABLE:
            check.verdict = WAIVED
            check.ClearField("waiver")
        else:
            hard = check.level == check_pb2.LIMIT_LEVEL_HARD
            refused = "refused: the limit is hard" if hard else "not needed: the limit is advisory"
            check.message += f"; the override by {override.by} is {refused}"
    return check


def _effect(
    check: check_pb2.Check, undecided: check_plan_pb2.UndecidedPolicy.ValueType
) -> check_pb2.CheckVerdict.ValueType:
    """What a check does to the plan."""
    verdict = check.verdict
    if verdict == UNDECIDED and undecided == check_plan_pb2.UNDECIDED_POLICY_WARN:
        verdict = WARN
    elif verdict == UNDECIDED and undecided == check_plan_pb2.UNDECIDED_POLICY_PASS:
        verdict = PASS
    stops = check.severity == check_pb2.SEVERITY_ERROR
    return WARN if not stops and verdict in (FAIL, UNDECIDED) else verdict
