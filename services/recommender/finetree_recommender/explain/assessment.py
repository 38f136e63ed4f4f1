# SPDX-License-Identifier: Apache-2.0
"""All five methods beside each other: how each fared, why, and its figures."""

from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import NamedTuple

from finetree_api.types.v1 import evidence_pb2 as ev

from finetree_recommender.decision import fit
from finetree_recommender.decision.pipeline import Decision
from finetree_recommender.decision.prior_figures import SECONDS, pack_bytes, pack_cost, pack_seconds, quality
from finetree_recommender.decision.situation import Situation
from finetree_recommender.estimator.values import Evidence, FitState
from finetree_recommender.explain import pareto
from finetree_recommender.explain.pareto import Figures
from finetree_recommender.explain.reasons import Case, Standing, reasons
from finetree_recommender.explain.rental_offers import Offer
from finetree_recommender.method import METHODS, Method
from finetree_recommender.policy.pack import Pack
from finetree_recommender.trace import Reason


class Assessment(NamedTuple):
    """How a method fared; bytes, seconds and USD as intervals, None where there is no figure."""

    method: Method
    standing: Standing
    reasons: tuple[Reason, ...]
    votes: Mapping[str, int]
    badges: tuple[str, ...]
    quality_percent: ev.Interval
    device_bytes: ev.Interval | None
    total_seconds: ev.Interval | None
    cost_usd: ev.Interval | None
    on_frontier: bool
    dominated_by: Method | None
    usable_bytes: int | None = None
    """What the device offers; None where there is no estimate."""


def assess(situation: Situation, decision: Decision, rented: tuple[Offer, ...] = ()) -> tuple[Assessment, ...]:
    """Assess all five methods, the verdict first, then in the order of stars.

    Where there are offers to rent and no estimates, they tell time and cost: they are of this model.
    """
    pack, evidence = situation.pack, situation.evidence
    bests = {method: fit.best(evidence, method).priced for method in METHODS} if evidence is not None else {}
    priced = {method: found for method, found in bests.items() if found is not None}
    order = _order(pack, decision.method)
    cases = [
        Case(pack, situation.inputs, decision, method, priced.get(method), situation.broken.get(method, ()), evidence)
        for method in order
    ]
    # The playbook's figures are those of 7B models: beside estimates of this model they would mislead.
    figures = {case.method: _figures(case, quote_pack=evidence is None and not rented) for case in cases}
    if evidence is None:
        figures |= {offer.method: _offered(figures[offer.method], offer) for offer in rented}
    offered = {offer.method for offer in rented} if evidence is None and rented else set(METHODS)
    running = {m: figures[m] for m in (case.method for case in cases if _runs(case, evidence)) if m in offered}
    rivals = pareto.dominators(running, pack.rules.stars_order.methods)
    return tuple(_assess(case, figures[case.method], running, rivals.get(case.method)) for case in cases)


@lru_cache(maxsize=256)
def _order(pack: Pack, first: Method | None) -> tuple[Method, ...]:
    """The verdict first, the others by their stars."""
    return tuple(sorted(METHODS, key=lambda method: (method is not first, pack.stars_rank(method))))


def _runs(case: Case, evidence: Evidence | None) -> bool:
    """Whether a method is one to choose from: it fits or, unpriced, the gate lets it through."""
    if evidence is None:
        return case.feasible
    return case.priced is not None and case.priced.fit in (FitState.FITS, FitState.TIGHT)


def _figures(case: Case, *, quote_pack: bool) -> Figures:
    pack, method, priced = case.pack, case.method, case.priced
    grade = quality(pack, method, case.inputs.answers.task_kind)
    if priced is not None:
        cost = priced.cost if priced.currency == "USD" else None
        return Figures(grade, priced.device_bytes, priced.total_seconds, cost)
    if not quote_pack:
        return Figures(grade)
    examples = case.inputs.examples
    seconds, cost = pack_seconds(pack, method, examples), pack_cost(pack, method, examples)
    return Figures(grade, pack_bytes(pack, method), seconds, cost)


def _offered(figures: Figures, offer: Offer) -> Figures:
    """Time and cost of a run on what could be rented, in USD."""
    hours = offer.hours
    scaled = [SECONDS * end for end in (hours.low, hours.expected, hours.high)] if hours is not None else None
    time = ev.Interval(low=scaled[0], expected=scaled[1], high=scaled[2]) if scaled is not None else None
    return Figures(figures.quality_percent, None, time, offer.amount if offer.currency == "USD" else None)


def _assess(case: Case, figures: Figures, running: Collection[Method], rival: Method | None) -> Assessment:
    method, standing, priced = case.method, case.standing, case.priced
    # In order, for by name it takes longer.
    return Assessment(
        method,
        standing,
        tuple(reasons(case, standing)),
        case.decision.choice.ballot.votes[method],
        _badges(case.pack)[method],
        *figures,
        method in running and rival is None,
        rival,
        priced.usable_bytes if priced is not None else None,
    )


@lru_cache(maxsize=64)
def _badges(pack: Pack) -> Mapping[Method, tuple[str, ...]]:
    return {card.method: card.badge_labels for card in pack.rules.methods}
