# SPDX-License-Identifier: Apache-2.0
"""Wishes that are checked against figures: what a method would cost, take, and be good for."""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from finetree_recommender.decision import fit
from finetree_recommender.decision.fit import UNBURDENED, Burden
from finetree_recommender.decision.prior_figures import pack_cost_expected, pack_seconds_expected
from finetree_recommender.estimator.values import Evidence, Priced
from finetree_recommender.method import METHODS, Method
from finetree_recommender.policy.pack import Pack
from finetree_recommender.trace import Breach

Figures = tuple[float | None, ...]
"""A figure of each method in the order of `Method`; None where nobody has it."""
NONE_OVER = (False,) * len(Method)
"""No method goes over a limit."""
NO_NF4 = "NO_NF4"
NOT_SERVABLE = "NOT_SERVABLE"
OVER_BUDGET = "OVER_BUDGET"
OVER_DEADLINE = "OVER_DEADLINE"


class Demands(NamedTuple):
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

    def within(self, run_usd: float) -> "Demands":
        """The same with another budget; in one go, for several are asked about for each recommendation."""
        return Demands(self.deadline_seconds, run_usd, self.serving, self.capability, self.examples)

    def elsewhere(self, *, priced: bool) -> "Demands":
        """The same on hardware without estimates, which limits of hours and prices meet by the pack's figures alone."""
        if priced:
            return Demands(serving=self.serving, examples=self.examples)
        return Demands(self.deadline_seconds, self.run_usd, self.serving, None, self.examples)


def breaches(pack: Pack, demands: Demands, evidence: Evidence | None, method: Method) -> tuple[Breach, ...]:
    """What a method would break. A figure that nobody has breaks nothing."""
    priced = fit.best(evidence, method).priced if evidence is not None else None
    return (
        *_capability(pack, demands, method),
        *_serving(pack, demands, method),
        *_deadline(pack, demands, evidence, method, priced),
        *_budget(pack, demands, evidence, method, priced),
    )


def all_breaches(
    pack: Pack, demands: Demands, evidence: Evidence | None, found: tuple[Burden, ...] | None = None
) -> fit.Broken:
    """What each method would break, in words; `found` are the `burdens`, where they are at hand."""
    known = zip(METHODS, found if found is not None else burdens(pack, demands, evidence), strict=True)
    return {m: breaches(pack, demands, evidence, m) if burden is not UNBURDENED else () for m, burden in known}


def burdens(pack: Pack, demands: Demands, evidence: Evidence | None) -> tuple[Burden, ...]:
    """How much each method would break, in the order of `Method`; a verdict reads no more of it, and asks often."""
    fixed = _fixed(pack, demands.serving, demands.capability)
    deadline, run_usd, examples = demands.deadline_seconds, demands.run_usd, demands.examples
    late = _over(all_seconds(pack, evidence, examples), deadline) if deadline is not None else NONE_OVER
    dear = _over(all_usd(pack, evidence, examples), run_usd) if run_usd is not None else NONE_OVER
    if not (True in late or True in dear):
        return fixed
    rules, found = pack.rules.demands, []
    places = _places(all_usd(pack, evidence, examples), dear) if rules.nearest is not None else dear
    for known, slow, place in zip(fixed, late, places, strict=True):
        first = known.rule_id or (rules.deadline.id if slow else rules.budget.id)
        found.append(Burden(known.hard, slow, place, first) if slow or place else known)
    return tuple(found)


@lru_cache(maxsize=4096)
def _fixed(pack: Pack, serving: tuple[str, ...], capability: float | None) -> tuple[Burden, ...]:
    """What each method breaks whatever it takes and costs."""
    demands = Demands(serving=serving, capability=capability)
    found = [breaches(pack, demands, None, method) for method in METHODS]
    return tuple([Burden(len(each), rule_id=each[0].rule_id) if each else UNBURDENED for each in found])


def _over(figures: Figures, limit: float) -> tuple[bool, ...]:
    # By way of a list: a generator takes twice the time, and this is asked a dozen times for each recommendation.
    return tuple([figure is not None and figure > limit for figure in figures])


