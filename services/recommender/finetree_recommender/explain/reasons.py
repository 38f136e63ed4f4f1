# SPDX-License-Identifier: Apache-2.0
"""Why each method stands where it stands, with the numbers."""

from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from functools import lru_cache
from operator import itemgetter
from typing import NamedTuple

from finetree_recommender.decision import fit
from finetree_recommender.decision.pipeline import Decision
from finetree_recommender.decision.prior_figures import falls_short, prior_of
from finetree_recommender.estimator.values import Evidence, FitState, Priced
from finetree_recommender.method import Method
from finetree_recommender.policy.answers import CPU, Answers, matches
from finetree_recommender.policy.pack import Pack
from finetree_recommender.policy.schema.rules import CautionRule
from finetree_recommender.request.inputs import Inputs
from finetree_recommender.trace import Breach, Reason

LEAF_WORDS = "the tree leads to it"
"""Why a method is taken, where the tree says no more."""


class Standing(StrEnum):
    """How a method fared."""

    RECOMMENDED = "RECOMMENDED"
    POSSIBLE = "POSSIBLE"
    REJECTED = "REJECTED"
    FITS_AGAINST_RULE = "FITS_AGAINST_RULE"


class Case(NamedTuple):
    """One method in one decision; `priced` is its best recipe's estimate, None where there is none."""

    pack: Pack
    inputs: Inputs
    decision: Decision
    method: Method
    priced: Priced | None
    breaches: tuple[Breach, ...] = ()
    """What it would break of what was demanded."""
    evidence: Evidence | None = None

    @property
    def feasible(self) -> bool:
        """Whether the hardware gate lets the method through."""
        return self.method in self.decision.choice.passage.feasible

    @property
    def standing(self) -> Standing:
        """How the method fared."""
        if self.method is self.decision.method:
            return Standing.RECOMMENDED
        state = self.priced.fit if self.priced is not None else FitState.UNKNOWN
        if state is FitState.DOES_NOT_FIT or self.breaches:
            return Standing.REJECTED
        if self.feasible:
            return Standing.POSSIBLE
        return Standing.REJECTED if state is FitState.UNKNOWN else Standing.FITS_AGAINST_RULE


def warnings(pack: Pack, answers: Answers, method: Method, evidence: Evidence | None) -> tuple[CautionRule, ...]:
    """The pack's cautions that apply to a method; the hard ones are the hardware gate's.

    That a GPU has room for another method is not said where the estimate shows that it has not.
    """
    return tuple([rule for rule, _ in _warned(pack, answers, method, evidence)])


def _warned(
    pack: Pack, answers: Answers, method: Method, evidence: Evidence | None
) -> list[tuple[CautionRule, Reason]]:
    """The `warnings`, each with its words."""
    found = _matching(pack, method, _reads(pack)[method](answers))
    return [each for each in found if "memory" not in each[0].when or not _refuted(each[0], evidence)]


@lru_cache(maxsize=64)
def _soft(pack: Pack) -> Mapping[Method, tuple[CautionRule, ...]]:
    rules = pack.rules.cautions
    return {method: tuple(rule for rule in rules if rule.method is method and not rule.hard) for method in Method}


@lru_cache(maxsize=64)
def _named(pack: Pack) -> Mapping[Method, tuple[str, ...]]:
    """The inputs that a method's cautions read; the memory twice, so that there are at least two."""
    return {
        method: ("memory", "memory", *dict.fromkeys(name for rule in rules for name in rule.when))
        for method, rules in _soft(pack).items()
    }


@lru_cache(maxsize=64)
def _reads(pack: Pack) -> Mapping[Method, Callable[[Answers], tuple[str, ...]]]:
    """Takes out of answers what a method's cautions read: there are few of it, and many answers."""
    return {method: itemgetter(*map(Answers._fields.index, names)) for method, names in _named(pack).items()}


