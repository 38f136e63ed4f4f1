# SPDX-License-Identifier: Apache-2.0
"""Reasons of each method's standing, with the numbers."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from finetree.quantities import approximate_duration

from finetree_recommender.decision import fit
from finetree_recommender.decision.pipeline import Decision
from finetree_recommender.decision.prior_figures import falls_short, prior_of
from finetree_recommender.decision.situation import Situation
from finetree_recommender.estimator.values import Estimate, Evidence, FitState
from finetree_recommender.formatting import gpu
from finetree_recommender.method import Method
from finetree_recommender.rule_pack.answers import Answers, matches
from finetree_recommender.rule_pack.pack import Pack
from finetree_recommender.rule_pack.schema.rules import CautionRule
from finetree_recommender.trace import Reason, Violation

LEAF_WORDS = "the decision tree leads to it"
"""Why a method is recommended, where the tree gives no reason."""


class Standing(StrEnum):
    """Standing of a method in a decision."""

    RECOMMENDED = "RECOMMENDED"
    POSSIBLE = "POSSIBLE"
    REJECTED = "REJECTED"
    FITS_AGAINST_RULE = "FITS_AGAINST_RULE"


@dataclass(frozen=True, slots=True)
class Case:
    """One method in a situation's decision."""

    situation: Situation
    method: Method

    @property
    def pack(self) -> Pack:
        """Pack that decided."""
        return self.situation.pack

    @property
    def decision(self) -> Decision:
        """Decision of the pack."""
        return self.situation.decision

    @property
    def estimate(self) -> Estimate | None:
        """Estimate of the method's best recipe; None where there is none."""
        return self.situation.estimate(self.method)

    @property
    def violations(self) -> tuple[Violation, ...]:
        """Limits that the method would break."""
        return self.situation.violations[self.method]

    @property
    def feasible(self) -> bool:
        """Whether the hardware gate lets the method through."""
        return self.method in self.decision.choice.passage.feasible

    @property
    def standing(self) -> Standing:
        """Standing of the method."""
        if self.method is self.decision.method:
            return Standing.RECOMMENDED
        state = self.estimate.fit if self.estimate is not None else FitState.UNKNOWN
        if state is FitState.DOES_NOT_FIT or self.violations:
            return Standing.REJECTED
        if self.feasible:
            return Standing.POSSIBLE
        return Standing.REJECTED if state is FitState.UNKNOWN else Standing.FITS_AGAINST_RULE


def warnings(pack: Pack, answers: Answers, method: Method, *, evidence: Evidence | None) -> list[CautionRule]:
    """The pack's cautions that apply to a method; the hard ones belong to the hardware gate.

    A caution that the GPU has memory for another method is left out where the estimate shows that it has too little,
    and one that another method trains faster where it does not, or where one of the two does not train here.
    """
    return [
        rule
        for rule in pack.rules.cautions
        if rule.method is method
        and not rule.hard
        and matches(rule.when, answers)
        and not ("memory" in rule.when and _refuted(rule, evidence))
        and not (rule.on_time and (_is_faster(rule, evidence) or not _comparable(rule, evidence)))
    ]


def advice_words(rule: CautionRule, situation: Situation) -> str:
    """Words of a caution: a general ratio of times gives way to the times of this request, where they are estimated."""
    times = _times(rule, situation.evidence) if rule.ratio or rule.on_time else None
    if times is None:
        return rule.text if _comparable(rule, situation.evidence) else rule.message
    ours, theirs = map(approximate_duration, times)
    if ours == theirs:
        return rule.message
    if rule.on_time:
        return f"{rule.message} ({ours} against {theirs} for {rule.redirect})"
    # What is said is of more than time, and the times may speak for the method itself.
    return f"{rule.message}; {rule.method} takes {ours} here, {rule.redirect} {theirs}"


def redirect_of(rule: CautionRule, situation: Situation) -> Method | None:
    """Method that a caution points to; None where it has none, or is about times and the method does not train here.

    A method of higher quality is pointed to all the same: it is worth other hardware.
    """
    timed = bool(rule.ratio) or rule.on_time
    return rule.redirect if not timed or _comparable(rule, situation.evidence) else None


