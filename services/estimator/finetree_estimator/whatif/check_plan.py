# SPDX-License-Identifier: Apache-2.0
"""Check of a run against a policy: findings, and changes after which it passes, or why there are none."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from finetree_api.estimator.v1 import check_plan_pb2, estimate_pb2
from finetree_runtime.errors import DomainError, invalid_field

from finetree_estimator.evidence.calibration import EMPTY, Calibration
from finetree_estimator.spec.parse import with_spec
from finetree_estimator.spec.resolve import Knowledge
from finetree_estimator.whatif.alternatives import Search, Trial, best, movable, why_none
from finetree_estimator.whatif.changes import Patch
from finetree_estimator.whatif.fallbacks import Answer, answer_request
from finetree_estimator.whatif.findings import Finding, Verdict, findings, is_settled, overall
from finetree_estimator.whatif.measured import predicted
from finetree_estimator.whatif.policy import NUMBERS, Policy, read_policy, with_base


@dataclass(frozen=True, slots=True)
class PlanCheck:
    """Result of a check of a run against a policy."""

    verdict: Verdict
    answer: Answer
    findings: tuple[Finding, ...]
    """One for each limit, in the policy's order."""
    fixes: dict[str, Patch]
    """By rule id: the least harmful single change after which that limit passes."""
    remedies: tuple[Trial, ...]
    """Trials that pass every limit that is not lifted."""
    no_remedy: str
    """Why there are no remedies, in one line; empty where there are some or none is needed."""


def check_plan(
    request: check_plan_pb2.CheckPlanRequest, knowledge: Knowledge, calibration: Calibration = EMPTY
) -> PlanCheck:
    """Check a run against a policy.

    Raises:
        DomainError: Every error of an estimate, with field paths below `run` or `base_run`; CURRENCY_MISMATCH; a policy
            that contradicts itself.
    """
    policy = read_policy(request)
    answer = _answer(request.run, "run", knowledge, calibration)
    if request.HasField("base_run"):
        policy = _compared(policy, _answer(request.base_run, "base_run", knowledge, calibration))
    found = findings(policy, answer)
    verdict = overall(found, policy.undecided)
    if all(is_settled(finding, policy.undecided) for finding in found):
        return PlanCheck(verdict=verdict, answer=answer, findings=found, fixes={}, remedies=(), no_remedy="")
    open_limits = tuple(finding.limit for finding in found if finding.verdict is not Verdict.WAIVED)
    search = Search(policy=policy, limits=open_limits, answer=answer, knowledge=knowledge, calibration=calibration)
    trials = search.trials()
    remedies = tuple(best(trials))
    hardware_tried = movable(request.run.spec)
    no_remedy = "" if remedies else why_none(found, trials, undecided=policy.undecided, hardware_tried=hardware_tried)
    return PlanCheck(
        verdict=verdict,
        answer=answer,
        findings=found,
        fixes=_fixes(found, trials),
        remedies=remedies,
        no_remedy=no_remedy,
    )


def _answer(
    given: estimate_pb2.EstimateRunRequest, path: str, knowledge: Knowledge, calibration: Calibration
) -> Answer:
    """Estimate a run of the request in the BASIC view. Raises DomainError with field paths below `path`."""
    if given.fallbacks:
        text = "must be empty: CheckPlan checks one run; merge the fallback into its spec"
        raise invalid_field(f"{path}.fallbacks", text)
    run = with_spec(given, given.spec)
    run.view = estimate_pb2.ESTIMATE_VIEW_BASIC
    try:
        return answer_request(run, knowledge, calibration)
    except DomainError as error:
        raise _below(path, error) from error


def _compared(policy: Policy, base: Answer) -> Policy:
    """Add the base run's numbers to the limits."""
    currency = base.estimate.cost.currency if base.estimate.cost is not None else ""
    limits = tuple(
        with_base(limit, predicted(limit.metric, base), currency=currency) if limit.metric in NUMBERS else limit
        for limit in policy.limits
    )
    return replace(policy, limits=limits)


def _fixes(found: Iterable[Finding], trials: list[Trial]) -> dict[str, Patch]:
    """First single change after which a limit passes, by rule id of the limits that do not pass."""
    single = [trial for trial in trials if len(trial.alternative.patches) == 1]
    fixes: dict[str, Patch] = {}
    for finding in found:
        rule_id = finding.rule_id
        if finding.verdict not in (Verdict.PASS, Verdict.WAIVED):
            patches = (trial.alternative.patches[0] for trial in single if trial.keeps(rule_id))
            fixes.update((rule_id, patch) for patch in [next(patches, None)] if patch is not None)
    return fixes


def _below(root: str, error: DomainError) -> DomainError:
    """Copy an error with field paths below `root`."""
    paths = {item.field_path: f"{root}.{item.field_path}" for item in error.violations}
    first = next(iter(paths), "")
    message = f"{root}.{error.message}" if first and error.message.startswith(first) else error.message
    violations = [(paths[item.field_path], item.description, item.reason) for item in error.violations]
    return type(error)(
        error.reason, message, metadata=error.metadata, violations=violations, retry_delay=error.retry_delay
    )
