# SPDX-License-Identifier: Apache-2.0
"""The decision: hardware gate, multi-task override, votes, what matters, tree leaf, order of stars, demands, fit.

Every stage is a pure function of the pack, the answers and the estimator's evidence, so the same input always gives
the same answer. A recommendation asks for dozens of verdicts, one for each change of its input, and tells one: stages
therefore find first, and make the words of the trace when those are read. `decide` finds everything that a reply says
of a decision, `verdict` no more than the method and the rule.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from types import MappingProxyType
from typing import NamedTuple, Protocol

from finetree_recommender import fit, gate, ties, tree, votes
from finetree_recommender.answers import NAMES, UNKNOWN, Answers, matches, vocabulary
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


def decide(
    pack: Pack,
    answers: Answers,
    evidence: Evidence | None,
    broken: fit.Broken = NOTHING_BROKEN,
    ground: Ground | None = None,
) -> Decision:
    """Run all stages; without evidence the rules alone decide. `broken` is what each method would break.

    `ground` is that of the evidence and of what would be broken, where it is at hand.
    """
    ground = ground if ground is not None else fit.ground(evidence, broken)
    choice = choose(pack, answers, evidence)
    order = _tried(choice, ground)
    method = fit.taken(pack, ground, order, proof_needed=choice.passage.upgrade)
    settled = fit.settlement(pack, evidence, order, broken, method, proof_needed=choice.passage.upgrade)
    return Decision(choice, settled, *_ruling(choice, settled.method, ground))


def asked(pack: Pack, answers: Answers) -> Answers:
    """The answers that some rule before the fit reads; the others are unknown."""
    return answers.without(_unread(pack))


def gist(pack: Pack, answers: Answers) -> Answers:
    """Answers that lead to the same verdicts, whatever is broken and fits: those that no rule tells apart are one."""
    alike = _alike(pack, memory_known=answers.memory != UNKNOWN)
    return answers._replace(**{name: words[getattr(answers, name)] for name, words in alike.items()})  # type: ignore[arg-type]  # priorities are no answer


def alike(pack: Pack, answers: Answers, name: str, value: str) -> str:
    """The first answer of an input that the rules do not tell apart from `value`, where the others are `answers`."""
    words = _alike(pack, memory_known=answers.memory != UNKNOWN).get(name)
    return words[value] if words is not None else value


@lru_cache(maxsize=128)
def _alike(pack: Pack, *, memory_known: bool) -> Mapping[str, Mapping[str, str]]:
    """For each input but the memory, the first answer that is the same to every rule, by answer."""
    rules, words = pack.rules, vocabulary(pack.rules)
    whens = [rules.override.when, rules.override.unless, *(rule.when for rule in rules.upgrade)]
    whens += [node.when for node in rules.tree.nodes]
    if not memory_known:  # the only case in which these are read
        whens += [rule.when for rule in (rules.default_leaf, *rules.use_cases)]

    def read(name: str, value: str) -> tuple[object, ...]:
        """What the rules read of an answer."""
        options = (item for question in rules.questions if question.input == name for item in question.options)
        votes = tuple((item.id, item.votes) for item in options if item.value == value and item.votes)
        ties = tuple(rule.id for rule in rules.tie_breaks if rule.input == name and rule.value == value)
        return votes, ties, tuple(value in when[name] for when in whens if name in when)

    return {
        name: {
            value: next(first for first in (UNKNOWN, *words[name]) if read(name, first) == read(name, value))
            for value in (UNKNOWN, *words[name])
        }
        for name in NAMES
        if name != "memory"
    }


def verdict(pack: Pack, answers: Answers, ground: Ground) -> Verdict:
    """The method and the rule of `decide`, where the ground is that of its evidence and of what would be broken.

    Best asked with the `gist` of answers: what no rule tells apart would only fill the place of what is kept.
    """
    return judge(pack, ground)(answers)


def judge(pack: Pack, ground: Ground) -> Callable[[Answers], Verdict]:
    """What gives the `verdict` on a ground; a recommendation asks for dozens on one."""
    sound, unpriced = fit.sound(ground), ground.states is None
    states = ground.states if pack.rules.gate.physics is not None else None

    def verdict_on(answers: Answers) -> Verdict:
        choice = _choose(pack, answers, states)
        order, proof_needed = _tried(choice, ground), choice.passage.upgrade
        # As it mostly is, what comes first does.
        if order and order[0] in sound and not (proof_needed and unpriced):
            method: Method | None = order[0]
            if method is choice.method:
                return Verdict(method, choice.rule_id)
        else:
            method = _taken(pack, ground, order, proof_needed=proof_needed)
        return Verdict(method, _ruling(choice, method, ground)[0])

    return verdict_on


_taken = lru_cache(maxsize=16384)(fit.taken)


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