def _times(rule: CautionRule, evidence: Evidence | None) -> tuple[float, float] | None:
    """Expected seconds of a caution's method and of the one that it points to; None where one is unknown."""
    if evidence is None or rule.redirect is None:
        return None
    ours, theirs = (evidence.best[method].estimate for method in (rule.method, rule.redirect))
    if ours is None or theirs is None or ours.total_seconds is None or theirs.total_seconds is None:
        return None
    return ours.total_seconds.expected, theirs.total_seconds.expected


def _comparable(rule: CautionRule, evidence: Evidence | None) -> bool:
    """Whether a caution's method and the one that it points to may both train here: else no times compare them."""
    if evidence is None or rule.redirect is None:
        return True
    return all(evidence.best[each].state is not FitState.DOES_NOT_FIT for each in (rule.method, rule.redirect))


def _is_faster(rule: CautionRule, evidence: Evidence | None) -> bool:
    """Whether a caution's method is estimated to take no longer than the one that it points to."""
    times = _times(rule, evidence)
    return times is not None and times[0] <= times[1]


def _advised(rule: CautionRule, situation: Situation) -> Reason:
    instead = redirect_of(rule, situation)
    pointer = f"; consider {instead}" if instead is not None else ""
    return Reason(caution_code(rule), f"{advice_words(rule, situation)}{pointer}", rule.id)


def _refuted(rule: CautionRule, evidence: Evidence | None) -> bool:
    if evidence is None or rule.redirect is None:
        return False
    return evidence.best[rule.redirect].state in (FitState.DOES_NOT_FIT, FitState.TIGHT)


def caution_code(rule: CautionRule) -> str:
    """Stable code of a pack's caution."""
    return f"CAUTION_{rule.id.removeprefix('dont.').replace('.', '_').upper()}"


def shortfall(pack: Pack, answers: Answers, method: Method) -> Iterator[Reason]:
    """Shortfall of a method's quality, where the pack has priors; one reason, or none."""
    need, task_domain = answers.quality, answers.task_domain
    floor = falls_short(pack, method, need, task_domain=task_domain, data=answers.data)
    prior = prior_of(pack, method, task_domain, answers.data)
    if floor is None or prior is None:
        return
    kind = "an unknown task domain" if not prior.task_domains else task_domain.lower()
    kind = f"{answers.data} rows" if prior.data else kind
    asked = "at the lower end" if floor.by == "low" else "expected"
    text = f"{prior.low:g} to {prior.high:g} percent of full fine-tuning for {kind} ({prior.expected:g} expected); "
    text += f"{need.lower()} quality needs {floor.percent:g} {asked}"
    yield Reason("BELOW_QUALITY_NEED", text, prior.id)


def reasons(case: Case) -> tuple[Reason, ...]:
    """Reasons of a method's standing, most important first."""
    pack, situation, method = case.pack, case.situation, case.method
    warned = warnings(pack, situation.answers, method, evidence=situation.evidence)
    return (
        *((_won(case),) if case.standing is Standing.RECOMMENDED else _not_won(case)),
        *shortfall(pack, situation.answers, method),
        *(_advised(rule, situation) for rule in warned),
        *(_bits(case) if method is Method.QLORA else ()),
    )


def _not_won(case: Case) -> Iterator[Reason]:
    estimate = case.estimate
    if estimate is not None and estimate.fit is FitState.DOES_NOT_FIT:
        yield Reason("DOES_NOT_FIT", fit.shortage(estimate), "fit.does_not_fit")
    yield from (Reason(item.code, item.message, item.rule_id) for item in case.violations)
    yield from _lost(case)
    if case.standing is Standing.FITS_AGAINST_RULE:
        yield Reason("FITS_HERE", f"{fit.room(estimate)} by the estimate", "fit.fits")


def _bits(case: Case) -> Iterator[Reason]:
    """Whether the GPU is too old for 8-bit bases, which need a newer one than 4-bit bases."""
    rule, entry = case.pack.rules.capabilities.int8, case.situation.inputs.device.entry
    has = entry.capability if entry is not None else None
    if has is not None and has < rule.value:
        text = f"8-bit bases need compute capability {rule.value:.1f}; this GPU has {has:.1f}, enough for 4-bit bases"
        yield Reason("NO_INT8", text, rule.id)


