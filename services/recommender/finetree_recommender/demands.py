# SPDX-License-Identifier: Apache-2.0
"""Wishes that are checked against figures: what a method would cost, take, and be good for."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from finetree_api.types.v1 import evidence_pb2 as ev

from finetree_recommender import fit
from finetree_recommender.estimates import Evidence, Priced
from finetree_recommender.figures import pack_cost, pack_seconds
from finetree_recommender.methods import Method
from finetree_recommender.pack import Pack
from finetree_recommender.trace import Breach

PackFigure = Callable[[Pack, Method, int | None], ev.Interval | None]
NO_NF4 = "NO_NF4"
NOT_SERVABLE = "NOT_SERVABLE"
OVER_BUDGET = "OVER_BUDGET"
OVER_DEADLINE = "OVER_DEADLINE"


@dataclass(frozen=True, slots=True)
class Demands:
    """What a run must keep to; None and empty where nothing was said."""

    deadline_seconds: float | None = None
    run_usd: float | None = None
    """Largest cost of one run."""
    serving: tuple[str, ...] = ()
    """Servers that must load the result."""
    capability: float | None = None
    """CUDA compute capability of the accelerator."""
    examples: int | None = None
    """Rows of the data, for the pack's own hours."""


def breaches(pack: Pack, demands: Demands, evidence: Evidence | None, method: Method) -> tuple[Breach, ...]:
    """What a method would break. A figure that nobody has breaks nothing."""
    priced = fit.best(evidence, method).priced if evidence is not None else None
    return (
        *_capability(pack, demands, method),
        *_serving(pack, demands, method),
        *_deadline(pack, demands, evidence, method, priced),
        *_budget(pack, demands, evidence, method, priced),
    )


def all_breaches(pack: Pack, demands: Demands, evidence: Evidence | None) -> fit.Broken:
    """What each method would break."""
    if evidence is None:
        return _by_the_pack(pack, demands)
    return {method: breaches(pack, demands, evidence, method) for method in Method}


@lru_cache(maxsize=4096)
def _by_the_pack(pack: Pack, demands: Demands) -> fit.Broken:
    """Kept, for every change of hardware is judged by it."""
    return {method: breaches(pack, demands, None, method) for method in Method}


def _over(figure: float | None, limit: float | None) -> bool:
    return figure is not None and limit is not None and figure > limit


def seconds_of(pack: Pack, evidence: Evidence | None, method: Method, examples: int | None) -> float | None:
    """Expected time of a run: the estimator's, and without an estimator the pack's own."""
    if evidence is None:
        return _pack_figure(pack_seconds, pack, method, examples)
    priced = fit.best(evidence, method).priced
    return priced.total_seconds.expected if priced is not None and priced.total_seconds is not None else None


def usd_of(pack: Pack, evidence: Evidence | None, method: Method, examples: int | None) -> float | None:
    """Expected cost of a run in USD: the estimator's, and without an estimator the pack's own."""
    if evidence is None:
        return _pack_figure(pack_cost, pack, method, examples)
    priced = fit.best(evidence, method).priced
    known = priced is not None and priced.cost is not None and priced.currency == "USD"
    return priced.cost.expected if priced is not None and priced.cost is not None and known else None


@lru_cache(maxsize=4096)
def _pack_figure(figure: PackFigure, pack: Pack, method: Method, examples: int | None) -> float | None:
    own = figure(pack, method, examples)
    return own.expected if own is not None else None


def duration(seconds: float) -> str:
    """A time for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _capability(pack: Pack, demands: Demands, method: Method) -> Iterator[Breach]:
    rule = pack.rules.capabilities.nf4
    if method is Method.QLORA and demands.capability is not None and demands.capability < rule.value:
        text = f"4-bit bases need compute capability {rule.value:g}, this GPU has {demands.capability:g}"
        yield Breach(NO_NF4, text, rule.id, hard=True)


def _serving(pack: Pack, demands: Demands, method: Method) -> Iterator[Breach]:
    for target in demands.serving:
        rule = next(r for r in pack.rules.serving if r.target == target and method in r.methods)
        if not rule.served:
            yield Breach(NOT_SERVABLE, rule.note, rule.id, hard=True)


def _deadline(
    pack: Pack, demands: Demands, evidence: Evidence | None, method: Method, priced: Priced | None
) -> Iterator[Breach]:
    needs = seconds_of(pack, evidence, method, demands.examples)
    if needs is None or demands.deadline_seconds is None or not _over(needs, demands.deadline_seconds):
        return
    text = f"takes {duration(needs)}{_whose(priced)}, the deadline is {duration(demands.deadline_seconds)}"
    yield Breach(OVER_DEADLINE, text, pack.rules.demands.deadline.id, hard=False)


def _budget(
    pack: Pack, demands: Demands, evidence: Evidence | None, method: Method, priced: Priced | None
) -> Iterator[Breach]:
    needs = usd_of(pack, evidence, method, demands.examples)
    if needs is None or demands.run_usd is None or not _over(needs, demands.run_usd):
        return
    text = f"costs {needs:.2f} USD a run{_whose(priced)}, the budget is {demands.run_usd:.2f} USD"
    yield Breach(OVER_BUDGET, text, pack.rules.demands.budget.id, hard=False)


def _whose(priced: Priced | None) -> str:
    return "" if priced is not None else " by the playbook's table for 7B models"
