# SPDX-License-Identifier: Apache-2.0
"""Stages before the fit: hardware gate, override, votes, tie-breaks, tree, order of stars.

Every stage is a pure function of the pack, the answers and, where the pack asks for it, of which methods the estimator
says fit.
"""

from dataclasses import dataclass
from typing import Protocol

from finetree_recommender.decision import hardware_gate, override_and_tree, tie_breaks, votes
from finetree_recommender.decision.hardware_gate import Passage
from finetree_recommender.decision.override_and_tree import Walk
from finetree_recommender.decision.tie_breaks import Narrowed
from finetree_recommender.decision.votes import Ballot
from finetree_recommender.estimator.values import NO_PEAKS, Peaks, States
from finetree_recommender.method import Method, listed
from finetree_recommender.rule_pack.answers import Answers, matches
from finetree_recommender.rule_pack.pack import Pack
from finetree_recommender.rule_pack.schema.limits import TieBreak
from finetree_recommender.trace import Step

PLURALITY = "votes.plurality"
"""Rule that the method with the most votes is chosen."""


class Stage(Protocol):
    """Result of a stage."""

    @property
    def steps(self) -> tuple[Step, ...]:
        """Steps of the trace."""
        ...


@dataclass(frozen=True, slots=True)
class Order:
    """Methods that the fit stage tries, in order."""

    methods: tuple[Method, ...]
    above: tuple[Method, ...] = ()
    """Methods of higher quality than the preferred one, which no limit is a reason to take."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Choice of the rules before the fit."""

    method: Method | None
    """None where the pack says to upgrade."""
    rule_id: str
    """Deciding rule."""
    order: Order
    passage: Passage
    ballot: Ballot
    stages: tuple[Stage, ...]
    """Stages in the order of the trace."""
    last_step: Step | None = None
    """Step of the deciding rule, where it belongs to no stage."""
    tied: bool = False
    """Whether several methods had the most votes."""
    overridden: bool = False
    """Whether the multi-task override decided."""
    default_rule_id: str = ""
    """Rule of the default method, where nothing is answered."""

    @property
    def steps(self) -> tuple[Step, ...]:
        """Steps of the trace so far."""
        last = (self.last_step,) if self.last_step is not None else ()
        return (*(step for stage in self.stages for step in stage.steps), *last)

    def tried(self, *, estimate: bool) -> tuple[Method, ...]:
        """Methods that the fit stage tries; without estimates only those that passed the gate."""
        order = self.order.methods
        return order if estimate else tuple(method for method in order if method in self.passage.feasible)


def choose(pack: Pack, answers: Answers, states: States | None = None, peaks: Peaks = NO_PEAKS) -> Choice:
    """Run the stages before the fit.

    `states` and `peaks` say which methods fit and how tightly, for packs whose gate reads them.
    """
    passage = hardware_gate.pass_gate(pack, answers, states, peaks)
    ballot = votes.count(pack, answers, passage.open)
    if passage.upgrade:
        return _upgrade(pack, answers, passage, ballot=ballot)
    leaf = override_and_tree.leaf(pack, answers, passage.open)
    matter = tie_breaks.applying(pack, answers)
    preferred = tie_breaks.narrow(matter, ballot.leaders)
    special = override_and_tree.override(pack, answers)
    won = _winner(pack, passage, ballot, special=special, preferred=preferred, leaf=leaf)
    if pack.rules.limits.nearest is not None:
        order = _by_quality(pack, passage.open, won.method)
    else:
        order = _by_votes(pack, ballot, matter, leaf=leaf.method, winner=won.method)
    return Choice(
        method=won.method,
        rule_id=won.rule_id,
        order=order,
        passage=passage,
        ballot=ballot,
        stages=(passage, *won.stages),
        last_step=won.last_step,
        tied=won.tied,
        overridden=won.overridden,
        default_rule_id=won.default_rule_id,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Winner:
    """A method, the rule that it wins by, and the stages between the gate and that rule; the rest as in Choice."""

    method: Method
    rule_id: str
    stages: tuple[Stage, ...]
    last_step: Step | None = None
    tied: bool = False
    overridden: bool = False
    default_rule_id: str = ""


def _winner(
    pack: Pack, passage: Passage, ballot: Ballot, *, special: Walk | None, preferred: Narrowed, leaf: Walk
) -> _Winner:
    """Find the first rule that decides: the override, the most votes, the priorities, the tree's leaf, the stars."""
    leaders = ballot.leaders
    voted = ballot.total(leaders[0]) > 0
    # Without votes the priorities come before the tree and the use cases.
    left = passage.open if voted else preferred.methods
    if special is not None and special.method in left:
        return _Winner(method=special.method, rule_id=special.rule_id, stages=(special, ballot), overridden=True)
    if len(leaders) == 1 and voted:
        (method,) = leaders
        return _Winner(method=method, rule_id=PLURALITY, stages=(ballot,), last_step=_most_votes(ballot, method))
    if preferred.cuts and len(preferred.methods) == 1:
        (method,) = preferred.methods
        return _Winner(method=method, rule_id=preferred.cuts[-1][0].id, stages=(ballot, preferred), tied=voted)
    by_leaf, stars = leaf.method in preferred.methods, pack.rules.stars_order
    winner = leaf.method if by_leaf else preferred.methods[0]
    return _Winner(
        method=winner,
        rule_id=leaf.rule_id if by_leaf else stars.id,
        stages=(ballot, preferred, leaf),
        last_step=None if by_leaf else Step("star_order", stars.id, f"first by stars: {winner}", stars.source),
        # Where no question was answered, nothing was a tie.
        tied=voted,
        default_rule_id=pack.rules.default_leaf.id,
    )


def _upgrade(pack: Pack, answers: Answers, passage: Passage, *, ballot: Ballot) -> Choice:
    rule = next(item for item in pack.rules.upgrade if matches(item.when, answers))
    words = f"if the estimator shows that it fits: {listed(rule.order)}"
    return Choice(
        method=None,
        rule_id=rule.id,
        order=Order(rule.order),
        passage=passage,
        ballot=ballot,
        stages=(passage, ballot),
        last_step=Step("upgrade", rule.id, words, rule.source, answers.read(*rule.when)),
    )


def _most_votes(ballot: Ballot, winner: Method) -> Step:
    tally = ", ".join(f"{method} {ballot.total(method)}" for method in ballot.feasible)
    return Step("votes", PLURALITY, f"{winner} has the most votes ({tally})", "resolution: B6")


def _by_votes(pack: Pack, ballot: Ballot, matter: tuple[TieBreak, ...], *, leaf: Method, winner: Method) -> Order:
    """Winner, then feasible methods by votes, priorities, leaf and stars, then the rest by stars."""

    def rank(method: Method) -> tuple[bool, int, tuple[int, ...], bool, int]:
        count = ballot.total(method) if method in ballot.feasible else -1
        tiers = tuple(rule.rank(method) for rule in matter)
        return (method is not winner, -count, tiers, method is not leaf, pack.stars_rank(method))

    return Order(tuple(sorted(Method, key=rank)))


def _by_quality(pack: Pack, feasible: tuple[Method, ...], winner: Method) -> Order:
    """Winner, then feasible methods by quality, those better than the winner last, then the rest."""
    grades = {method: pack.card(method).quality_percent.expected for method in Method}
    above = tuple(method for method in Method if grades[method] > grades[winner])

    def rank(method: Method) -> tuple[bool, bool, bool, float, int]:
        beyond = method not in feasible
        return (method is not winner, beyond, method in above, -grades[method], pack.stars_rank(method))

    return Order(tuple(sorted(Method, key=rank)), above)
