# SPDX-License-Identifier: Apache-2.0
"""What other packs say of the same request, from the same estimates, and why it differs."""

from collections.abc import Iterable
from typing import NamedTuple

from finetree_recommender.decision import fit
from finetree_recommender.decision.pipeline import Decision
from finetree_recommender.decision.situation import Situation
from finetree_recommender.explain.reasons import Case, reasons
from finetree_recommender.method import Method
from finetree_recommender.policy.pack import Pack

_BARE = ("NO_VOTES", "OVERRIDDEN")
"""Reasons that say no more than that another rule decided, or nothing of the rules."""


class OtherVerdict(NamedTuple):
    """Another pack's verdict; `reason` says why it differs or, where it agrees, what its own rules said."""

    pack: Pack
    method: Method | None
    rule_id: str
    agrees: bool
    reason: str


class Opinion(NamedTuple):
    """A pack's view of a request."""

    situation: Situation
    decision: Decision

    @property
    def pack(self) -> Pack:
        """The pack."""
        return self.situation.pack

    def why(self, method: Method) -> str:
        """The first reason for how a method stands that says more than which rule decided."""
        evidence = self.situation.evidence
        priced = fit.best(evidence, method).priced if evidence is not None else None
        breaches = self.situation.broken.get(method, ())
        case = Case(self.pack, self.situation.inputs, self.decision, method, priced, breaches, evidence)
        found = reasons(case, case.standing)
        return next((each for each in found if each.code not in _BARE), found[0]).message


def verdicts(packs: Iterable[Pack], situation: Situation, decision: Decision) -> tuple[OtherVerdict, ...]:
    """The verdicts of all packs but the situation's own, whose decision is given."""
    ours = Opinion(situation, decision)
    return tuple(_verdict(other, ours) for other in packs if other is not situation.pack)


def _verdict(other: Pack, ours: Opinion) -> OtherVerdict:
    situation = Situation.of(other, ours.situation.inputs.reread(other), ours.situation.evidence)
    found = situation.outcome()
    agrees = found.method is ours.decision.method
    if agrees and not found.overruled_rule_id:
        return OtherVerdict(other, found.method, found.rule_id, agrees, "")
    theirs = Opinion(situation, situation.decide())
    reason = _gave_way(theirs) if agrees else f"{_told(theirs, ours.decision.method)}; {_told(ours, found.method)}"
    return OtherVerdict(other, found.method, found.rule_id, agrees, reason)


def _gave_way(opinion: Opinion) -> str:
    """What a pack's rules say where the estimate overruled them; empty where it did not."""
    decision = opinion.decision
    if not decision.overruled_rule_id or decision.method is None:
        return ""
    chosen, name = decision.choice.method, opinion.pack.rules.id
    if chosen is None:
        return f"{name} says to upgrade ({decision.overruled_rule_id}); by the estimate {decision.method} trains here"
    return f"{name} leads to {chosen} ({decision.overruled_rule_id}); {opinion.why(chosen)}"


def _told(opinion: Opinion, rival: Method | None) -> str:
    """Why a pack takes its method, and not that of the rival pack."""
    decision, name = opinion.decision, opinion.pack.rules.id
    if decision.method is None:
        text = f"{name}: upgrade, or take a smaller model ({decision.rule_id})"
    else:
        text = f"{name}: {decision.method}, {opinion.why(decision.method)} ({decision.rule_id})"
    return text if rival is None else f"{text}, not {rival}: {opinion.why(rival)}"
