# SPDX-License-Identifier: Apache-2.0
"""The decision: hardware gate, multi-task override, votes, what matters, tree leaf, order of stars, demands, fit.

Every stage is a pure function of the pack, the answers and the estimator's evidence, so the same input always gives
the same answer. A recommendation asks for dozens of verdicts, one for each change of its input, and tells one: stages
therefore find first, and make the words of the trace when those are read. `decide` finds everything that a reply says
of a decision, `verdict` no more than the method and the rule.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from types import MappingProxyType
from typing import NamedTuple, Protocol

from finetree_recommender import fit, gate, ties, tree, votes
from finetree_recommender.answers import NAMES, Answers, matches
from finetree_recommender.estimates import Evidence, FitState
from finetree_recommender.fit import Ground
from finetree_recommender.gate import Passage
from finetree_recommender.methods import Method
from finetree_recommender.pack import Pack
from finetree_recommender.rules import UpgradeRule
from finetree_recommender.trace import Step
from finetree_recommender.votes import Ballot

NOTHING_BROKEN: fit.Broken = MappingProxyType({})
"""No method breaks anything."""
PLURALITY = "votes.plurality"
"""Rule of the most votes."""


class Stage(Protocol):
    """What a stage found."""

    @property
    def steps(self) -> tuple[Step, ...]:
        """What the trace says of it."""
        ...


@dataclass(frozen=True, slots=True)
class Remark:
    """A stage of one step."""

    tell: Callable[[], Step]

    @property
    def steps(self) -> tuple[Step, ...]:
        """The step."""
        return (self.tell(),)


class Verdict(NamedTuple):
    """What was decided, and no more."""

    method: Method | None
    rule_id: str
    """Rule that decided."""


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
    stages: tuple[Stage, ...] = field(repr=False)
    """In the order of the trace."""
    default_rule_id: str = ""
    """Rule of the method that is said to whoever says nothing."""

    @property
    def steps(self) -> tuple[Step, ...]:
        """The trace so far."""
        return tuple(step for stage in self.stages for step in stage.steps)


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
    ground = fit.ground(evidence, broken)
    choice = choose(pack, answers, evidence)
    settled = fit.settle(pack, evidence, _tried(choice, ground), broken, proof_needed=choice.passage.upgrade)
    return Decision(choice, settled, *_ruling(choice, settled.method, ground))


def asked(pack: Pack, answers: Answers) -> Answers:
    """The answers that some rule before the fit reads; the others are unknown."""
    return answers.without(_unread(pack))


@lru_cache(maxsize=65536)
def verdict(pack: Pack, answers: Answers, ground: Ground) -> Verdict:
    """The method and the rule of `decide`, where the ground is that of its evidence and of what would be broken.

    It is kept, and best asked with the answers that are `asked` for: what no rule reads would only fill the place.
    """
    choice = _choose(pack, answers, ground.states if pack.rules.gate.physics is not None else None)
    method = fit.taken(pack, ground, _tried(choice, ground), proof_needed=choice.passage.upgrade)
    return Verdict(method, _ruling(choice, method, ground)[0])


def _tried(choice: Choice, ground: Ground) -> tuple[Method, ...]:
    """What the fit stage tries; without figures a method beyond the gate has nothing to speak for it."""
    return choice.order if ground.states is not None else _within(choice.order, choice.passage.feasible)


@lru_cache(maxsize=4096)
def _within(order: tuple[Method, ...], feasible: tuple[Method, ...]) -> tuple[Method, ...]:
    return tuple(method for method in order if method in feasible)


def _ruling(choice: Choice, method: Method | None, ground: Ground) -> tuple[str, str]:
    """The rule that decided for a method, and the rule that gave way; empty when none did."""
    if choice.passage.upgrade and method is not None:
        return choice.rule_id, choice.passage.rule_id
    if method is None and ground.states is not None:
        return "fit.nothing_fits", ""
    if method is choice.method or choice.method is None:
        return choice.rule_id, ""
    # Where what the rules chose fits, a wish stood against it.
    fits = ground.states is None or ground.state(choice.method) in (FitState.FITS, FitState.TIGHT)
    wish = ground.burden(choice.method).rule_id if fits else ""
    return wish or "fit.fits", choice.rule_id


def choose(pack: Pack, answers: Answers, evidence: Evidence | None = None) -> Choice:
    """Run the stages before the fit; of the estimate they read at most which methods fit, where the pack asks so."""
    physics = pack.rules.gate.physics is not None and evidence is not None
    return _choose(pack, asked(pack, answers), fit.states(evidence) if physics and evidence else None)


@lru_cache(maxsize=65536)
def _choose(pack: Pack, answers: Answers, states: fit.States | None) -> Choice:
    """Kept, for a recommendation asks for the verdict of every single change of its answers."""
    passage = gate.pass_gate(pack, answers, states)
    ballot = votes.count(pack, answers, passage.feasible)
    if passage.upgrade:
        return _upgrade(pack, answers, passage, ballot)
    special = tree.override(pack, answers)
    leaf = tree.leaf(pack, answers, passage.feasible)
    leaders = ballot.leaders
    stages: tuple[Stage, ...] = (passage, ballot)
    if special is not None and special.method in passage.feasible:
        order = _order(pack, answers, ballot, leaf.method, special.method)
        stages, rule_id = (passage, special, ballot), special.rule_id
        return Choice(special.method, order, rule_id, passage, ballot, tied=False, overridden=True, stages=stages)
    if len(leaders) == 1 and ballot.total(leaders[0]) > 0:
        order = _order(pack, answers, ballot, leaf.method, leaders[0])
        stages = (*stages, Remark(partial(_plurality, pack, ballot, leaders[0])))
        return Choice(leaders[0], order, PLURALITY, passage, ballot, tied=False, overridden=False, stages=stages)
    # A leaf that nothing contradicts is no tie: no question was answered.
    tied = ballot.total(leaders[0]) > 0
    preferred = ties.narrow(pack, answers, leaders)
    stages = (*stages, preferred)
    if preferred.cuts and len(preferred.methods) == 1:
        winner, rule_id = preferred.methods[0], preferred.cuts[-1][0].id
        order = _order(pack, answers, ballot, leaf.method, winner)
        return Choice(winner, order, rule_id, passage, ballot, tied=tied, overridden=False, stages=stages)
    leaders, stages = preferred.methods, (*stages, leaf)
    winner, rule_id = leaf.method, leaf.rule_id
    if winner not in leaders:
        winner, rule_id = leaders[0], pack.rules.stars_order.id
        stages = (*stages, Remark(partial(_stars, pack, winner)))
    order = _order(pack, answers, ballot, leaf.method, winner)
    default = pack.rules.default_leaf.id
    return Choice(
        winner, order, rule_id, passage, ballot, tied=tied, overridden=False, stages=stages, default_rule_id=default
    )


@lru_cache(maxsize=64)
def _unread(pack: Pack) -> tuple[str, ...]:
    """Inputs that no rule of these stages reads."""
    rules = pack.rules
    whens = [rule.when for rule in (rules.override, rules.default_leaf, *rules.use_cases)]
    whens += [node.when for node in rules.tree.nodes] + [rule.when for rule in rules.upgrade] + [rules.override.unless]
    named = {name for when in whens for name in when}
    asked = {question.input for question in rules.questions} | {rule.input for rule in rules.tie_breaks}
    return tuple(name for name in NAMES if name not in {"memory"} | named | asked)


def _upgrade(pack: Pack, answers: Answers, passage: Passage, ballot: Ballot) -> Choice:
    rule = next(item for item in pack.rules.upgrade if matches(item.when, answers))
    stages = (passage, ballot, Remark(partial(_upgrade_step, pack, answers, rule)))
    return Choice(None, rule.order, rule.id, passage, ballot, tied=False, overridden=False, stages=stages)


def _upgrade_step(pack: Pack, answers: Answers, rule: UpgradeRule) -> Step:
    words = f"if the estimator shows that it fits: {', '.join(rule.order)}"
    return Step("upgrade", rule.id, words, pack.provenance(rule.source), answers.read(*rule.when))


def _plurality(pack: Pack, ballot: Ballot, winner: Method) -> Step:
    tally = ", ".join(f"{method} {ballot.total(method)}" for method in ballot.feasible)
    return Step("votes", PLURALITY, f"{winner} has the most votes ({tally})", pack.provenance("resolution: B6"))


def _stars(pack: Pack, winner: Method) -> Step:
    rule = pack.rules.stars_order
    return Step("star_order", rule.id, f"first by stars: {winner}", pack.provenance(rule.source))


def _order(pack: Pack, answers: Answers, ballot: Ballot, leaf: Method, winner: Method) -> tuple[Method, ...]:
    """Winner, then feasible methods by votes, what matters, leaf and stars, then the rest by stars."""
    matter = ties.applying(pack, answers)

    def rank(method: Method) -> tuple[bool, bool, int, tuple[int, ...], bool, int]:
        feasible = method in ballot.feasible
        votes_for = ballot.total(method) if feasible else 0
        tiers = tuple(rule.rank(method) for rule in matter) if matter else ()
        return (method is not winner, not feasible, -votes_for, tiers, method is not leaf, pack.stars_rank(method))

    return tuple(sorted(Method, key=rank))
