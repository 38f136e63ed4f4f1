# SPDX-License-Identifier: Apache-2.0
"""Why no change to a run keeps its limits: limit by limit, how near the nearest change comes, or what is missing."""

from collections.abc import Iterable

from finetree_estimator.whatif.checks import Finding, Verdict
from finetree_estimator.whatif.trials import Trial

CONFIDENCE = "policy.min_confidence"
"""The limit that has no number to come near to."""


def why(found: Iterable[Finding], trials: list[Trial], *, movable: bool) -> str:
    """One line for people, from what the run does not pass and from what was tried.

    `movable` says whether other hardware was among it.
    """
    parts = [_of(finding, trials) for finding in found if finding.verdict is not Verdict.PASS]
    if not movable:
        parts.append("other hardware is not proposed where it is owned, has no GPU or has no name")
    tried = f"none of {len(trials)} changes that were tried" if len(trials) > 1 else "not the one change that was tried"
    return f"{tried if trials else 'nothing is left to change'}: {'; '.join(parts)}"


def _of(finding: Finding, trials: list[Trial]) -> str:
    """What stands in the way of one limit."""
    rule_id = finding.rule.rule_id
    if finding.measured is None:
        return f"{rule_id} cannot be told, {finding.help}"
    for trial in trials:
        if trial.keeps(rule_id):
            return f"{rule_id} passes {_by(trial)}, but then {_others(trial)}"
    if rule_id == CONFIDENCE:
        return f"{rule_id} depends on how near measured runs are, and none is nearer then"
    return f"{rule_id} {_nearest(finding, trials)}"


def _by(trial: Trial) -> str:
    summary = trial.remedy.summary
    return summary if summary.startswith("on ") else f"with {summary}"


def _others(trial: Trial) -> str:
    """The limits that a change does not keep."""
    broken = [rule_id for rule_id, finding in trial.findings.items() if finding.verdict is not Verdict.PASS]
    return f"{' and '.join(broken)} {'does' if len(broken) == 1 else 'do'} not"


def _nearest(finding: Finding, trials: list[Trial]) -> str:
    """The lowest upper end that was reached, and what with."""
    rule_id, write = finding.rule.rule_id, finding.rule.text
    reached = [(_excess(finding), "as it is", finding)]
    reached += [(_excess(trial.findings[rule_id]), _by(trial), trial.findings[rule_id]) for trial in trials]
    _, how, nearest = min(reached, key=lambda item: item[0])
    if nearest.measured is None:
        return f"cannot be told, {nearest.help}"
    return f"may still take {write(nearest.measured.high)} {how}, limit {write(nearest.limit)}"


def _excess(finding: Finding) -> float:
    """The upper end as a share of the limit; without end where it is unknown or nothing is allowed."""
    if finding.measured is None or not finding.limit:
        return float("inf") if finding.measured is None else finding.measured.high
    return finding.measured.high / finding.limit
