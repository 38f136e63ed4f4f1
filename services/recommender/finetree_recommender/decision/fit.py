# SPDX-License-Identifier: Apache-2.0
"""Last stage: the estimator's word on whether the chosen method's recipe fits, and what is taken where it does not."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

from finetree_recommender.estimator.values import Evidence, FitState, Priced
from finetree_recommender.method import METHODS, Method
from finetree_recommender.policy.pack import Pack
from finetree_recommender.policy.schema.recipe_rules import Adaptation
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
    """How much a method would break: things that do not work at all are graver than limits that it goes over."""

    hard: int = 0
    """Things that do not work at all."""
    late: bool = False
    """Whether it takes longer than the deadline."""
    dear: int = 0
    """0 within the budget of a run; else its place among those over it, 1 for the cheapest."""
    rule_id: str = ""
    """Rule of the first that it breaks; empty for none."""

    @property
    def weight(self) -> tuple[int, int]:
        """How many things do not work at all, and how many limits it goes over."""
        return self.hard, self.late + bool(self.dear)


UNBURDENED = Burden()
"""Of a method that breaks nothing."""
NO_BURDENS = (UNBURDENED,) * len(Method)
"""No method breaks anything."""


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


_PLACES = {method: place for place, method in enumerate(Method)}


def ground(evidence: Evidence | None, burdens: tuple[Burden, ...] = NO_BURDENS) -> Ground:
    """The ground of evidence and of what each method would break."""
    return Ground(states(evidence) if evidence is not None else None, burdens)


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


def taken(
    pack: Pack, ground: Ground, order: tuple[Method, ...], above: tuple[Method, ...] = (), *, proof_needed: bool
) -> Method | None:
    """The first method of an order that fits and breaks no wish, else what breaks least: `_least`.

    With `proof_needed` (the playbook said upgrade) a method is taken only where the estimator shows that it fits;
    otherwise a method whose fit is unknown keeps its place. What is `above` the first is taken only where nothing else
    runs.
    """
    if ground.states is None:
        # What is beyond the gate comes last in the order.
        return None if proof_needed else _least(pack, ground, order, above)
    first = order[0] if order else None
    if first is not None and ground.state(first) in RUNS and ground.burden(first) == UNBURDENED:
        return first  # as it mostly is
    tried = _with_fallbacks(pack, order)
    unknown = [method for method in tried if ground.state(method) is FitState.UNKNOWN]
    if first is not None and not proof_needed and first in unknown and ground.burden(first) == UNBURDENED:
        return first
    found = _least(pack, ground, tuple([method for method in tried if ground.state(method) in RUNS]), above)
    if found is not None:
        return found
    return None if proof_needed or not unknown else unknown[0]


def _least(pack: Pack, ground: Ground, order: tuple[Method, ...], above: tuple[Method, ...]) -> Method | None:
    """The method that breaks least, the first of several; None of none.

    By most packs that is the one that breaks the fewest things. A pack with `demands.nearest` sees to it that no larger
    budget takes a method that is later in the order (docs/decisions/0016): of the methods that keep the deadline, or of
    all where none does, the first that is within the budget, and where none is, the cheapest.
    """
    if pack.rules.demands.nearest is None or not order:
        return min(order, key=lambda method: ground.burden(method).weight, default=None)
    burdens = {method: ground.burden(method) for method in order}
    hard = min(burden.hard for burden in burdens.values())
    works = [method for method in order if burdens[method].hard == hard]
    asked = [method for method in works if method not in above] or works
    timely = [method for method in asked if not burdens[method].late] or asked
    return min(timely, key=lambda method: burdens[method].dear)


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
    """The order, with what a method becomes under a 4-bit base right behind it, unless quality orders them."""
    if pack.rules.demands.nearest is not None:
        return order
    result: dict[Method, None] = {}
    for method in order:
        result[method] = None
        for rule in pack.rules.adaptations:
            if rule.becomes in order and method in rule.methods and rule.becomes is not None:
                result[rule.becomes] = None
    return tuple(result)
