# SPDX-License-Identifier: Apache-2.0
"""What the rules choose before physics: hardware gate, multi-task override, votes, what matters, tree, order of stars.

Every stage is a pure function of the pack, the answers and, where the pack asks so, of which methods the estimator says
fit. A recommendation asks for dozens of choices, one for each change of its input, and tells one: stages therefore find
first, and make the words of the trace when those are read.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import NamedTuple, Protocol

from finetree_recommender.decision import fit, hardware_gate, override_and_tree, tie_breaks, votes
from finetree_recommender.decision.hardware_gate import Passage
from finetree_recommender.decision.votes import Ballot
from finetree_recommender.estimator.values import Evidence
from finetree_recommender.gist import asked
from finetree_recommender.method import METHODS, Method
from finetree_recommender.policy.answers import Answers, matches
from finetree_recommender.policy.pack import Pack
from finetree_recommender.policy.schema.rules import UpgradeRule
from finetree_recommender.trace import Step

PLURALITY = "votes.plurality"
"""Rule of the most votes."""
Orders = tuple[tuple[Method, ...], tuple[Method, ...]]
"""What the fit stage tries, in this order, and those of it that are better than what is preferred."""


class Stage(Hashable, Protocol):
    """What a stage found; compared and hashed by identity, as a key of what is kept for it."""

    @property
    def steps(self) -> tuple[Step, ...]:
        """What the trace says of it."""
        ...


@dataclass(slots=True, eq=False)
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


class Leaning(NamedTuple):
    """All that a verdict reads of a choice. There are few, and each is there once."""

    verdict: Verdict
    """Where nothing stands against it."""
    order: tuple[Method, ...]
    """What the fit stage tries, in this order."""
    within: tuple[Method, ...]
    """The same without what is beyond the gate: for that nothing speaks where there are no figures."""
    upgrade: bool
    """Whether the playbook says upgrade."""
    gate_rule_id: str
    """Rule of the gate."""
    above: tuple[Method, ...] = ()
    """Methods of more quality than the one preferred, where the pack orders by it: no limit is a reason to take one."""

    def tried(self, *, priced: bool) -> tuple[Method, ...]:
        """What the fit stage tries, with and without figures."""
        return self.order if priced else self.within


@dataclass(slots=True, eq=False)
class Choice:
    """What the rules chose, before physics; compared and hashed by identity, as a key of what is kept for it.

    Not to be changed, nor are its parts: frozen, they would take thrice as long to make.
    """

    leaning: Leaning
    passage: Passage
    ballot: Ballot
    tied: bool
    overridden: bool
    stages: tuple[Stage, ...] = field(repr=False)
    """In the order of the trace."""
    default_rule_id: str = ""
    """Rule of the method that is said to whoever says nothing."""

    @property
    def method(self) -> Method | None:
        """None where the playbook says upgrade."""
        return self.leaning.verdict.method

    @property
    def rule_id(self) -> str:
        """Rule that chose."""
        return self.leaning.verdict.rule_id

    @property
    def order(self) -> tuple[Method, ...]:
        """What the fit stage tries, in this order."""
        return self.leaning.order

    @property
    def steps(self) -> tuple[Step, ...]:
        """The trace so far."""
        return tuple(step for stage in self.stages for step in stage.steps)


def choose(pack: Pack, answers: Answers, evidence: Evidence | None = None) -> Choice:
    """Run the stages before the fit; of the estimate they read at most which methods fit, where the pack asks so."""
    return _kept(pack, asked(pack, answers), read_states(pack, fit.states(evidence) if evidence is not None else None))


def read_states(pack: Pack, states: fit.States | None) -> fit.States | None:
    """What a pack's choices read of which methods fit."""
    return states if pack.rules.gate.physics is not None else None


@lru_cache(maxsize=65536)
def lean(pack: Pack, answers: Answers, states: fit.States | None) -> Leaning:
    """What is chosen, without the words; `states` are those that the pack reads.

    Kept, for a recommendation asks for the verdict of every single change of its answers: some 30 MB at most.
    """
    return _choose(pack, answers, states).leaning