@lru_cache(maxsize=16384)
def _matching(pack: Pack, method: Method, read: tuple[str, ...]) -> tuple[tuple[CautionRule, Reason], ...]:
    """The cautions that apply where this was read, each with its words."""
    answers = Answers(**dict(zip(_named(pack)[method], read, strict=True)))  # type: ignore[arg-type]  # priorities are no answer
    return tuple((rule, _advised(rule)) for rule in _soft(pack)[method] if matches(rule.when, answers))


def _advised(rule: CautionRule) -> Reason:
    pointer = f"; consider {rule.redirect}" if rule.redirect is not None else ""
    return Reason(caution_code(rule), f"{rule.message}{pointer}", rule.id)


def _refuted(rule: CautionRule, evidence: Evidence | None) -> bool:
    if evidence is None or rule.redirect is None:
        return False
    return fit.best(evidence, rule.redirect).state is FitState.DOES_NOT_FIT


def caution_code(rule: CautionRule) -> str:
    """Stable code of a pack's caution."""
    return f"CAUTION_{rule.id.removeprefix('dont.').replace('.', '_').upper()}"


def shortfall(pack: Pack, answers: Answers, method: Method) -> tuple[Reason, ...]:
    """What a method lacks of the quality that is asked for, where the pack has priors; one reason, or none."""
    return _shortfall(pack, method, answers.quality, answers.task_kind)


@lru_cache(maxsize=4096)
def _shortfall(pack: Pack, method: Method, need: str, task_kind: str) -> tuple[Reason, ...]:
    floor = falls_short(pack, method, need, task_kind)
    prior = prior_of(pack, method, task_kind)
    if floor is None or prior is None:
        return ()
    kind = "a task of unknown kind" if not prior.task_kinds else task_kind.lower()
    asked = "at the lower end" if floor.by == "low" else "expected"
    text = f"{prior.low:g} to {prior.high:g} percent of full fine-tuning for {kind} ({prior.expected:g} expected), "
    text += f"{need.lower()} quality asks for {floor.percent:g} {asked}"
    return (Reason("BELOW_QUALITY_NEED", text, prior.id),)


def reasons(case: Case, standing: Standing) -> list[Reason]:
    """Reasons of a method's standing, most important first."""
    answers, found = case.inputs.answers, list[Reason]()
    if standing is Standing.RECOMMENDED:
        found.append(_won(case))
    else:
        if case.priced is not None and case.priced.fit is FitState.DOES_NOT_FIT:
            found.append(Reason("DOES_NOT_FIT", fit.shortage(case.method, case.priced), "fit.does_not_fit"))
        found += [Reason(breach.code, breach.message, breach.rule_id) for breach in case.breaches]
        found += _lost(case)
        if standing is Standing.FITS_AGAINST_RULE:
            found.append(Reason("FITS_HERE", f"the estimator shows that it {fit.room(case.priced)}", "fit.fits"))
    found += shortfall(case.pack, answers, case.method)
    found += [reason for _, reason in _warned(case.pack, answers, case.method, case.evidence)]
    if case.method is Method.QLORA:
        found += _bits(case)
    return found


def _bits(case: Case) -> Iterator[Reason]:
    """8-bit bases need a newer GPU than 4-bit ones."""
    rule, entry = case.pack.rules.capabilities.int8, case.inputs.device.entry
    has = entry.capability if entry is not None else None
    if has is not None and has < rule.value:
        text = f"8-bit bases need compute capability {rule.value:.1f}, this GPU has {has:.1f}; 4-bit works"
        yield Reason("NO_INT8", text, rule.id)


