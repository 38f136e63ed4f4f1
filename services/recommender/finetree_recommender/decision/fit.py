# SPDX-License-Identifier: Apache-2.0
"""Last stage: whether the chosen method's recipe fits and keeps the limits, and what is taken where it does not."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from finetree_recommender.decision.stages import Choice
from finetree_recommender.estimator.values import Estimate, Evidence, FitState, States
from finetree_recommender.method import Method
from finetree_recommender.rule_pack.pack import Pack
from finetree_recommender.rule_pack.schema.recipe import Adaptation
from finetree_recommender.trace import Step, Violation

GIB = 2**30
"""Bytes of a GiB."""
OVER_BUDGET = "OVER_BUDGET"
OVER_MAX_DURATION = "OVER_MAX_DURATION"
SOURCE = "finetree: fit stage"
"""Source of what this stage does by convention."""

Violations = Mapping[Method, tuple[Violation, ...]]
"""The limits that each method would break."""
NO_VIOLATIONS: Violations = dict.fromkeys(Method, ())


@dataclass(frozen=True, slots=True)
class Constraints:
    """Everything that a verdict reads of estimates and limits."""

    states: States | None
    """Whether each method fits; None where nothing was estimated."""
    violations: Violations = field(default_factory=lambda: NO_VIOLATIONS)


@dataclass(frozen=True, slots=True)
class FitResult:
    """What the fit stage took, and what it rejected and passed over."""

    method: Method | None
    adapted: int
    """Adaptations in the method's recipe."""
    state: FitState
    rejected: tuple[Method, ...] = ()
    """Methods that were preferred and do not fit."""
    passed: Violations = field(default_factory=dict)
    """Methods that were preferred, with the limits that they break and the method keeps."""


def take(pack: Pack, choice: Choice, constraints: Constraints) -> Method | None:
    """The first method of the choice's order that fits and breaks no limit, else what breaks least: `_least`.

    Where the pack says upgrade, a method is taken only where the estimator shows that it fits; otherwise a method whose
    fit is unknown keeps its place.
    """
    states, proof_needed = constraints.states, choice.passage.upgrade
    order = choice.tried(estimate=states is not None)
    if states is None:
        return None if proof_needed else _least(pack, constraints, order, choice.order.above)
    if order and not constraints.violations[order[0]]:
        state = states[order[0]]
        if state.trains or (state is FitState.UNKNOWN and not proof_needed):
            return order[0]
    tried = _with_fallbacks(pack, order)
    running = tuple(method for method in tried if states[method].trains)
    found = _least(pack, constraints, running, choice.order.above)
    if found is not None or proof_needed:
        return found
    return next((method for method in tried if states[method] is FitState.UNKNOWN), None)


def result(
    pack: Pack, choice: Choice, constraints: Constraints, *, evidence: Evidence | None, method: Method | None
) -> FitResult:
    """The fit stage's result, where `method` is what it takes."""
    order, violations = choice.tried(estimate=evidence is not None), constraints.violations
    if evidence is None:
        before = order[: order.index(method)] if method is not None else ()
        return FitResult(method, 0, FitState.UNKNOWN, passed={each: violations[each] for each in before})
    best, tried = evidence.best, _with_fallbacks(pack, order)
    rejected = tuple(each for each in tried if best[each].state is FitState.DOES_NOT_FIT)
    if method is not None and best[method].state.trains:
        before = tried[: tried.index(method)]
        return FitResult(
            method,
            best[method].adapted,
            best[method].state,
            rejected=tuple(each for each in rejected if each in before),
            passed={each: violations[each] for each in before if best[each].state.trains},
        )
    if order and method is order[0] and not choice.passage.upgrade and not violations[method]:
        return FitResult(method, 0, FitState.UNKNOWN)
    unknown = any(best[each].state is FitState.UNKNOWN for each in tried)
    return FitResult(method, 0, FitState.UNKNOWN if unknown else FitState.DOES_NOT_FIT, rejected)


def steps(
    found: FitResult, evidence: Evidence | None, *, applied: tuple[Adaptation, ...], overruled_rule_id: str
) -> Iterator[Step]:
    """The trace of the fit stage; `applied` are the adaptations in the recipe."""
    for method, violations in found.passed.items():
        for item in violations:
            yield Step("limits", item.rule_id, f"{method} is skipped: {item.message}", SOURCE)
    if evidence is None:
        yield Step("fit", "fit.no_estimate", "not checked: there is no estimate, and the rules stand", SOURCE)
        return
    for method in found.rejected:
        yield Step("fit", "fit.does_not_fit", shortage(method, evidence.best[method].estimate), SOURCE)
    if found.method is None:
        yield Step("fit", "fit.nothing_fits", "no recipe of any method was shown to fit", SOURCE)
        return
    if found.state is FitState.UNKNOWN:
        yield Step("fit", "fit.not_estimated", f"the estimator has no figure for {found.method}", SOURCE)
        return
    for rule in applied:
        yield Step("fit", rule.id, rule.message, rule.source)
    outcome = f"{found.method} {room(evidence.best[found.method].estimate)}"
    yield Step("fit", "fit.fits", outcome, SOURCE, overruled_rule_id=overruled_rule_id)


def shortage(method: Method, estimate: Estimate | None) -> str:
    """How much memory a method lacks, in words."""
    if estimate is None:
        return f"{method} does not fit"
    needs, has = estimate.device_bytes.expected / GIB, estimate.usable_bytes / GIB
    return f"{method} needs {needs:.1f} GiB at its smallest, the device offers {has:.1f} GiB"


def room(estimate: Estimate | None) -> str:
    """How a method fits, in words."""
    if estimate is None:
        return "fits"
    needs, has = estimate.device_bytes.expected / GIB, estimate.usable_bytes / GIB
    return f"fits: {needs:.1f} of {has:.1f} GiB"


def _least(pack: Pack, constraints: Constraints, order: tuple[Method, ...], above: tuple[Method, ...]) -> Method | None:
    """The method that breaks least, the first of several; None of none.

    By most packs that is the one that breaks the fewest limits. A pack with `demands.nearest` sees to it that no larger
    budget takes a method that is later in the order (docs/decisions/0016): of the methods that keep the time limit, or
    of all where none does, the first that is within the budget, and where none is, the cheapest. What is `above` the
    method that the rules prefer is taken only where nothing else trains.
    """
    found = constraints.violations
    hard = {method: sum(item.hard for item in found[method]) for method in order}
    if pack.rules.limits.nearest is None or not order:
        return min(order, key=lambda method: (hard[method], len(found[method]) - hard[method]), default=None)
    works = [method for method in order if hard[method] == min(hard.values())]
    asked = [method for method in works if method not in above] or works
    timely = [method for method in asked if not _excess(found[method], OVER_MAX_DURATION)] or asked
    return min(timely, key=lambda method: _excess(found[method], OVER_BUDGET))


def _excess(violations: tuple[Violation, ...], code: str) -> float:
    """Seconds or USD of a run that exceeds a limit; 0 where it does not."""
    return next((item.value for item in violations if item.code == code), 0.0)


def _with_fallbacks(pack: Pack, order: tuple[Method, ...]) -> tuple[Method, ...]:
    """The order, with what a method becomes under a 4-bit base right behind it, unless quality orders them."""
    if pack.rules.limits.nearest is not None:
        return order
    found: dict[Method, None] = {}
    for method in order:
        found[method] = None
        for rule in pack.rules.adaptations:
            if method in rule.methods and rule.becomes is not None and rule.becomes in order:
                found[rule.becomes] = None
    return tuple(found)
