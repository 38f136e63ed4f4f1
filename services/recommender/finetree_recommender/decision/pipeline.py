# SPDX-License-Identifier: Apache-2.0
"""The decision: the method that the rules choose, that fits and that keeps the limits.

Pure functions of the pack, the answers and the estimator's evidence, so the same input always gives the same answer.
`decide` finds everything that a reply says of a decision, `verdict_of` no more than the method and the rules.
"""

from dataclasses import dataclass

from finetree_recommender.decision import fit
from finetree_recommender.decision.fit import NO_VIOLATIONS, Constraints, FitResult, Violations
from finetree_recommender.decision.stages import Choice, choose
from finetree_recommender.estimator.values import Evidence
from finetree_recommender.method import Method
from finetree_recommender.rule_pack.answers import Answers
from finetree_recommender.rule_pack.pack import Pack


@dataclass(frozen=True, slots=True)
class Verdict:
    """Method and deciding rule."""

    method: Method | None
    """None when no method was shown to fit."""
    rule_id: str
    """Rule that decided."""
    overruled_rule_id: str = ""
    """Rule that the estimate or a limit overruled; empty when none."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Verdict, with everything that led to it."""

    verdict: Verdict
    choice: Choice
    fit: FitResult

    @property
    def method(self) -> Method | None:
        """The verdict's method."""
        return self.verdict.method

    @property
    def upgrade_advised(self) -> bool:
        """Whether the pack says to upgrade the GPU, or no method fits."""
        return self.choice.passage.upgrade or self.method is None


def decide(
    pack: Pack, answers: Answers, evidence: Evidence | None, *, constraints: Constraints | None = None
) -> Decision:
    """Run all stages; without estimates the rules decide alone.

    `constraints` are those of the evidence and of the limits; without them no limit is broken.
    """
    if constraints is None:
        constraints = constrained(evidence)
    choice = choose(pack, answers, constraints.states, constraints.peaks)
    found = verdict_of(pack, choice, constraints)
    fitted = fit.result(pack, choice, constraints, evidence=evidence, method=found.method)
    return Decision(found, choice, fitted)


def constrained(evidence: Evidence | None, violations: Violations = NO_VIOLATIONS) -> Constraints:
    """Build what a verdict reads of the estimates and of the limits."""
    if evidence is None:
        return Constraints(None, violations=violations)
    return Constraints(evidence.states, evidence.peaks, violations)


def verdict_of(pack: Pack, choice: Choice, constraints: Constraints) -> Verdict:
    """Find the method that the fit stage takes of a choice, with the deciding rule and the overruled one."""
    method, states = fit.take(pack, choice, constraints), constraints.states
    if choice.passage.upgrade and method is not None:
        return Verdict(method, choice.rule_id, choice.passage.rule.id)
    if method is None and states is not None:
        return Verdict(None, "fit.nothing_fits")
    if method is choice.method or choice.method is None:
        return Verdict(method, choice.rule_id)
    broken = constraints.violations[choice.method]
    if broken and (states is None or fit.passed_over(states[choice.method], broken)):
        return Verdict(method, broken[0].rule_id, choice.rule_id)
    return Verdict(method, "fit.fits", choice.rule_id)