def _won(case: Case) -> Reason:
    decision, choice = case.decision, case.decision.choice
    if choice.method is not None and choice.method in decision.settled.passed:
        broken = decision.settled.passed[choice.method][0].message
        text = f"{choice.method} comes first by the rules, but {broken}"
        nearest = case.pack.rules.demands.nearest
        if case.breaches and nearest is not None:
            return Reason("NEAREST_TO_WISHES", f"{text}; {case.method} comes nearest", nearest.id)
        return Reason("KEEPS_WISHES", text, decision.rule_id)
    if decision.overruled_rule_id:
        if decision.settled.state is FitState.UNKNOWN:
            return Reason("OTHERS_DO_NOT_FIT", "what the rules prefer does not fit", decision.rule_id)
        return Reason("FITS_HERE", f"the estimator shows that it {fit.room(case.priced)}", decision.rule_id)
    if choice.overridden:
        return Reason("MULTI_TASK", "many different tasks decide for it", decision.rule_id)
    return _voted(case)


def _voted(case: Case) -> Reason:
    decision, choice = case.decision, case.decision.choice
    votes = choice.ballot.total(case.method)
    if choice.tied:
        return Reason("TIE_BREAK", f"tied at {_votes(votes)} and first by rule {decision.rule_id}", decision.rule_id)
    if decision.rule_id == choice.default_rule_id:
        return Reason("DEFAULT", "nothing was said that decides, and it is the choice when in doubt", decision.rule_id)
    if votes == 0:
        return Reason("TREE_LEAF", _leaf_words(case), decision.rule_id)
    return Reason("MOST_VOTES", f"most votes of the questions answered ({votes})", decision.rule_id)


def _leaf_words(case: Case) -> str:
    """Why the tree leads to a method, as its last node says."""
    rule = next((rule for rule in case.pack.rules.tie_breaks if rule.id == case.decision.rule_id), None)
    if rule is not None and rule.input == "priorities":
        return f"of what fits here it comes first where {rule.value.lower()} matters most"
    node = next((node for node in case.pack.rules.tree.nodes if node.id == case.decision.rule_id), None)
    return (node.reason_for(case.method) if node is not None else "") or LEAF_WORDS


def _lost(case: Case) -> Iterator[Reason]:
    choice = case.decision.choice
    if not case.feasible:
        # Where physics was the gate, the estimate has said it already.
        if case.pack.rules.gate.physics is None or case.priced is None:
            yield _gated(case)
        if choice.passage.upgrade and case.decision.method is not None:
            yield Reason("LESS_PREFERRED", f"{case.decision.method} comes first here", choice.rule_id)
    elif choice.method is not None and case.method is not choice.method:
        yield _behind(case, choice.method)


def _behind(case: Case, chosen: Method) -> Reason:
    """Why the rules put another method before one."""
    choice = case.decision.choice
    if choice.overridden:
        return Reason("OVERRIDDEN", f"many different tasks decide for {chosen}", choice.rule_id)
    ours, theirs = choice.ballot.total(case.method), choice.ballot.total(chosen)
    if theirs == 0:
        return Reason("NO_VOTES", f"no answer decides, and rule {choice.rule_id} leads to {chosen}", choice.rule_id)
    if ours < theirs:
        return Reason("OUTVOTED", f"{ours} < {_votes(theirs)}", "votes.plurality")
    text = f"{ours} = {_votes(theirs)}, and {chosen} is first by rule {choice.rule_id}"
    return Reason("LOST_TIE", text, choice.rule_id)


def _gated(case: Case) -> Reason:
    has = None if case.inputs.answers.memory == CPU else case.inputs.marketed_gb or 0
    return _too_small(case.pack, case.method, has, case.decision.choice.passage.rule_id)


@lru_cache(maxsize=4096)
def _too_small(pack: Pack, method: Method, has: float | None, rule_id: str) -> Reason:
    """What the gate asks for and this GPU has not, in GB; None is a CPU."""
    needs, speaker = pack.card(method).minimum_gpu_gb.value, pack.rules.gate.speaker
    if has is None:
        return Reason("NO_GPU", f"{speaker} asks for a GPU of {needs:g} GB, this machine has none", rule_id)
    return Reason("GPU_TOO_SMALL", f"{speaker} asks for {needs:g} GB, this GPU has {has:g} GB", rule_id)


def _votes(count: int) -> str:
    return f"{count} vote" if count == 1 else f"{count} votes"
