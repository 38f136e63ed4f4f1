# SPDX-License-Identifier: Apache-2.0
"""Limits of a method: time, cost, serving, and what the GPU and the model allow."""

from collections.abc import Iterator

from finetree_api.types.v1 import serving_pb2
from finetree_runtime.serving.check import Asked, check
from finetree_runtime.serving.facts import Facts, Form

from finetree_recommender.decision.fit import OVER_BUDGET, OVER_MAX_DURATION, Violations
from finetree_recommender.decision.prior_figures import pack_cost_expected, pack_seconds_expected
from finetree_recommender.estimator.values import Evidence
from finetree_recommender.formatting import duration
from finetree_recommender.method import Method
from finetree_recommender.request.limits import Limits
from finetree_recommender.rule_pack.pack import Pack
from finetree_recommender.trace import Violation

USD = "USD"
"""Currency of budgets and of the pack's prices."""
NO_NF4 = "NO_NF4"
NOT_SERVABLE = "NOT_SERVABLE"
NO_KEYS_AND_VALUES = "NO_KEYS_AND_VALUES"
_FORMS = {
    Method.FULL: Form.MODEL,
    Method.LORA: Form.LORA,
    Method.QLORA: Form.LORA,
    Method.PREFIX: Form.PREFIX,
    Method.ADAPTER: Form.BOTTLENECK,
}
"""What the files of a method's result are."""


def violations(pack: Pack, limits: Limits, evidence: Evidence | None) -> Violations:
    """Limits that each method would break; a figure that is unknown breaks none."""
    return {
        method: (
            *_capability(pack, limits, method),
            *_serving(pack, limits, method),
            *_duration(pack, limits, evidence, method=method),
            *_budget(pack, limits, evidence, method=method),
        )
        for method in Method
    }


def seconds_of(pack: Pack, evidence: Evidence | None, method: Method, *, examples: int | None) -> float | None:
    """Expected seconds of a run: the estimator's, and without an estimator the pack's own."""
    if evidence is None:
        return pack_seconds_expected(pack, method, examples)
    estimate = evidence.best[method].estimate
    return estimate.total_seconds.expected if estimate is not None and estimate.total_seconds is not None else None


def usd_of(pack: Pack, evidence: Evidence | None, method: Method, *, examples: int | None) -> float | None:
    """Expected cost of a run in USD: the estimator's, and without an estimator the pack's own."""
    if evidence is None:
        return pack_cost_expected(pack, method, examples)
    estimate = evidence.best[method].estimate
    if estimate is None or estimate.cost is None or estimate.cost.currency_code != USD:
        return None
    return estimate.cost.amount.expected


def _capability(pack: Pack, limits: Limits, method: Method) -> Iterator[Violation]:
    rule = pack.rules.capabilities.nf4
    if method is Method.QLORA and limits.capability is not None and limits.capability < rule.value:
        has = f"{limits.capability:.1f}"
        text = f"cannot run: 4-bit bases need compute capability {rule.value:.1f}, and this GPU has {has}"
        yield Violation(NO_NF4, text, rule.id, hard=True)
    if method is Method.PREFIX and limits.uneven_keys:
        text = "cannot be trained: it needs keys and values of one shape in every layer, which this model does not have"
        yield Violation(NO_KEYS_AND_VALUES, text, "fit.keys_and_values", hard=True)


def _serving(pack: Pack, limits: Limits, method: Method) -> Iterator[Violation]:
    for target in limits.serving:
        rule = next((r for r in pack.rules.serving if r.target == target and method in r.methods), None)
        if rule is not None:
            if not rule.served:
                yield Violation(NOT_SERVABLE, f"cannot be served: {rule.note}", rule.id, hard=True)
            continue
        # What the pack leaves open is decided by what was read in the server's code.
        answers = check(Facts(_FORMS[method]), [Asked(serving_pb2.ServingTarget.Value(f"SERVING_TARGET_{target}"))])
        if all(answer.verdict == serving_pb2.SERVING_VERDICT_NOT for answer in answers):
            newest = answers[0]
            yield Violation(NOT_SERVABLE, f"cannot be served: {newest.message}", newest.rule_ids[0], hard=True)


def _duration(pack: Pack, limits: Limits, evidence: Evidence | None, *, method: Method) -> Iterator[Violation]:
    limit = limits.max_seconds
    if limit is None:
        return
    needs = seconds_of(pack, evidence, method, examples=limits.examples)
    if needs is not None and needs > limit:
        text = f"takes {duration(needs)}{_whose(evidence)}, and the time limit is {duration(limit)}"
        yield Violation(OVER_MAX_DURATION, text, pack.rules.limits.max_duration.id, value=needs)


def _budget(pack: Pack, limits: Limits, evidence: Evidence | None, *, method: Method) -> Iterator[Violation]:
    limit = limits.run_usd
    if limit is None:
        return
    needs = usd_of(pack, evidence, method, examples=limits.examples)
    if needs is not None and needs > limit:
        text = f"costs {needs:.2f} USD a run{_whose(evidence)}, and the budget is {limit:.2f} USD"
        yield Violation(OVER_BUDGET, text, pack.rules.limits.budget.id, value=needs)


def _whose(evidence: Evidence | None) -> str:
    return "" if evidence is not None else " by the playbook's table for 7B models"
