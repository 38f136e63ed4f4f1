# SPDX-License-Identifier: Apache-2.0
"""The CheckPlan reply."""

from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_api.types.v1 import evidence_pb2 as ev

from finetree_estimator.messages.estimate import basic_message, patch_message, verdict_value
from finetree_estimator.messages.provenance import interval_message, optional_interval
from finetree_estimator.whatif.alternatives import Trial
from finetree_estimator.whatif.changes import Patch
from finetree_estimator.whatif.check_plan import PlanCheck
from finetree_estimator.whatif.fallbacks import Answer
from finetree_estimator.whatif.policy import Finding, Verdict, hours, money, size


def check_plan_response(check: PlanCheck, revision: ev.Revision) -> pb.CheckPlanResponse:
    """The verdict with every limit's finding, and changes after which all pass."""
    return pb.CheckPlanResponse(
        verdict=_verdict_value(check.verdict),
        checks=[_check(finding, check.fixes.get(finding.rule.rule_id)) for finding in check.findings],
        estimate=basic_message(check.answer, revision),
        remedies=map(_remedy, check.remedies),
        no_remedy=check.no_remedy,
    )


def _check(finding: Finding, fix: Patch | None) -> ev.Check:
    return ev.Check(
        rule_id=finding.rule.rule_id,
        severity=ev.SEVERITY_ERROR,
        verdict=_verdict_value(finding.verdict),
        measured=optional_interval(finding.measured),
        limit=finding.limit,
        field_path=finding.rule.field_path,
        help=finding.help,
        fix=patch_message(fix) if fix is not None else None,
    )


def _remedy(trial: Trial) -> pb.Remedy:
    """An alternative with its own memory and fit."""
    estimate = trial.answer.estimate
    return pb.Remedy(
        patches=map(patch_message, trial.alternative.patches),
        device_bytes=interval_message(estimate.memory.device),
        verdict=verdict_value(estimate.fit.verdict),
        summary=f"{trial.alternative.summary}: {_outcome(trial.answer)}",
    )


def _outcome(answer: Answer) -> str:
    """Memory, time and cost of a run in one line."""
    estimate = answer.estimate
    parts = [size(estimate.memory.device.expected)]
    if estimate.times is not None:
        parts.append(hours(estimate.times.total.expected))
    if estimate.cost is not None and estimate.cost.amount is not None:
        parts.append(money(estimate.cost.currency)(estimate.cost.amount.expected))
    return ", ".join(parts)


def _verdict_value(verdict: Verdict) -> ev.CheckVerdict.ValueType:
    return ev.CheckVerdict.Value(f"CHECK_VERDICT_{verdict.name}")