def _choose(pack: Pack, answers: Answers, states: fit.States | None) -> Choice:
    passage = hardware_gate.pass_gate(pack, answers, states)
    ballot = votes.count(pack, answers, passage.feasible)
    if passage.upgrade:
        return _upgrade(pack, answers, passage, ballot)
    special = override_and_tree.override(pack, answers)
    leaf = override_and_tree.leaf(pack, answers, passage.feasible)
    leaders = ballot.leaders
    # A leaf that nothing contradicts is no tie: no question was answered.
    tied = ballot.total(leaders[0]) > 0
    preferred = tie_breaks.narrow(pack, answers, leaders)
    stages: tuple[Stage, ...] = (passage, ballot)

    def led(winner: Method, rule_id: str) -> Leaning:
        orders: Orders = _order(pack, answers, ballot, leaf.method, winner), ()
        if pack.rules.demands.nearest is not None:
            orders = _by_quality(pack, passage.feasible, winner)
        found = Verdict(winner, rule_id)
        return _leaning(found, orders, passage.feasible, upgrade=False, gate_rule_id=passage.rule_id)

    # Where nobody votes, what matters comes before the tree and what hangs beside it.
    left = passage.feasible if tied else preferred.methods
    if special is not None and special.method in left:
        stages, leaning = (passage, special, ballot), led(special.method, special.rule_id)
        return Choice(leaning, passage, ballot, tied=False, overridden=True, stages=stages)
    if len(leaders) == 1 and tied:
        stages = (*stages, _plurality(pack, ballot, leaders[0]))
        leaning = led(leaders[0], PLURALITY)
        return Choice(leaning, passage, ballot, tied=False, overridden=False, stages=stages)
    stages = (*stages, preferred)
    if preferred.cuts and len(preferred.methods) == 1:
        leaning = led(preferred.methods[0], preferred.cuts[-1][0].id)
        return Choice(leaning, passage, ballot, tied=tied, overridden=False, stages=stages)
    leaders, stages = preferred.methods, (*stages, leaf)
    winner, rule_id = leaf.method, leaf.rule_id
    if winner not in leaders:
        winner, rule_id = leaders[0], pack.rules.stars_order.id
        stages = (*stages, Remark(partial(_stars, pack, winner)))
    default = pack.rules.default_leaf.id
    return Choice(
        led(winner, rule_id), passage, ballot, tied=tied, overridden=False, stages=stages, default_rule_id=default
    )


_kept = lru_cache(maxsize=8192)(_choose)
"""Those that are told; some 13 MB at most."""


@lru_cache(maxsize=8192)
def _leaning(
    verdict: Verdict, orders: Orders, feasible: tuple[Method, ...], *, upgrade: bool, gate_rule_id: str
) -> Leaning:
    """Each once."""
    order, above = orders
    within = tuple(method for method in order if method in feasible)
    return Leaning(verdict, order, within, upgrade, gate_rule_id, above)


def _upgrade(pack: Pack, answers: Answers, passage: Passage, ballot: Ballot) -> Choice:
    rule = next(item for item in pack.rules.upgrade if matches(item.when, answers))
    stages = (passage, ballot, Remark(partial(_upgrade_step, pack, answers, rule)))
    found, orders = Verdict(None, rule.id), (rule.order, ())
    leaning = _leaning(found, orders, passage.feasible, upgrade=True, gate_rule_id=passage.rule_id)
    return Choice(leaning, passage, ballot, tied=False, overridden=False, stages=stages)


def _upgrade_step(pack: Pack, answers: Answers, rule: UpgradeRule) -> Step:
    words = f"if the estimator shows that it fits: {', '.join(rule.order)}"
    return Step("upgrade", rule.id, words, pack.cited(rule.source), answers.read(*rule.when))


@lru_cache(maxsize=8192)
def _plurality(pack: Pack, ballot: Ballot, winner: Method) -> Remark:
    return Remark(partial(_most_votes, pack, ballot, winner))


def _most_votes(pack: Pack, ballot: Ballot, winner: Method) -> Step:
    tally = ", ".join(f"{method} {ballot.total(method)}" for method in ballot.feasible)
    return Step("votes", PLURALITY, f"{winner} has the most votes ({tally})", pack.cited("resolution: B6"))


def _stars(pack: Pack, winner: Method) -> Step:
    rule = pack.rules.stars_order
    return Step("star_order", rule.id, f"first by stars: {winner}", pack.cited(rule.source))


def _order(pack: Pack, answers: Answers, ballot: Ballot, leaf: Method, winner: Method) -> tuple[Method, ...]:
    """Winner, then feasible methods by votes, what matters, leaf and stars, then the rest by stars."""
    matter = tuple([rule.id for rule in tie_breaks.applying(pack, answers)])
    votes_for = tuple([ballot.total(method) if method in ballot.feasible else -1 for method in METHODS])
    return _ordered(pack, matter, votes_for, leaf, winner)


@lru_cache(maxsize=8192)
def _ordered(
    pack: Pack, matter: tuple[str, ...], votes_for: tuple[int, ...], leaf: Method, winner: Method
) -> tuple[Method, ...]:
    """The order; `votes_for` each method, -1 for one that is not feasible, `matter` are the ids of rules."""
    by_id = {rule.id: rule for rule in pack.rules.tie_breaks}
    votes = dict(zip(METHODS, votes_for, strict=True))

    def rank(method: Method) -> tuple[bool, int, tuple[int, ...], bool, int]:
        tiers = tuple([by_id[rule_id].rank(method) for rule_id in matter])
        return (method is not winner, -votes[method], tiers, method is not leaf, pack.stars_rank(method))

    return tuple(sorted(METHODS, key=rank))


@lru_cache(maxsize=256)
def _by_quality(pack: Pack, feasible: tuple[Method, ...], winner: Method) -> Orders:
    """Winner, then feasible methods by quality, those better than the winner last, then the rest."""
    grades = {method: pack.card(method).quality_percent.expected for method in METHODS}
    above = tuple(method for method in METHODS if grades[method] > grades[winner])
    rank = {m: (m is not winner, m not in feasible, m in above, -grades[m], pack.stars_rank(m)) for m in METHODS}
    return tuple(sorted(METHODS, key=rank.__getitem__)), above
