# SPDX-License-Identifier: Apache-2.0
"""The decision: what the rules choose, what is demanded, and what fits.

Pure functions of the pack, the answers and the estimator's evidence, so the same input always gives the same answer.
`decide` finds everything that a reply says of a decision, `verdict` no more than the method and the rule.
"""

from collections.abc import Iterable
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

from finetree_recommender.decision import fit
from finetree_recommender.decision.fit import Ground
from finetree_recommender.decision.stages import Choice, Leaning, Verdict, choose, lean, read_states
from finetree_recommender.estimator.values import Evidence, FitState
from finetree_recommender.method import Method
from finetree_recommender.policy.answers import Answers
from finetree_recommender.policy.pack import Pack

NOTHING_BROKEN: fit.Broken = MappingProxyType({})
"""No method breaks anything."""


class Decision(NamedTuple):
    """The verdict and everything that led to it, the fit stage's own trace aside."""

    choice: Choice
    settled: fit.Settlement
    rule_id: str
    """Rule that decided."""
    overruled_rule_id: str
    """Rule that gave way to physics; empty when none did."""

    @property
    def method(self) -> Method | None:
        """The verdict; None when nothing was shown to train here."""
        return self.settled.method

    @property
    def upgrade_advised(self) -> bool:
        """Whether the playbook's words are to upgrade the GPU, or nothing fits."""
        return self.choice.passage.upgrade or self.method is None


class Outcome(NamedTuple):
    """What a decision comes to, without the way to it."""

    method: Method | None
    rule_id: str
    """Rule that decided."""
    overruled_rule_id: str
    """Rule that gave way to physics; empty when none did."""


def decide(
    pack: Pack,
    answers: Answers,
    evidence: Evidence | None,
    broken: fit.Broken = NOTHING_BROKEN,
    ground: Ground | None = None,
) -> Decision:
    """Run all stages; without evidence the rules alone decide. `broken` is what each method would break.

    `ground` is that of the evidence and of what would be broken; without it nothing is.
    """
    ground = ground if ground is not None else fit.ground(evidence)
    choice = choose(pack, answers, evidence)
    leaning = choice.leaning
    found = _outcome(pack, leaning, ground)
    order = leaning.tried(priced=ground.states is not None)
    settled = fit.settlement(pack, evidence, order, broken, found.method, proof_needed=leaning.upgrade)
    return Decision(choice, settled, found.rule_id, found.overruled_rule_id)


def outcome(pack: Pack, answers: Answers, ground: Ground) -> Outcome:
    """What `decide` comes to, where the ground is that of its evidence and of what would be broken.

    Best asked with the `gist` of answers, as a `verdict` is.
    """
    return _outcome(pack, lean(pack, answers, read_states(pack, ground.states)), ground)


def _outcome(pack: Pack, leaning: Leaning, ground: Ground) -> Outcome:
    order = leaning.tried(priced=ground.states is not None)
    method = fit.taken(pack, ground, order, leaning.above, proof_needed=leaning.upgrade)
    return Outcome(method, *_ruling(leaning, method, ground))


def verdict(pack: Pack, answers: Answers, ground: Ground) -> Verdict:
    """The method and the rule of `decide`, where the ground is that of its evidence and of what would be broken.

    Best asked with the `gist` of answers: what no rule tells apart would only fill the place of what is kept.
    """
    (found,) = verdicts(pack, (lean(pack, answers, read_states(pack, ground.states)),), ground)
    return found


def verdicts(pack: Pack, leanings: Iterable[Leaning], ground: Ground) -> list[Verdict]:
    """The `verdict` for each of what the rules before the fit may lean to; a recommendation asks for dozens."""
    sound, priced, found = fit.sound(ground), ground.states is not None, []
    for leaning in leanings:
        order = leaning.order if priced else leaning.within
        # As it mostly is, what comes first does.
        if order and order[0] in sound and (priced or not leaning.upgrade):
            method: Method | None = order[0]
            if method is leaning.verdict.method:
                found.append(leaning.verdict)
                continue
        else:
            method = _taken(pack, ground, order, leaning.above, proof_needed=leaning.upgrade)
        found.append(Verdict(method, _ruling(leaning, method, ground)[0]))
    return found


_taken = lru_cache(maxsize=16384)(fit.taken)


def _ruling(leaning: Leaning, method: Method | None, ground: Ground) -> tuple[str, str]:
    """The rule that decided for a method, and the rule that gave way; empty when none did."""
    chosen, rule_id = leaning.verdict
    if leaning.upgrade and method is not None:
        return rule_id, leaning.gate_rule_id
    if method is None and ground.states is not None:
        return "fit.nothing_fits", ""
    if method is chosen or chosen is None:
        return rule_id, ""
    # Where what the rules chose fits, a wish stood against it.
    fits = ground.states is None or ground.state(chosen) in (FitState.FITS, FitState.TIGHT)
    wish = ground.burden(chosen).rule_id if fits else ""
    return wish or "fit.fits", rule_id
