# SPDX-License-Identifier: Apache-2.0
"""CheckPlan: an estimate held against a policy's limits, and what would pass instead, or why nothing would."""

from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_api.types.v1 import evidence_pb2 as ev
from finetree_runtime.errors import DomainError, invalid_field

from finetree_estimator.evidence.calibration import EMPTY, Calibration
from finetree_estimator.messages.provenance import interval_message
from finetree_estimator.spec.resolve import Knowledge
from finetree_estimator.whatif import alternatives, checks, impasse
from finetree_estimator.whatif.alternatives import Estimator
from finetree_estimator.whatif.checks import Finding
from finetree_estimator.whatif.policy import findings, require_limit
from finetree_estimator.whatif.trials import Trial, best, tried


def check_plan(
    request: pb.CheckPlanRequest, estimate: Estimator, knowledge: Knowledge, calibration: Calibration = EMPTY
) -> pb.CheckPlanResponse:
    """Hold a run against a policy.

    Raises:
        DomainError: What the estimate of the run raises, its paths below `run`; POLICY_EMPTY, CURRENCY_UNKNOWN.
    """
    require_limit(request.policy)
    if request.run.fallbacks:
        raise invalid_field("run.fallbacks", "a plan is one run: take over what is meant into its spec")
    run = pb.EstimateRunRequest()
    run.CopyFrom(request.run)
    run.view = pb.ESTIMATE_VIEW_BASIC
    try:
        answer = estimate(run)
    except DomainError as error:
        raise _below("run", error) from error
    found = list(findings(request.policy, answer, run))
    reply = pb.CheckPlanResponse(verdict=_verdict(checks.overall(found)), estimate=answer)
    trials: list[Trial] = []
    if checks.overall(found) is not checks.Verdict.PASS:
        trials = tried(request.policy, run, answer, estimate, knowledge, calibration=calibration)
        reply.remedies.extend(_remedy(trial) for trial in best(trials))
        if not reply.remedies:
            reply.no_remedy = impasse.why(found, trials, movable=alternatives.movable(run.spec))
    reply.checks.extend(_message(finding, trials) for finding in found)
    return reply


def _message(finding: Finding, trials: list[Trial]) -> ev.Check:
    message = ev.Check(
        rule_id=finding.rule.rule_id,
        severity=ev.SEVERITY_ERROR,
        verdict=_verdict(finding.verdict),
        limit=finding.limit,
        field_path=finding.rule.field_path,
        help=finding.help,
    )
    if finding.measured is not None:
        message.measured.CopyFrom(interval_message(finding.measured))
    if finding.verdict is not checks.Verdict.PASS and (fix := _fix(finding.rule.rule_id, trials)) is not None:
        message.fix.CopyFrom(fix)
    return message


def _fix(rule_id: str, trials: list[Trial]) -> ev.SpecPatch | None:
    """The least harmful single change after which this rule passes, whatever the others say."""
    for trial in trials:
        if len(trial.remedy.patches) == 1 and trial.keeps(rule_id):
            return trial.remedy.patches[0]
    return None


def _remedy(trial: Trial) -> pb.Remedy:
    """The alternative with its own memory and fit."""
    return pb.Remedy(
        patches=trial.remedy.patches,
        device_bytes=trial.estimate.memory.device_bytes,
        verdict=trial.estimate.fit.verdict,
        summary=f"{trial.remedy.summary}: {_outcome(trial.estimate)}",
    )


def _outcome(answer: pb.Estimate) -> str:
    parts = [checks.size(answer.memory.device_bytes.expected)]
    if answer.HasField("time"):
        parts.append(checks.hours(answer.time.total_seconds.expected))
    if answer.cost.HasField("amount"):
        parts.append(checks.money(answer.cost.currency_code)(answer.cost.amount.expected))
    return ", ".join(parts)


def _below(root: str, error: DomainError) -> DomainError:
    """The same error with the paths that it has in a request that holds the run as a field."""
    paths = {item.field_path: f"{root}.{item.field_path}" for item in error.violations}
    first = next(iter(paths), "")
    message = f"{root}.{error.message}" if first and error.message.startswith(first) else error.message
    violations = [(paths[item.field_path], item.description, item.reason) for item in error.violations]
    return type(error)(
        error.reason, message, metadata=error.metadata, violations=violations, retry_delay=error.retry_delay
    )


def _verdict(verdict: checks.Verdict) -> ev.CheckVerdict.ValueType:
    return ev.CheckVerdict.Value(f"CHECK_VERDICT_{verdict.name}")
