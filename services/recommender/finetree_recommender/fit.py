# SPDX-License-Identifier: Apache-2.0
"""Last stage: the estimator's word on whether the chosen method's recipe fits, and what is taken where it does not."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

from finetree_recommender.estimates import Evidence, FitState, Priced
from finetree_recommender.methods import METHODS, Method
from finetree_recommender.pack import Pack
from finetree_recommender.recipe_rules import Adaptation
from finetree_recommender.trace import Breach, Step

GIB = 2**30
"""Bytes of a GiB."""
Broken = Mapping[Method, tuple[Breach, ...]]
"""What each method would break; a method that is left out breaks nothing."""


class Best(NamedTuple):
    """The least adapted recipe of a method that fits best."""

    state: FitState
    adapted: int
    """How many adaptations it has."""
    priced: Priced | None


class Settlement(NamedTuple):
    """What the fit stage settled on."""

    method: Method | None
    adapted: int
    state: FitState
    rejected: tuple[Method, ...]
    """Methods that were preferred and do not fit."""
    passed: Broken = MappingProxyType({})
    """Methods that were preferred, with the wishes that they break and the method keeps."""


States = tuple[FitState, ...]
"""Whether each method fits, in the order of `Method`."""
RUNS = (FitState.FITS, FitState.TIGHT)
"""States of a method that trains here."""


class Burden(NamedTuple):
    """How much a method would break, the graver first: less is better, and nothing is least."""

    hard: int = 0
    """Things that do not work at all."""
    soft: int = 0
    """Limits that it goes over."""
    rule_id: str = ""
    """Rule of the first of them; empty for none."""


UNBURDENED = Burden()
"""Of a method that breaks nothing."""


class Ground(NamedTuple):
    """All that a verdict reads of the figures, in the order of `Method`; few grounds exist, so verdicts can be kept."""

    states: States | None
    """None where nothing was estimated."""
    burdens: tuple[Burden, ...]

    def state(self, method: Method) -> FitState:
        """Whether a method fits."""
        return self.states[_PLACES[method]] if self.states is not None else FitState.UNKNOWN

    def burden(self, method: Method) -> Burden:
        """What a method would break."""
        return self.burdens[_PLACES[method]]

    def weight(self, method: Method) -> tuple[int, int]:
        """How much a method would break."""
        return self.burdens[_PLACES[method]][:2]


_PLACES = {method: place for place, method in enumerate(Method)}


def ground(evidence: Evidence | None, broken: Broken) -> Ground:
    """The ground of evidence and of what each method would break."""
    return Ground(states(evidence) if evidence is not None else None, tuple(burden(broken.get(m, ())) for m in METHODS))


def burden(breaches: tuple[Breach, ...]) -> Burden:
    """How much breaches weigh."""
    if not breaches:
        return UNBURDENED
    hard = sum(breach.hard for breach in breaches)
    return Burden(hard, len(breaches) - hard, breaches[0].rule_id)


def states(evidence: Evidence) -> States:
    """Whether each method's best recipe fits."""
    found: States | None = evidence.kept.get("states")
    if found is None:
        found = evidence.kept["states"] = tuple([best(evidence, method).state for method in METHODS])
    return found


def best(evidence: Evidence, method: Method) -> Best:
    """The first recipe that fits with room, else the first that fits tightly, else the last and smallest."""
    found: Best | None = evidence.kept.get(method)
    if found is None:
        found = evidence.kept[method] = _best(evidence, method)
    return found


def _best(evidence: Evidence, method: Method) -> Best:
    priced = [(index, item) for index, item in evidence.of(method) if isinstance(item, Priced)]
    if len(priced) == 1:  # as the estimator answers
        return Best(priced[0][1].fit, *priced[0])
    for state in (FitState.FITS, FitState.TIGHT, FitState.UNKNOWN, FitState.DOES_NOT_FIT):
        found = [pair for pair in priced if pair[1].fit is state]
        if found:
            # Of recipes that do not fit, the smallest tells best how far away the method is.
            index, item = found[-1] if state is FitState.DOES_NOT_FIT else found[0]
            return Best(state, index, item)
    return Best(FitState.UNKNOWN, 0, None)


