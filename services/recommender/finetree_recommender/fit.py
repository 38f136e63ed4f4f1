# SPDX-License-Identifier: Apache-2.0
"""Last stage: the estimator's word on whether the chosen method's recipe fits, and what is taken where it does not."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from finetree_recommender.estimates import Evidence, FitState, Priced
from finetree_recommender.methods import Method
from finetree_recommender.pack import Pack
from finetree_recommender.recipe_rules import Adaptation
from finetree_recommender.trace import Breach, Step

GIB = 2**30
"""Bytes of a GiB."""
Broken = Mapping[Method, tuple[Breach, ...]]
"""What each method would break; a method that is left out breaks nothing."""


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
    passed: Broken = field(default_factory=dict)
    """Methods that were preferred, with the wishes that they break and the method keeps."""


States = tuple[FitState, ...]
"""Whether each method fits, in the order of `Method`."""


def states(evidence: Evidence) -> States:
    """Whether each method's best recipe fits."""
    return tuple(best(evidence, method).state for method in Method)


def best(evidence: Evidence, method: Method) -> Best:
    """The first recipe that fits with room, else the first that fits tightly, else the last and smallest."""
    found: Best | None = evidence.kept.get(method)
    if found is None:
        found = evidence.kept[method] = _best(evidence, method)
    return found


def _best(evidence: Evidence, method: Method) -> Best:
    priced = [(index, item) for index, item in evidence.of(method) if isinstance(item, Priced)]
    for state in (FitState.FITS, FitState.TIGHT, FitState.UNKNOWN, FitState.DOES_NOT_FIT):
        found = [pair for pair in priced if pair[1].fit is state]
        if found:
            # Of recipes that do not fit, the smallest tells best how far away the method is.
            index, item = found[-1] if state is FitState.DOES_NOT_FIT else found[0]
            return Best(state, index, item)
    return Best(FitState.UNKNOWN, 0, None)


def settle(
    pack: Pack, evidence: Evidence | None, order: tuple[Method, ...], broken: Broken, *, proof_needed: bool
) -> Settlement:
    """Take the first method of an order that fits and breaks no wish, else the one that breaks least.

    With `proof_needed` (the playbook said upgrade) a method is taken only where the estimator shows that it fits;
    otherwise a method whose fit is unknown keeps its place.
    """
    if evidence is None:
        return Settlement(None, 0, FitState.UNKNOWN, ()) if proof_needed else _unpriced(order, broken)
    found = {method: best(evidence, method) for method in _with_fallbacks(pack, order)}
    fitting = [m for m in found if found[m].state in (FitState.FITS, FitState.TIGHT)]
    unknown = [m for m in found if found[m].state is FitState.UNKNOWN]
    rejected = tuple(m for m in found if found[m].state is FitState.DOES_NOT_FIT)
    if not proof_needed and order and order[0] in unknown and not broken.get(order[0]):
        return Settlement(order[0], 0, FitState.UNKNOWN, ())
    if fitting:
        method = min(fitting, key=lambda item: _weight(broken.get(item, ())))
        before = tuple(found)[: tuple(found).index(method)]
        passed = {m: broken.get(m, ()) for m in before if m in fitting}
        return Settlement(
            method, found[method].adapted, found[method].state, tuple(m for m in rejected if m in before), passed
        )
    kept = None if proof_needed or not unknown else unknown[0]
    return Settlement(kept, 0, FitState.UNKNOWN if unknown else FitState.DOES_NOT_FIT, rejected)


def _unpriced(order: tuple[Method, ...], broken: Broken) -> Settlement:
    """The order's first that breaks least; what is beyond the gate comes last in it."""
    method = min(order, key=lambda item: _weight(broken.get(item, ())), default=None)
    before = order[: order.index(method)] if method is not None else ()
    return Settlement(method, 0, FitState.UNKNOWN, (), {m: broken.get(m, ()) for m in before})


def _weight(breaches: tuple[Breach, ...]) -> tuple[int, int]:
    """How much is broken: what does not work at all before what is merely over a limit."""
    hard = sum(breach.hard for breach in breaches)
    return hard, len(breaches) - hard


def steps(
    pack: Pack, evidence: Evidence | None, settled: Settlement, applied: tuple[Adaptation, ...], overruled_rule_id: str
) -> Iterator[Step]:
    """The trace of a settlement."""
    convention = pack.provenance("finetree: fit stage")
    for method, breaches in settled.passed.items():
        for breach in breaches:
            yield Step("demands", breach.rule_id, f"{method} is passed over: {breach.message}", convention)
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
