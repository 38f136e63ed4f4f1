# SPDX-License-Identifier: Apache-2.0
"""The decision: what the rules choose, what fits, and what keeps the limits.

Pure functions of the pack, the answers and the estimator's evidence, so the same input always gives the same answer.
`decide` finds everything that a reply says of a decision, `verdict` no more than the method and the rules.
"""

from dataclasses import dataclass

from finetree_recommender.decision import fit
from finetree_recommender.decision.fit import Constraints, FitResult
from finetree_recommender.decision.stages import Choice, choose
from finetree_recommender.estimator.values import Evidence
from finetree_recommender.method import Method
from finetree_recommender.rule_pack.answers import Answers
from finetree_recommender.rule_pack.pack import Pack


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was decided."""

    method: Method | None
    """None when nothing was shown to train here."""
    rule_id: str
    """Rule that decided."""
    overruled_rule_id: str = ""
    """Rule that gave way to physics; empty when none did."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The verdict and everything that led to it."""

    verdict: Verdict
    choice: Choice
    fit: FitResult

    @property
    def method(self) -> Method | None:
        """The verdict's method."""
        return self.verdict.method

    @property
    def upgrade_advised(self) -> bool:
        """Whether the pack says to upgrade the GPU, or nothing fits."""
        return self.choice.passage.upgrade or self.method is None


def decide(pack: Pack, answers: Answers, evidence: Evidence | None, constraints: Constraints | None = None) -> Decision:
    """Run all stages; without evidence the rules alone decide.

    `constraints` are those of the evidence and of the limits; without them no limit is broken.
    """
    if constraints is None:
        constraints = Constraints(evidence.states if evidence is not None else None)
    choice = choose(pack, answers, constraints.states)
    found = _verdict(pack, choice, constraints)
    fitted = fit.result(pack, choice, constraints, evidence=evidence, method=found.method)
    return Decision(found, choice, fitted)


def verdict(pack: Pack, answers: Answers, constraints: Constraints) -> Verdict:
    """The verdict of `decide`, for any constraints."""
    return _verdict(pack, choose(pack, answers, constraints.states), constraints)


def _verdict(pack: Pack, choice: Choice, constraints: Constraints) -> Verdict:
    """The method that the fit stage takes, the rule that decided for it, and the rule that gave way."""
    method, states = fit.take(pack, choice, constraints), constraints.states
    if choice.passage.upgrade and method is not None:
        return Verdict(method, choice.rule_id, choice.passage.rule.id)
    if method is None and states is not None:
        return Verdict(None, "fit.nothing_fits")
    if method is choice.method or choice.method is None:
        return Verdict(method, choice.rule_id)
    # Where what the rules chose fits, a limit stood against it.
    broken = constraints.violations[choice.method]
    if broken and (states is None or states[choice.method].trains):
        return Verdict(method, broken[0].rule_id, choice.rule_id)
    return Verdict(method, "fit.fits", choice.rule_id)