def taken(pack: Pack, ground: Ground, order: tuple[Method, ...], *, proof_needed: bool) -> Method | None:
    """The first method of an order that fits and breaks no wish, else the one that breaks least.

    With `proof_needed` (the playbook said upgrade) a method is taken only where the estimator shows that it fits;
    otherwise a method whose fit is unknown keeps its place.
    """
    if ground.states is None:
        # What is beyond the gate comes last in the order.
        return None if proof_needed else min(order, key=ground.weight, default=None)
    first = order[0] if order else None
    if first is not None and ground.state(first) in RUNS and ground.burden(first) == UNBURDENED:
        return first  # as it mostly is
    unknown = [method for method in _with_fallbacks(pack, order) if ground.state(method) is FitState.UNKNOWN]
    if first is not None and not proof_needed and first in unknown and ground.burden(first) == UNBURDENED:
        return first
    fitting = [method for method in _with_fallbacks(pack, order) if ground.state(method) in RUNS]
    if fitting:
        return min(fitting, key=ground.weight)
    return None if proof_needed or not unknown else unknown[0]


@lru_cache(maxsize=4096)
def sound(ground: Ground) -> frozenset[Method]:
    """The methods that break nothing and, where there are estimates, fit: the first of an order that is one is taken.

    Without estimates only where no proof is needed.
    """
    light = (method for method in METHODS if ground.burden(method) == UNBURDENED)
    return frozenset(method for method in light if ground.states is None or ground.state(method) in RUNS)


def settlement(
    pack: Pack,
    evidence: Evidence | None,
    order: tuple[Method, ...],
    broken: Broken,
    method: Method | None,
    *,
    proof_needed: bool,
) -> Settlement:
    """The method that is `taken`, and what was rejected and passed over before it."""
    if evidence is None:
        before = order[: order.index(method)] if method is not None else ()
        return Settlement(method, 0, FitState.UNKNOWN, (), {m: broken.get(m, ()) for m in before})
    found = {each: best(evidence, each) for each in _with_fallbacks(pack, order)}
    rejected = tuple(m for m in found if found[m].state is FitState.DOES_NOT_FIT)
    if method is not None and found[method].state in RUNS:
        before = tuple(found)[: tuple(found).index(method)]
        passed = {m: broken.get(m, ()) for m in before if found[m].state in RUNS}
        kept = tuple(m for m in rejected if m in before)
        return Settlement(method, found[method].adapted, found[method].state, kept, passed)
    if order and method is order[0] and not proof_needed and not broken.get(method):
        return Settlement(method, 0, FitState.UNKNOWN, ())
    unknown = any(each.state is FitState.UNKNOWN for each in found.values())
    return Settlement(method, 0, FitState.UNKNOWN if unknown else FitState.DOES_NOT_FIT, rejected)


def steps(
    pack: Pack, evidence: Evidence | None, settled: Settlement, applied: tuple[Adaptation, ...], overruled_rule_id: str
) -> Iterator[Step]:
    """The trace of a settlement."""
    convention = pack.cited("finetree: fit stage")
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
        yield Step("fit", rule.id, rule.message, pack.cited(rule.source))
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


@lru_cache(maxsize=4096)
def _with_fallbacks(pack: Pack, order: tuple[Method, ...]) -> tuple[Method, ...]:
    """The order, with what a method becomes under a 4-bit base right behind it."""
    result: dict[Method, None] = {}
    for method in order:
        result[method] = None
        for rule in pack.rules.adaptations:
            if rule.becomes in order and method in rule.methods and rule.becomes is not None:
                result[rule.becomes] = None
    return tuple(result)
