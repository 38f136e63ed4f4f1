# SPDX-License-Identifier: Apache-2.0
"""Verdicts of other packs on the same request, from the same estimates, and why they differ."""

from collections.abc import Iterable
from dataclasses import dataclass

from finetree_recommender.decision.situation import Situation
from finetree_recommender.explain.reasons import Case, reasons
from finetree_recommender.method import Method
from finetree_recommender.rule_pack.pack import Pack

_BARE = ("NO_VOTES", "OVERRIDDEN")
"""Reasons that only say that another rule decided."""


@dataclass(frozen=True, slots=True)
class OtherVerdict:
    """Another pack's verdict."""

    pack: Pack
    method: Method | None
    rule_id: str
    agrees: bool
    reason: str
    """Why it differs or, where it agrees, what the pack's rules prefer, if the estimate overruled them."""


def verdicts(packs: Iterable[Pack], situation: Situation) -> tuple[OtherVerdict, ...]:
    """The verdicts of all packs but the situation's own."""
    return tuple(_verdict(other, situation) for other in packs if other is not situation.pack)


def _verdict(other: Pack, ours: Situation) -> OtherVerdict:
    theirs = Situation(other, ours.inputs.reread(other), ours.evidence)
    found, method = theirs.decision.verdict, ours.decision.method
    if found.method is method:
        return OtherVerdict(other, found.method, found.rule_id, agrees=True, reason=_overruled(theirs))
    reason = f"{_explained(theirs, method)}. {_explained(ours, found.method)}"
    return OtherVerdict(other, found.method, found.rule_id, agrees=False, reason=reason)


def _why(situation: Situation, method: Method) -> str:
    """First reason of a method's standing that says more than which rule decided."""
    case = Case(situation, method)
    found = reasons(case)
    return next((each for each in found if each.code not in _BARE), found[0]).message


def _overruled(situation: Situation) -> str:
    """What a pack's rules say where the estimate overruled them; empty where it did not."""
    decision, name = situation.decision, situation.pack.rules.id
    rule_id = decision.verdict.overruled_rule_id
    if not rule_id or decision.method is None:
        return ""
    chosen = decision.choice.method
    if chosen is None:
        return f"{name} says to upgrade ({rule_id}); by the estimate it trains with {decision.method}"
    return f"{name} prefers {chosen} ({rule_id}); {_why(situation, chosen)}"


def _explained(situation: Situation, rival: Method | None) -> str:
    """Why a pack takes its method, and not that of the rival pack."""
    verdict, name = situation.decision.verdict, situation.pack.rules.id
    if verdict.method is None:
        text = f"{name} recommends to upgrade, or to use a smaller model ({verdict.rule_id})"
    else:
        text = f"{name} recommends {verdict.method} ({verdict.rule_id}): {_why(situation, verdict.method)}"
    return text if rival is None else f"{text}; not {rival}: {_why(situation, rival)}"
