# SPDX-License-Identifier: Apache-2.0
"""Last stage: the estimator's word on whether the chosen method's recipe fits, and what is taken where it does not."""

from collections.abc import Iterator
from dataclasses import dataclass

from finetree_recommender.estimates import Evidence, FitState, Priced
from finetree_recommender.methods import Method
from finetree_recommender.pack import Pack
from finetree_recommender.recipe_rules import Adaptation
from finetree_recommender.trace import Step

GIB = 2**30
"""Bytes of a GiB."""


@dataclass(frozen=True, slots=True)
class Best:
    """The least adapted recipe of a method that fits best."""

    state: FitState
    adapted: int
    """How many adaptations it has."""
    priced: Priced | None


@dataclass(frozen=True, slots=True)
class Settlement:
    """What the fit stage settled on."""

    method: Method | None
    adapted: int
    state: FitState
    rejected: tuple[Method, ...]
    """Methods that were preferred and do not fit."""
    overruled: bool
    """Whether physics took another method than the rules before it."""


def best(evidence: Evidence, method: Method) -> Best:
    """The first recipe that fits with room, else the first that fits tightly, else the last and smallest."""
    priced = [(index, item) for index, item in evidence.of(method) if isinstance(item, Priced)]
    for state in (FitState.FITS, FitState.TIGHT, FitState.UNKNOWN, FitState.DOES_NOT_FIT):
        found = [pair for pair in priced if pair[1].fit is state]
        if found:
            # Of recipes that do not fit, the smallest tells best how far away the method is.
            index, item = found[-1] if state is FitState.DOES_NOT_FIT else found[0]
            return Best(state, index, item)
    return Best(FitState.UNKNOWN, 0, None)


def settle(pack: Pack, evidence: Evidence | None, order: tuple[Method, ...], *, proof_needed: bool) -> Settlement:
    """Take the first method of an order that fits.

    With `proof_needed` (the playbook said upgrade) a method is taken only where the estimator shows that it fits;
    otherwise a method whose fit is unknown keeps its place.
    """
    first = order[0] if order else None
    if evidence is None:
        kept = None if proof_needed else first
        return Settlement(kept, 0, FitState.UNKNOWN, (), overruled=False)
    rejected: list[Method] = []
    unknown: list[Method] = []
    for method in _with_fallbacks(pack, order):
        found = best(evidence, method)
        if found.state in (FitState.FITS, FitState.TIGHT):
            return Settlement(method, found.adapted, found.state, tuple(rejected), overruled=method is not first)
        if found.state is FitState.UNKNOWN:
            if method is first and not proof_needed:
                return Settlement(method, 0, FitState.UNKNOWN, (), overruled=False)
            unknown.append(method)
        else:
            rejected.append(method)
    kept = None if proof_needed or not unknown else unknown[0]
    state = FitState.UNKNOWN if unknown else FitState.DOES_NOT_FIT
    return Settlement(kept, 0, state, tuple(rejected), overruled=kept is not None)


def steps(
    pack: Pack, evidence: Evidence | None, settled: Settlement, applied: tuple[Adaptation, ...], overruled_rule_id: str
) -> Iterator[Step]:
    """The trace of a settlement."""
    convention = pack.provenance("finetree: fit stage")
    if evidence is None:
        yield Step("fit", "fit.no_estimate", "not checked: the pack's own words stand", convention)
        return
    for method in settled.rejected:
        yield Step("fit", "fit.does_not_fit", shortage(method, best(evidence, method).priced), convention)
    if settled.method is None:
        yield Step("fit", "fit.nothing_fits", "no recipe of any method was shown to fit", convention)
        return
    if settled.state is FitState.UNKNOWN:
        yield Step("fit", "fit.not_estimated", f"the estimator has no figure for {settled.method}", convention)
        return
    for rule in applied:
        yield Step("fit", rule.id, rule.message, pack.provenance(rule.source))
    outcome = f"{settled.method} {room(best(evidence, settled.method).priced)}"
    yield Step("fit", "fit.fits", outcome, convention, (), overruled_rule_id)


def shortage(method: Method, priced: Priced | None) -> str:
    """How much a method lacks, for people."""
    if priced is None:
        return f"{method} does not fit"
    needs, has = priced.device_bytes.expected / GIB, priced.usable_bytes / GIB
    return f"{method} needs {needs:.1f} GiB at its smallest, the device offers {has:.1f} GiB"


def room(priced: Priced | None) -> str:
    """How a method fits, for people."""
    if priced is None:
        return "fits"
    needs, has = priced.device_bytes.expected / GIB, priced.usable_bytes / GIB
    return f"fits: {needs:.1f} of {has:.1f} GiB"


def _with_fallbacks(pack: Pack, order: tuple[Method, ...]) -> tuple[Method, ...]:
    """The order, with what a method becomes under a 4-bit base right behind it."""
    result: dict[Method, None] = {}
    for method in order:
        result[method] = None
        for rule in pack.rules.adaptations:
            if rule.becomes in order and method in rule.methods and rule.becomes is not None:
                result[rule.becomes] = None
    return tuple(result)
