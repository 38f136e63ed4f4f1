# SPDX-License-Identifier: Apache-2.0
"""Alternatives to a run, each held against the same limits; those that pass are what CheckPlan proposes."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_runtime.errors import DomainError

from finetree_estimator.evidence.calibration import EMPTY, Calibration
from finetree_estimator.spec.resolve import Knowledge
from finetree_estimator.whatif import alternatives, checks
from finetree_estimator.whatif.alternatives import Estimator
from finetree_estimator.whatif.checks import Finding
from finetree_estimator.whatif.policy import findings

MOST = 4
"""Remedies that an answer holds."""
ALIKE = 2
"""Of those, how many may begin with a change to the same setting: four accelerators would hide everything else."""


@dataclass(frozen=True, slots=True)
class Trial:
    """An alternative, the estimate of the run with it, and what each limit of the policy says of that."""

    remedy: pb.Remedy
    estimate: pb.Estimate
    findings: dict[str, Finding]
    """By the rule's id."""

    @property
    def passes(self) -> bool:
        """Whether every limit passes."""
        return all(finding.verdict is checks.Verdict.PASS for finding in self.findings.values())

    def keeps(self, rule_id: str) -> bool:
        """Whether this limit passes, whatever the others say."""
        return self.findings[rule_id].verdict is checks.Verdict.PASS


def tried(
    policy: pb.PlanPolicy,
    run: pb.EstimateRunRequest,
    answer: pb.Estimate,
    estimate: Estimator,
    knowledge: Knowledge,
    *,
    calibration: Calibration = EMPTY,
) -> list[Trial]:
    """Alternatives to a run, the least harmful first; where none passes by itself, also each with a shorter run."""

    def each(remedies: Iterable[pb.Remedy]) -> Iterator[Trial]:
        for remedy in remedies:
            if remedy.patches and (trial := _trial(policy, run, remedy, estimate)) is not None:
                yield trial

    alone = list(each(alternatives.of(policy, run, answer, estimate, knowledge, calibration=calibration)))
    if any(trial.passes for trial in alone):
        return alone
    # What grows with a run's length is brought down last, from where another change has brought everything else.
    both = [
        alternatives.together(trial.remedy, shorter)
        for trial in alone
        for shorter in alternatives.shorter(policy, trial.estimate)
    ]
    return alone + list(each(both))


def best(trials: list[Trial]) -> list[Trial]:
    """The first that pass, of different kinds."""
    chosen: list[Trial] = []
    for trial in trials:
        path = trial.remedy.patches[0].field_path
        alike = sum(other.remedy.patches[0].field_path == path for other in chosen)
        if trial.passes and alike < ALIKE and all(other.remedy.patches != trial.remedy.patches for other in chosen):
            chosen.append(trial)
    return chosen[:MOST]


def _trial(policy: pb.PlanPolicy, run: pb.EstimateRunRequest, remedy: pb.Remedy, estimate: Estimator) -> Trial | None:
    """None where the alternative is none."""
    changed = alternatives.applied(run, remedy)
    try:
        other = estimate(changed)
        found = {finding.rule.rule_id: finding for finding in findings(policy, other, changed)}
    except DomainError:
        return None  # an alternative that contradicts the rest of the run, or is priced in another currency
    if other.fit.verdict != pb.FIT_VERDICT_FITS and remedy.patches[0].field_path.startswith("hardware."):
        return None  # no one is sent to hardware on which the run does not fit, asked for or not
    return Trial(remedy, other, found)
