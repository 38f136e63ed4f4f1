# SPDX-License-Identifier: Apache-2.0
"""Last stage: the preferred method whose recipe fits in memory and keeps the limits."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from finetree_recommender.decision.stages import Choice
from finetree_recommender.estimator.values import NO_PEAKS, Estimate, Evidence, FitState, Peaks, States
from finetree_recommender.method import Method
from finetree_recommender.rule_pack.pack import Pack
from finetree_recommender.rule_pack.schema.recipe import Adaptation
from finetree_recommender.trace import Step, Violation

GIB = 2**30
"""Bytes of a GiB."""
OVER_BUDGET = "OVER_BUDGET"
OVER_MAX_DURATION = "OVER_MAX_DURATION"
SOURCE = "finetree: fit stage"
"""Source of this stage's own rules."""

Violations = Mapping[Method, tuple[Violation, ...]]
"""The limits that each method would break."""
NO_VIOLATIONS: Violations = dict.fromkeys(Method, ())


@dataclass(frozen=True, slots=True)
class Constraints:
    """Fit and limits of each method, as a verdict reads them."""

    states: States | None
    """Whether each method fits; None where nothing was estimated."""
    peaks: Peaks = field(default_factory=lambda: NO_PEAKS)
    violations: Violations = field(default_factory=lambda: NO_VIOLATIONS)


@dataclass(frozen=True, slots=True)
class FitResult:
    """Method that the fit stage took, and those that it rejected or skipped."""

    method: Method | None
    adapted: int
    """Adaptations in the method's recipe."""
    state: FitState
    rejected: tuple[Method, ...] = ()
    """Methods that were preferred and do not fit."""
    passed: Violations = field(default_factory=dict)
    """Methods that were preferred, with the limits that they break and the method keeps."""


def take(pack: Pack, choice: Choice, constraints: Constraints) -> Method | None:
    """Take the first method of the choice's order that fits and breaks no limit, else the one that breaks least.

    Where the pack says upgrade, a method is taken only where the estimator shows that it fits; otherwise a method whose
    fit is unknown keeps its place.
    """
    states, proof_needed = constraints.states, choice.passage.upgrade
    order = choice.tried(estimate=states is not None)
    if states is None:
        return None if proof_needed else _least(pack, constraints, order, above=choice.order.above)
    if order and not constraints.violations[order[0]]:
        state = states[order[0]]
        if state.trains or (state is FitState.UNKNOWN and not proof_needed):
            return order[0]
    tried = _with_fallbacks(pack, order)
    running = tuple(method for method in tried if states[method].trains)
    found = _least(pack, constraints, running, above=choice.order.above)
    if found is not None or proof_needed:
        return found
    return next((method for method in tried if states[method] is FitState.UNKNOWN), None)


def result(
    pack: Pack, choice: Choice, constraints: Constraints, *, evidence: Evidence | None, method: Method | None
) -> FitResult:
    """Build the fit stage's result, where `method` is the one that it takes."""
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
            passed={each: violations[each] for each in before if passed_over(best[each].state, violations[each])},
        )
    if order and method is order[0] and not choice.passage.upgrade and not violations[method]:
        return FitResult(method, 0, FitState.UNKNOWN)
    unknown = any(best[each].state is FitState.UNKNOWN for each in tried)
    return FitResult(method, 0, FitState.UNKNOWN if unknown else FitState.DOES_NOT_FIT, rejected)


def passed_over(state: FitState, violations: tuple[Violation, ...]) -> bool:
    """Whether a limit, and not the memory, is what speaks against a method that was not taken."""
    return state.trains or (state is FitState.UNKNOWN and bool(violations))


def steps(
    found: FitResult, evidence: Evidence | None, *, applied: tuple[Adaptation, ...], overruled_rule_id: str
) -> Iterator[Step]:
    """Trace the fit stage; `applied` are the adaptations in the recipe."""
    for method, violations in found.passed.items():
        for item in violations:
            yield Step("limits", item.rule_id, f"{method}, skipped: {item.message}", SOURCE)
    if evidence is None:
        yield Step("fit", "fit.no_estimate", "not checked: there is no estimate, so the rules decide", SOURCE)
        return
    for method in found.rejected:
        yield Step("fit", "fit.does_not_fit", f"{method}: {shortage(evidence.best[method].estimate)}", SOURCE)
    if found.method is None:
        yield Step("fit", "fit.nothing_fits", "no recipe of any method was shown to fit", SOURCE)
        return
    if found.state is FitState.UNKNOWN:
        yield Step("fit", "fit.not_estimated", f"the estimator has no figure for {found.method}", SOURCE)
        return
    for rule in applied:
        yield Step("fit", rule.id, rule.message, rule.source)
    outcome = f"with {found.method} it {room(evidence.best[found.method].estimate)}"
    yield Step("fit", "fit.fits", outcome, SOURCE, overruled_rule_id=overruled_rule_id)


def shortage(estimate: Estimate | None) -> str:
    """Memory that a method needs and the device lacks, in words."""
    if estimate is None:
        return "does not fit"
    needs, has = estimate.device_bytes.expected / GIB, estimate.usable_bytes / GIB
    return f"needs about {needs:.1f} GiB at its smallest, and {has:.1f} GiB are available"


def room(estimate: Estimate | None) -> str:
    """Memory that a method needs of what is available, in words."""
    if estimate is None:
        return "fits"
    needs, has = estimate.device_bytes.expected / GIB, estimate.usable_bytes / GIB
    word = "fits tightly" if estimate.fit is FitState.TIGHT else "fits"
    return f"{word}: {needs:.1f} of {has:.1f} GiB"


def fits(method: Method, estimate: Estimate | None, *, of: str = "") -> str:
    """Say that a method fits, `of` a model where one is named: "LoRA fits: 9.0 of 23.5 GiB", "adapter layers fit"."""
    words = room(estimate)
    return f"{method}{f' of {of}' if of else ''} {words.replace('fits', 'fit', 1) if method.plural else words}"


def risk(estimate: Estimate | None) -> str:
    """What a tight fit risks, in words."""
    if estimate is None:
        return "it fits only tightly"
    high, has = estimate.device_bytes.high / GIB, estimate.usable_bytes / GIB
    return f"it may need up to {high:.1f} GiB of the {has:.1f} available and run out of memory"


def _least(
    pack: Pack, constraints: Constraints, order: tuple[Method, ...], *, above: tuple[Method, ...]
) -> Method | None:
    """Method that breaks least, the first of several; None if there is none.

    In most packs that is the one that breaks the fewest limits. With `limits.nearest` no larger budget takes a method
    that is later in the order (docs/decisions/0016): of the methods that keep the time limit, or
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
    """The order, with what each method becomes under a 4-bit base right after it, unless quality sets the order."""
    if pack.rules.limits.nearest is not None:
        return order
    found: dict[Method, None] = {}
    for method in order:
        found[method] = None
        for rule in pack.rules.adaptations:
            if method in rule.methods and rule.becomes is not None and rule.becomes in order:
                found[rule.becomes] = None
    return tuple(found)
