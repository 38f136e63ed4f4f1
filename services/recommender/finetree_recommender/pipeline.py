# SPDX-License-Identifier: Apache-2.0
"""The decision: hardware gate, multi-task override, votes, what matters, tree leaf, order of stars, demands, fit.

Every stage is a pure function of the pack, the answers and the estimator's evidence, so the same input always gives
the same answer.
"""

from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from finetree_recommender import fit, gate, ties, tree, votes
from finetree_recommender.answers import Answers, matches
from finetree_recommender.estimates import Evidence
from finetree_recommender.gate import Passage
from finetree_recommender.methods import Method
from finetree_recommender.pack import Pack
from finetree_recommender.trace import Step
from finetree_recommender.votes import Ballot

NOTHING_BROKEN: fit.Broken = MappingProxyType({})
"""No method breaks anything."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What the rules chose, before physics."""

    method: Method | None
    """None where the playbook says upgrade."""
    order: tuple[Method, ...]
    """What the fit stage tries, in this order."""
    rule_id: str
    passage: Passage
    ballot: Ballot
    tied: bool
    overridden: bool
    steps: tuple[Step, ...]
    default_rule_id: str = ""
    """Rule of the method that is said to whoever says nothing."""


@dataclass(frozen=True, slots=True)
class Decision:
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


def decide(pack: Pack, answers: Answers, evidence: Evidence | None, broken: fit.Broken = NOTHING_BROKEN) -> Decision:
    """Run all stages; without evidence the rules alone decide. `broken` is what each method would break."""
    choice = choose(pack, answers, evidence)
    # Without figures a method beyond the gate has nothing to speak for it.
    order = choice.order if evidence is not None else tuple(m for m in choice.order if m in choice.passage.feasible)
    settled = fit.settle(pack, evidence, order, broken, proof_needed=choice.passage.upgrade)
    if choice.passage.upgrade and settled.method is not None:
        return Decision(choice, settled, choice.rule_id, choice.passage.step.rule_id)
    if settled.method is None and evidence is not None:
        return Decision(choice, settled, "fit.nothing_fits", "")
    if settled.method is choice.method:
        return Decision(choice, settled, choice.rule_id, "")
    # Where what the rules chose fits, a wish stood against it.
    wishes = settled.passed.get(choice.method, ()) if choice.method is not None else ()
    return Decision(choice, settled, wishes[0].rule_id if wishes else "fit.fits", choice.rule_id)


def choose(pack: Pack, answers: Answers, evidence: Evidence | None = None) -> Choice:
    """Run the stages before the fit; of the estimate they read at most which methods fit, where the pack asks so."""
    physics = pack.rules.gate.physics is not None and evidence is not None
    return _choose(pack, answers.only(_inputs_read(pack)), fit.states(evidence) if physics and evidence else None)


@lru_cache(maxsize=16384)
def _choose(pack: Pack, answers: Answers, states: fit.States | None) -> Choice:
    """Kept, for a recommendation asks for the verdict of every single change of its answers."""
    passage = gate.pass_gate(pack, answers, states)
    ballot = votes.count(pack, answers, passage.feasible)
    if passage.upgrade:
        return _upgrade(pack, answers, passage, ballot)
    special = tree.override(pack, answers)
    leaf = tree.leaf(pack, answers, passage.feasible)
    leaders = ballot.leaders
    steps = (passage.step, *ballot.steps)
    if special is not None and special.method in passage.feasible:
        order = _order(pack, answers, ballot, leaf.method, special.method)
        steps = (passage.step, *special.steps, *ballot.steps)
        return Choice(special.method, order, special.rule_id, passage, ballot, tied=False, overridden=True, steps=steps)
    if len(leaders) == 1 and ballot.total(leaders[0]) > 0:
        step = _plurality(pack, ballot, leaders[0])
        order = _order(pack, answers, ballot, leaf.method, leaders[0])
        rule_id, steps = step.rule_id, (*steps, step)
        return Choice(leaders[0], order, rule_id, passage, ballot, tied=False, overridden=False, steps=steps)
    # A leaf that nothing contradicts is no tie: no question was answered.
    tied = ballot.total(leaders[0]) > 0
    preferred = ties.narrow(pack, answers, leaders)
    steps = (*steps, *preferred.steps)
    if preferred.steps and len(preferred.methods) == 1:
        winner, rule_id = preferred.methods[0], preferred.steps[-1].rule_id
        order = _order(pack, answers, ballot, leaf.method, winner)
        return Choice(winner, order, rule_id, passage, ballot, tied=tied, overridden=False, steps=steps)
    leaders, steps = preferred.methods, (*steps, *leaf.steps)
    winner, rule_id = leaf.method, leaf.rule_id
    if winner not in leaders:
        winner, rule_id = leaders[0], pack.rules.stars_order.id
        stars = pack.provenance(pack.rules.stars_order.source)
        steps = (*steps, Step("star_order", rule_id, f"first by stars: {winner}", stars))
    order = _order(pack, answers, ballot, leaf.method, winner)
    default = pack.rules.default_leaf.id
    return Choice(
        winner, order, rule_id, passage, ballot, tied=tied, overridden=False, steps=steps, default_rule_id=default
    )


@lru_cache(maxsize=64)
def _inputs_read(pack: Pack) -> frozenset[str]:
    """Inputs that some rule of these stages reads."""
    rules = pack.rules
    whens = [rule.when for rule in (rules.override, rules.default_leaf, *rules.use_cases)]
    whens += [node.when for node in rules.tree.nodes] + [rule.when for rule in rules.upgrade] + [rules.override.unless]
    named = {name for when in whens for name in when}
    asked = {question.input for question in rules.questions} | {rule.input for rule in rules.tie_breaks}
    return frozenset({"memory"} | named | asked)


def _upgrade(pack: Pack, answers: Answers, passage: Passage, ballot: Ballot) -> Choice:
    rule = next(item for item in pack.rules.upgrade if matches(item.when, answers))
    words = f"if the estimator shows that it fits: {', '.join(rule.order)}"
    step = Step("upgrade", rule.id, words, pack.provenance(rule.source), answers.read(*rule.when))
    steps = (passage.step, *ballot.steps, step)
    return Choice(None, rule.order, rule.id, passage, ballot, tied=False, overridden=False, steps=steps)


def _plurality(pack: Pack, ballot: Ballot, winner: Method) -> Step:
    tally = ", ".join(f"{method} {ballot.total(method)}" for method in ballot.feasible)
    return Step("votes", "votes.plurality", f"{winner} has the most votes ({tally})", pack.provenance("resolution: B6"))


def _order(pack: Pack, answers: Answers, ballot: Ballot, leaf: Method, winner: Method) -> tuple[Method, ...]:
    """Winner, then feasible methods by votes, what matters, leaf and stars, then the rest by stars."""
    matter = ties.applying(pack, answers)

    def rank(method: Method) -> tuple[bool, bool, int, tuple[int, ...], bool, int]:
        feasible = method in ballot.feasible
        votes_for = ballot.total(method) if feasible else 0
        tiers = tuple(rule.rank(method) for rule in matter)
        return (method is not winner, not feasible, -votes_for, tiers, method is not leaf, pack.stars_rank(method))

    return tuple(sorted(Method, key=rank))