def _won(case: Case) -> Reason:
    decision, choice = case.decision, case.decision.choice
    rule_id = decision.verdict.rule_id
    if choice.method is not None and choice.method in decision.fit.passed:
        broken = decision.fit.passed[choice.method][0].message
        text = f"the rules prefer {choice.method}, but it {broken}"
        nearest = case.pack.rules.limits.nearest
        if case.violations and nearest is not None:
            return Reason("NEAREST_TO_LIMITS", f"{text}; nearest is {case.method}", nearest.id)
        return Reason("KEEPS_LIMITS", text, rule_id)
    if decision.verdict.overruled_rule_id:
        if decision.fit.state is FitState.UNKNOWN:
            return Reason("OTHERS_DO_NOT_FIT", "the method that the rules prefer does not fit", rule_id)
        return Reason("FITS_HERE", f"{fit.room(case.estimate)} by the estimate", rule_id)
    if choice.overridden:
        return Reason("MULTI_TASK", "chosen for many different tasks", rule_id)
    return _voted(case)


def _voted(case: Case) -> Reason:
    choice, rule_id = case.decision.choice, case.decision.verdict.rule_id
    votes = choice.ballot.total(case.method)
    if choice.tied:
        return Reason("TIE_BREAK", f"tied at {_votes(votes)}; rule {rule_id} prefers it", rule_id)
    if rule_id == choice.default_rule_id:
        return Reason("DEFAULT", "no answer decides; it is the default", rule_id)
    if votes == 0:
        return Reason("TREE_LEAF", _leaf_words(case), rule_id)
    return Reason("MOST_VOTES", f"most votes of the answered questions ({votes})", rule_id)


def _leaf_words(case: Case) -> str:
    """Reason that the last node of the tree gives for a method."""
    rule = next((rule for rule in case.pack.rules.tie_breaks if rule.id == case.decision.verdict.rule_id), None)
    if rule is not None and rule.input == "priorities":
        return f"of the methods that fit, it is preferred when {rule.value.lower()} matters most"
    node = next((node for node in case.pack.rules.tree.nodes if node.id == case.decision.verdict.rule_id), None)
    return (node.reason_for(case.method) if node is not None else "") or LEAF_WORDS


def _lost(case: Case) -> Iterator[Reason]:
    choice = case.decision.choice
    if not case.feasible:
        # Where physics was the gate, an estimate that does not fit has said it already.
        if case.pack.rules.gate.physics is None or case.estimate is None or case.estimate.fit is FitState.UNKNOWN:
            yield _gated(case)
        if choice.passage.upgrade and case.decision.method is not None:
            yield Reason("LESS_PREFERRED", f"preferred here: {case.decision.method}", choice.rule_id)
        return
    yielding = next((rule for rule in choice.passage.yielding if rule.method is case.method), None)
    if yielding is not None:
        text = f"{fit.risk(case.estimate)}; {yielding.to} leaves more room"
        yield Reason("MEMORY_TIGHT", text, yielding.id)
    elif choice.method is not None and case.method is not choice.method:
        yield _behind(case, choice.method)


def _behind(case: Case, chosen: Method) -> Reason:
    """Why the rules put another method before one."""
    choice = case.decision.choice
    if choice.overridden:
        return Reason("OVERRIDDEN", f"for many different tasks the rules prefer {chosen}", choice.rule_id)
    ours, theirs = choice.ballot.total(case.method), choice.ballot.total(chosen)
    if theirs == 0:
        decided = "no answer decides; " if choice.rule_id == choice.default_rule_id else ""
        return Reason("NO_VOTES", f"{decided}rule {choice.rule_id} leads to {chosen}", choice.rule_id)
    if ours < theirs:
        return Reason("OUTVOTED", f"{_votes(ours)} against {theirs} for {chosen}", "votes.plurality")
    text = f"tied at {_votes(ours)}; rule {choice.rule_id} prefers {chosen}"
    return Reason("LOST_TIE", text, choice.rule_id)


def _gated(case: Case) -> Reason:
    """Memory that the gate asks for and this machine does not have."""
    needs, speaker = case.pack.card(case.method).minimum_gpu_gb.value, case.pack.rules.gate.speaker
    inputs, rule_id = case.situation.inputs, case.decision.choice.passage.rule.id
    if inputs.on_cpu:
        return Reason("NO_GPU", f"{speaker} asks for {gpu(needs)}, and this machine has none", rule_id)
    has = inputs.marketed_gb or 0
    return Reason("GPU_TOO_SMALL", f"{speaker} asks for {needs:g} GB, and this GPU has {has:g} GB", rule_id)


def _votes(count: int) -> str:
    return f"{count} vote" if count == 1 else f"{count} votes"
