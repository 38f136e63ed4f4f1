# SPDX-License-Identifier: Apache-2.0
"""Assessment of all five methods: standing, reasons and figures."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from finetree_api.types.v1 import evidence_pb2

from finetree_recommender.decision.prior_figures import SECONDS, pack_bytes, pack_cost, pack_seconds, quality
from finetree_recommender.decision.situation import Situation
from finetree_recommender.explain import pareto
from finetree_recommender.explain.pareto import Figures
from finetree_recommender.explain.reasons import Case, Standing, reasons
from finetree_recommender.explain.rental_offers import Offer
from finetree_recommender.method import Method
from finetree_recommender.trace import Reason


@dataclass(frozen=True, slots=True)
class Assessment:
    """Assessment of a method."""

    method: Method
    standing: Standing
    reasons: tuple[Reason, ...]
    votes: Mapping[str, int]
    badges: tuple[str, ...]
    figures: Figures
    on_frontier: bool
    dominated_by: Method | None
    usable_bytes: int | None
    """Memory that is available on the device; None where there is no estimate."""


def assess(situation: Situation, rented: tuple[Offer, ...] = ()) -> tuple[Assessment, ...]:
    """Assess all five methods, the verdict first, then in the order of stars.

    Where there are offers to rent and no estimates, they give time and cost: they are of this model.
    """
    pack, estimate = situation.pack, situation.evidence is not None
    cases = [Case(situation, method) for method in _order(situation)]
    # The playbook's figures are of 7B models and not comparable with estimates of this model.
    quote_pack = not estimate and not rented and situation.inputs.own_figures
    figures = {case.method: _figures(case, quote_pack=quote_pack) for case in cases}
    running = {case.method for case in cases if _runs(case)}
    if rented and not estimate:
        figures |= {offer.method: _offered(figures[offer.method], offer) for offer in rented}
        running &= {offer.method for offer in rented}
    compared = {case.method: figures[case.method] for case in cases if case.method in running}
    rivals = pareto.dominators(compared, pack.rules.stars_order.methods)
    return tuple(
        Assessment(
            method=case.method,
            standing=case.standing,
            reasons=reasons(case),
            votes=case.decision.choice.ballot.votes[case.method],
            badges=pack.card(case.method).badge_labels,
            figures=figures[case.method],
            on_frontier=case.method in running and case.method not in rivals,
            dominated_by=rivals.get(case.method),
            usable_bytes=case.estimate.usable_bytes if case.estimate is not None else None,
        )
        for case in cases
    )


def _order(situation: Situation) -> list[Method]:
    """The recommended method, then the others by stars."""
    first = situation.decision.method
    return sorted(Method, key=lambda method: (method is not first, situation.pack.stars_rank(method)))


def _runs(case: Case) -> bool:
    """Whether a method can be chosen: it fits or, without an estimate, passes the gate."""
    if case.situation.evidence is None:
        return case.feasible
    return case.estimate is not None and case.estimate.fit.trains


def _figures(case: Case, *, quote_pack: bool) -> Figures:
    pack, method, estimate, inputs = case.pack, case.method, case.estimate, case.situation.inputs
    grade = quality(pack, method, inputs.answers.task_domain, inputs.answers.data)
    if estimate is not None:
        return Figures(
            grade, device_bytes=estimate.device_bytes, total_seconds=estimate.total_seconds, cost=estimate.cost
        )
    if not quote_pack:
        return Figures(grade)
    return Figures(
        grade,
        device_bytes=pack_bytes(pack, method),
        total_seconds=pack_seconds(pack, method, inputs.examples),
        cost=pack_cost(pack, method, inputs.examples),
    )


def _offered(figures: Figures, offer: Offer) -> Figures:
    """Time and cost of a run on rented hardware."""
    hours, time = offer.hours, None
    if hours is not None:
        time = evidence_pb2.Interval(
            low=SECONDS * hours.low, expected=SECONDS * hours.expected, high=SECONDS * hours.high
        )
    return replace(figures, device_bytes=None, total_seconds=time, cost=offer.cost)
