# SPDX-License-Identifier: Apache-2.0
"""Message of CheckPlan."""

from finetree_api.estimator.v1 import check_plan_pb2, estimate_pb2
from finetree_api.types.v1 import check_pb2, evidence_pb2

from finetree_estimator.messages.estimate import basic_message, verdict_value
from finetree_estimator.messages.provenance import interval_message, money_interval, optional_interval
from finetree_estimator.messages.searches import patch_message
from finetree_estimator.whatif.alternatives import Trial
from finetree_estimator.whatif.changes import Patch
from finetree_estimator.whatif.check_plan import PlanCheck
from finetree_estimator.whatif.fallbacks import Answer
from finetree_estimator.whatif.findings import Finding, Verdict
from finetree_estimator.whatif.policy import NAMED, Metric
from finetree_estimator.whatif.quantities import duration, money, size

_UNITS = {
    Metric.COST: check_pb2.CHECK_UNIT_MONEY,
    Metric.MONTHLY_COST: check_pb2.CHECK_UNIT_MONEY,
    Metric.DURATION_SECONDS: check_pb2.CHECK_UNIT_SECONDS,
    Metric.DEVICE_BYTES: check_pb2.CHECK_UNIT_BYTES,
    Metric.FIT: check_pb2.CHECK_UNIT_BYTES,
    Metric.ENERGY_KWH: check_pb2.CHECK_UNIT_KILOWATT_HOURS,
    Metric.CARBON_KG: check_pb2.CHECK_UNIT_KILOGRAMS_CO2,
    Metric.CONFIDENCE: check_pb2.CHECK_UNIT_CONFIDENCE_LEVEL,
    Metric.EXAMPLES: check_pb2.CHECK_UNIT_UNSPECIFIED,
    Metric.TOKENS: check_pb2.CHECK_UNIT_TOKENS,
    **dict.fromkeys(NAMED, check_pb2.CHECK_UNIT_UNSPECIFIED),
}


def check_plan_response(check: PlanCheck, revision: evidence_pb2.Revision) -> check_plan_pb2.CheckPlanResponse:
    """Write the verdict, the finding of every limit, and changes after which all limits pass."""
    return check_plan_pb2.CheckPlanResponse(
        verdict=_verdict_value(check.verdict),
        checks=[_check(finding, check.fixes.get(finding.rule_id)) for finding in check.findings],
        estimate=basic_message(check.answer, revision),
        remedies=map(_remedy, check.remedies),
        no_remedy=check.no_remedy,
    )


def _check(finding: Finding, fix: Patch | None) -> check_pb2.Check:
    return check_pb2.Check(
        rule_id=finding.rule_id,
        severity=check_pb2.Severity.Value(f"SEVERITY_{finding.limit.severity.name}"),
        verdict=_verdict_value(finding.verdict),
        measured=optional_interval(finding.measured),
        limit=finding.bound,
        unit=_UNITS[finding.limit.metric],
        currency_code=finding.limit.currency,
        field_path=finding.setting,
        fix=patch_message(fix) if fix is not None else None,
        message=finding.message,
        base=optional_interval(finding.limit.base),
        level=check_pb2.LimitLevel.Value(f"LIMIT_LEVEL_{finding.limit.level.name}"),
        measured_name=finding.name,
        allowed=finding.limit.allowed,
        denied=finding.limit.denied,
        waiver=finding.waiver,
        override=finding.override,
    )


def _remedy(trial: Trial) -> estimate_pb2.Remedy:
    """Write an alternative with the memory and the fit after it."""
    estimate = trial.answer.estimate
    price = estimate.price
    return estimate_pb2.Remedy(
        patches=map(patch_message, trial.alternative.patches),
        device_bytes=interval_message(estimate.memory.device),
        verdict=verdict_value(estimate.fit.verdict),
        summary=f"{trial.alternative.summary}: {_outcome(trial.answer)}",
        total_seconds=optional_interval(estimate.duration.total if estimate.duration is not None else None),
        cost=money_interval(price.amount, price.currency) if price is not None else None,
    )


def _outcome(answer: Answer) -> str:
    """Summarize memory, time and cost of a run in one line."""
    estimate = answer.estimate
    parts = [size(estimate.memory.device.expected)]
    if estimate.duration is not None:
        parts.append(duration(estimate.duration.total.expected))
    if estimate.price is not None and estimate.price.amount is not None:
        parts.append(money(estimate.price.amount.expected, estimate.price.currency))
    return ", ".join(parts)


def _verdict_value(verdict: Verdict) -> check_pb2.CheckVerdict.ValueType:
    return check_pb2.CheckVerdict.Value(f"CHECK_VERDICT_{verdict.name}")
