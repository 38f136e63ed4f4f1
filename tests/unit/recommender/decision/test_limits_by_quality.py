# SPDX-License-Identifier: Apache-2.0
"""What evidence-1 takes where a limit stands against what it prefers: docs/decisions/0016."""

import random
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
from finetree_api.types.v1 import evidence_pb2
from finetree_recommender.decision.fit import Constraints
from finetree_recommender.decision.limits import violations
from finetree_recommender.decision.pipeline import verdict_of
from finetree_recommender.decision.stages import choose
from finetree_recommender.estimator.values import Estimate, Evidence, FitState
from finetree_recommender.method import Method
from finetree_recommender.recommend import Recommendation, conclude
from finetree_recommender.request.inputs import bracket_key
from finetree_recommender.request.limits import Limits
from finetree_recommender.rule_pack.answers import PRIORITY_WORDS, SERVING_WORDS, UNKNOWN, Answers, vocabulary
from finetree_recommender.rule_pack.pack import builtin_packs
from finetree_runtime.money import to_money
from google.protobuf import json_format


def usd(amount: float) -> dict[str, Any]:
    """A Money in proto JSON."""
    return json_format.MessageToDict(to_money(amount, "USD"))


GIB = 2**30
PACK = builtin_packs()["evidence-1"]
GRADES = {method: PACK.card(method).quality_percent.expected for method in Method}


class Run(NamedTuple):
    """What a run of a method takes."""

    usd: float | None
    hours: float = 1.0
    fit: FitState = FitState.FITS


def figures(runs: dict[Method, Run]) -> Evidence:
    """Estimates of these methods; the others do not fit."""

    def point(value: float) -> evidence_pb2.Interval:
        return evidence_pb2.Interval(low=value, expected=value, high=value)

    def row(run: Run) -> Estimate:
        cost = evidence_pb2.MoneyInterval(amount=point(run.usd or 0), currency_code="USD")
        known = cost if run.usd is not None else None
        return Estimate(run.fit, point(8.0 * GIB), 24 * GIB, point(run.hours * 3600), known, 100)

    left_out = Run(None, fit=FitState.DOES_NOT_FIT)
    return Evidence({(m, 0): row(runs.get(m, left_out)) for m in Method}, evidence_pb2.Revision(), 7_000_000_000)


@pytest.fixture
def ask(read):
    """The answer by evidence-1 on a GPU of 24 GB."""

    def answer(runs: dict[Method, Run], **fields: Any) -> Recommendation:
        hardware = {"unknown_accelerator": {"marketed_memory_gb": 24}}
        return conclude(PACK, read(hardware=hardware, **fields).reread(PACK), figures(runs))

    return answer


ALL = {Method.PREFIX: Run(2), Method.ADAPTER: Run(3), Method.LORA: Run(5), Method.QLORA: Run(4), Method.FULL: Run(9)}


@pytest.mark.parametrize(
    ("amount", "method"), [(0, "PREFIX"), (2, "PREFIX"), (3, "ADAPTER"), (4, "ADAPTER"), (5, "LORA"), (100, "LORA")]
)
def test_of_what_is_within_the_budget_the_best_is_taken_and_where_nothing_is_the_cheapest(ask, amount, method):
    answer = ask(ALL, budget_per_run=usd(amount))
    assert answer.decision.method == method
    assert ("OVER_BUDGET" in [caution.code for caution in answer.cautions]) is (amount < 2)


def test_an_answer_over_the_budget_names_both_amounts(ask):
    answer = ask(ALL, budget_per_run=usd(0))
    assert answer.decision.verdict.rule_id == "limit.budget"
    reason = answer.methods[0].reasons[0]
    assert (reason.code, reason.rule_id) == ("NEAREST_TO_LIMITS", "limit.nearest")
    over = next(caution for caution in answer.cautions if caution.code == "OVER_BUDGET")
    assert all(fact in over.message for fact in ("prefix tuning", "2.00 USD", "0.00 USD"))


def test_a_limit_is_no_reason_to_take_more_than_the_rules_prefer(ask):
    """Of a small model full fine-tuning can cost less than LoRA: LoRA would take its place again with more budget."""
    runs = {Method.FULL: Run(2), Method.LORA: Run(3), Method.QLORA: Run(4)}
    between = ask(runs, budget_per_run=usd(2.5))
    assert between.decision.method is Method.LORA
    over = next(caution for caution in between.cautions if caution.code == "OVER_BUDGET")
    assert "full fine-tuning" in over.message
    assert ask(runs, budget_per_run=usd(3)).decision.method is Method.LORA
    assert ask({Method.FULL: Run(2)}, budget_per_run=usd(1)).decision.method is Method.FULL


def test_a_time_limit_that_no_method_keeps_excludes_none(ask):
    late = {method: run._replace(hours=2) for method, run in ALL.items()}
    assert ask(late, max_duration="3600s").decision.method is Method.LORA
    assert ask(late, max_duration="3600s", budget_per_run=usd(4)).decision.method is Method.ADAPTER
    quick = late | {Method.PREFIX: Run(2, hours=1)}
    assert ask(quick, max_duration="3600s", budget_per_run=usd(4)).decision.method is Method.PREFIX


def test_what_cannot_be_served_is_taken_for_no_limit(ask):
    answer = ask(ALL, budget_per_run=usd(0), serving=["SERVING_TARGET_VLLM"])
    assert answer.decision.method is Method.QLORA


def drawn(draw: random.Random) -> tuple[Answers, Limits, dict[Method, Run]]:
    """Answers, limits and estimates; costs and times in no order, some of them the same or unknown."""
    words = vocabulary(PACK.rules)
    given = {name: draw.choice(words[name]) if draw.random() < 0.5 else UNKNOWN for name in words}
    priorities = tuple(draw.sample(PRIORITY_WORDS, draw.choice((0, 0, 1, 2))))
    limits = Limits(
        max_seconds=draw.choice((None, 3600.0, 7200.0)),
        serving=tuple(draw.sample(SERVING_WORDS, draw.choice((0, 0, 1)))),
        capability=draw.choice((None, 5.2)),
    )
    states = (FitState.FITS, FitState.TIGHT, FitState.DOES_NOT_FIT)
    runs = {
        method: Run(draw.choice((None, 1, 2, 3, 4, 600)), draw.choice((1, 2, 3)), draw.choice(states))
        for method in Method
    }
    return Answers(**given, priorities=priorities), limits, runs


def test_no_larger_budget_takes_a_method_of_less_quality_whatever_the_methods_take_and_cost():
    draw, verdicts = random.Random("budgets"), set()
    for _ in range(600):
        answers, limits, runs = drawn(draw)
        found, taken = figures(runs), []
        for usd in (0, 1, 2, 3, 4, 599, 600, 2000):
            asked = answers.changed("budget", bracket_key(PACK.rules.budget, usd))
            broken = violations(PACK, replace(limits, run_usd=usd), found)
            choice = choose(PACK, asked, found.states)
            taken.append(verdict_of(PACK, choice, Constraints(found.states, broken)).method)
        assert all(before is after or _grade(before) < _grade(after) for before, after in pairwise(taken)), (
            taken, answers, limits, runs,
        )  # fmt: skip
        verdicts.update(taken)
    assert verdicts == {*Method, None}


def _grade(method: Method | None) -> float:
    return GRADES[method] if method is not None else 0.0
