# SPDX-License-Identifier: Apache-2.0
"""All five methods beside each other: how each fared, why, and its figures."""

from collections.abc import Mapping
from dataclasses import dataclass

from finetree_api.types.v1 import evidence_pb2 as ev

from finetree_recommender import fit
from finetree_recommender.estimates import Evidence, FitState, Priced
from finetree_recommender.figures import pack_cost, pack_seconds, quality
from finetree_recommender.inputs import Inputs
from finetree_recommender.methods import Method
from finetree_recommender.pack import Pack
from finetree_recommender.pipeline import Decision
from finetree_recommender.reasons import Case, Standing, reasons
from finetree_recommender.trace import Reason


@dataclass(frozen=True, slots=True)
class Assessment:
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


def assess(pack: Pack, inputs: Inputs, evidence: Evidence | None, decision: Decision) -> tuple[Assessment, ...]:
    """Assess all five methods, the verdict first, then in the order of stars."""
    bests = {method: fit.best(evidence, method).priced for method in Method} if evidence is not None else {}
    priced = {method: found for method, found in bests.items() if found is not None}
    running = {method: row for method, row in priced.items() if row.fit in (FitState.FITS, FitState.TIGHT)}
    order = sorted(Method, key=lambda method: (method is not decision.method, pack.stars_rank(method)))
    cases = (Case(pack, inputs, decision, method, priced.get(method)) for method in order)
    # The playbook's hours are those of 7B models: beside estimates of this model they would mislead.
    return tuple(_assess(case, running, quote_pack=evidence is None) for case in cases)


def _assess(case: Case, running: Mapping[Method, Priced], *, quote_pack: bool) -> Assessment:
    pack, method, priced = case.pack, case.method, case.priced
    rival = _dominator(pack, method, running)
    examples = case.inputs.examples if quote_pack else None
    seconds, cost = pack_seconds(pack, method, examples), pack_cost(pack, method, examples)
    if priced is not None:
        seconds, cost = priced.total_seconds, priced.cost if priced.currency == "USD" else None
    return Assessment(
        method=method,
        standing=case.standing,
        reasons=tuple(reasons(case)),
        votes=case.decision.choice.ballot.votes[method],
        badges=pack.card(method).badge_labels,
        quality_percent=quality(pack, method),
        device_bytes=priced.device_bytes if priced is not None else None,
        total_seconds=seconds,
        cost_usd=cost,
        on_frontier=method in running and rival is None,
        dominated_by=rival,
    )


def _dominator(pack: Pack, method: Method, running: Mapping[Method, Priced]) -> Method | None:
    """A method that is at least as good in quality, memory, time and cost, and better in one; first by stars."""
    if method not in running:
        return None
    ours = _scores(pack, method, running[method])
    for rival in pack.rules.stars_order.methods:
        if rival is not method and rival in running:
            theirs = _scores(pack, rival, running[rival])
            if theirs != ours and all(a <= b for a, b in zip(theirs, ours, strict=True)):
                return rival
    return None


def _scores(pack: Pack, method: Method, priced: Priced) -> tuple[float, float, float, float]:
    """Less is better in each."""
    expected = -pack.card(method).quality_percent.expected
    seconds = priced.total_seconds.expected if priced.total_seconds is not None else 0.0
    cost = priced.cost.expected if priced.cost is not None else 0.0
    return expected, priced.device_bytes.expected, seconds, cost
