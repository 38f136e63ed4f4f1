# SPDX-License-Identifier: Apache-2.0
"""Check of a run against a policy: findings, and changes after which it passes, or why there are none."""

from collections.abc import Iterable
from dataclasses import dataclass

from finetree_api.estimator.v1 import check_plan_pb2, estimate_pb2
from finetree_runtime.errors import DomainError, invalid_field

from finetree_estimator.evidence.calibration import EMPTY, Calibration
from finetree_estimator.spec.parse import with_spec
from finetree_estimator.spec.resolve import Knowledge
from finetree_estimator.whatif.alternatives import Search, Trial, best, movable, why_none
from finetree_estimator.whatif.changes import Patch
from finetree_estimator.whatif.fallbacks import Answer, answer_request
from finetree_estimator.whatif.policy import Finding, Verdict, findings, overall, read_limits


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
    """Trials that pass every limit."""
    no_remedy: str
    """Why there are no remedies, in one line; empty where there are some or none is needed."""


def check_plan(
    request: check_plan_pb2.CheckPlanRequest, knowledge: Knowledge, calibration: Calibration = EMPTY
) -> PlanCheck:
    """Check a run against a policy.

    Raises:
        DomainError: Every error of an estimate, with field paths below `run`; CURRENCY_MISMATCH.
    """
    if request.run.fallbacks:
        raise invalid_field(
            "run.fallbacks", "must be empty: CheckPlan checks one run; merge the fallback into run.spec"
        )
    run = with_spec(request.run, request.run.spec)
    run.view = estimate_pb2.ESTIMATE_VIEW_BASIC
    try:
        answer = answer_request(run, knowledge, calibration)
    except DomainError as error:
        raise _below("run", error) from error
    limits = read_limits(request.policy)
    found = tuple(findings(limits, answer))
    verdict = overall(found)
    if all(finding.verdict is Verdict.PASS for finding in found):
        return PlanCheck(verdict=verdict, answer=answer, findings=found, fixes={}, remedies=(), no_remedy="")
    trials = Search(limits=limits, answer=answer, knowledge=knowledge, calibration=calibration).trials()
    remedies = tuple(best(trials))
    no_remedy = "" if remedies else why_none(found, trials, hardware_tried=movable(run.spec))
    return PlanCheck(
        verdict=verdict,
        answer=answer,
        findings=found,
        fixes=_fixes(found, trials),
        remedies=remedies,
        no_remedy=no_remedy,
    )


def _fixes(found: Iterable[Finding], trials: list[Trial]) -> dict[str, Patch]:
    """First single change after which a limit passes, by rule id of the limits that do not pass."""
    single = [trial for trial in trials if len(trial.alternative.patches) == 1]
    fixes: dict[str, Patch] = {}
    for finding in found:
        rule_id = finding.rule_id
        if finding.verdict is not Verdict.PASS:
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