def _places(figures: Figures, over: tuple[bool, ...]) -> tuple[int, ...]:
    """Of figures that are over a limit their place among those, 1 for the nearest; 0 for the others."""
    order = sorted({figure for figure, known in zip(figures, over, strict=True) if known and figure is not None})
    return tuple([order.index(f) + 1 if known and f is not None else 0 for f, known in zip(figures, over, strict=True)])


def all_seconds(pack: Pack, evidence: Evidence | None, examples: int | None) -> Figures:
    """Expected time of a run of each method: the estimator's, and without an estimator the pack's own."""
    if evidence is None:
        return _pack_seconds(pack, examples)
    found: Figures | None = evidence.kept.get("seconds")
    if found is None:
        found = evidence.kept["seconds"] = tuple([_seconds(fit.best(evidence, method).priced) for method in METHODS])
    return found


def all_usd(pack: Pack, evidence: Evidence | None, examples: int | None) -> Figures:
    """Expected cost of a run of each method in USD: the estimator's, and without an estimator the pack's own."""
    if evidence is None:
        return _pack_usd(pack, examples)
    found: Figures | None = evidence.kept.get("usd")
    if found is None:
        found = evidence.kept["usd"] = tuple([_usd(fit.best(evidence, method).priced) for method in METHODS])
    return found


@lru_cache(maxsize=1024)
def _pack_seconds(pack: Pack, examples: int | None) -> Figures:
    """The pack's own times; a recommendation asks for them again and again."""
    return tuple([pack_seconds_expected(pack, method, examples) for method in METHODS])


@lru_cache(maxsize=1024)
def _pack_usd(pack: Pack, examples: int | None) -> Figures:
    """The pack's own costs."""
    return tuple([pack_cost_expected(pack, method, examples) for method in METHODS])


def seconds_of(pack: Pack, evidence: Evidence | None, method: Method, examples: int | None) -> float | None:
    """Expected time of a run: the estimator's, and without an estimator the pack's own."""
    if evidence is None:
        return pack_seconds_expected(pack, method, examples)
    return _seconds(fit.best(evidence, method).priced)


def usd_of(pack: Pack, evidence: Evidence | None, method: Method, examples: int | None) -> float | None:
    """Expected cost of a run in USD: the estimator's, and without an estimator the pack's own."""
    if evidence is None:
        return pack_cost_expected(pack, method, examples)
    return _usd(fit.best(evidence, method).priced)


def _seconds(priced: Priced | None) -> float | None:
    return priced.total_seconds.expected if priced is not None and priced.total_seconds is not None else None


def _usd(priced: Priced | None) -> float | None:
    known = priced is not None and priced.cost is not None and priced.currency == "USD"
    return priced.cost.expected if priced is not None and priced.cost is not None and known else None


def plain(number: float) -> str:
    """A number for people, to the hundredth and without an exponent: "50", "0.25", "1000000"."""
    return f"{number:.2f}".rstrip("0").rstrip(".")


def duration(seconds: float) -> str:
    """A time for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    days = seconds / 86400
    return f"{seconds / 3600:.1f} h" if days < 10 else f"{days:.0f} days" if days < 1000 else f"{days / 365:,.0f} years"


def _capability(pack: Pack, demands: Demands, method: Method) -> Iterator[Breach]:
    rule = pack.rules.capabilities.nf4
    if method is Method.QLORA and demands.capability is not None and demands.capability < rule.value:
        text = f"4-bit bases need compute capability {rule.value:.1f}, this GPU has {demands.capability:.1f}"
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
    if needs is None or demands.deadline_seconds is None or needs <= demands.deadline_seconds:
        return
    text = f"takes {duration(needs)}{_whose(priced)}, the deadline is {duration(demands.deadline_seconds)}"
    yield Breach(OVER_DEADLINE, text, pack.rules.demands.deadline.id, hard=False)


def _budget(
    pack: Pack, demands: Demands, evidence: Evidence | None, method: Method, priced: Priced | None
) -> Iterator[Breach]:
    needs = usd_of(pack, evidence, method, demands.examples)
    if needs is None or demands.run_usd is None or needs <= demands.run_usd:
        return
    text = f"costs {needs:.2f} USD a run{_whose(priced)}, the budget is {demands.run_usd:.2f} USD"
    yield Breach(OVER_BUDGET, text, pack.rules.demands.budget.id, hard=False)


def _whose(priced: Priced | None) -> str:
    return "" if priced is not None else " by the playbook's table for 7B models"
