# SPDX-License-Identifier: Apache-2.0
"""Which methods dominate which, with intervals."""

import random

import pytest
from finetree_api.types.v1 import evidence_pb2
from finetree_recommender.explain.pareto import Figures, dominators, equal
from finetree_recommender.method import Method

ORDER = tuple(Method)
LORA, QLORA, FULL = Method.LORA, Method.QLORA, Method.FULL


def around(expected, share=0.1):
    return evidence_pb2.Interval(low=expected * (1 - share), expected=expected, high=expected * (1 + share))


def figures(quality, memory, time, cost=None, share=0.1):
    money = evidence_pb2.MoneyInterval(amount=around(cost, share), currency_code="USD") if cost is not None else None
    return Figures(around(quality, 0.01), around(memory, share), around(time, share), money)


def test_better_in_one_and_equal_in_the_rest_dominates():
    found = dominators({LORA: figures(95, 10, 100), QLORA: figures(85, 10.2, 99)}, ORDER)
    assert found == {QLORA: LORA}


def test_a_clear_gain_anywhere_keeps_a_method_on_the_frontier():
    assert dominators({LORA: figures(95, 16, 100), QLORA: figures(85, 7, 130)}, ORDER) == {}


def test_methods_with_equal_figures_do_not_dominate_each_other():
    assert dominators({LORA: figures(95, 10, 100), QLORA: figures(95.2, 10.3, 98)}, ORDER) == {}


def test_a_figure_that_one_method_lacks_compares_none():
    estimate, unpriced = figures(95, 10, 100, cost=9.0), figures(85, 10, 100)
    assert dominators({LORA: estimate, QLORA: unpriced}, ORDER) == {QLORA: LORA}


def test_without_figures_or_rivals_nothing_is_dominated():
    assert dominators({}, ORDER) == {}
    assert dominators({LORA: figures(95, 10, 100)}, ORDER) == {}


def test_of_two_dominators_the_first_in_the_order_is_named():
    table = {LORA: figures(95, 10, 100), FULL: figures(95, 10, 100), QLORA: figures(80, 12, 130)}
    assert dominators(table, (FULL, LORA, QLORA)) == {QLORA: FULL}
    assert dominators(table, (LORA, FULL, QLORA)) == {QLORA: LORA}


@pytest.mark.parametrize(
    ("qlora", "beaten"),
    [
        ((93, 98, 102), False),  # as LoRA less a little, whatever the task is: cheaper, and not as good
        ((62, 93, 105), False),
        ((96, 99, 102), True),
        ((93, 99.5, 104), True),  # better or worse, by the task
    ],
)
def test_a_quality_that_is_lower_at_every_end_is_worse_on_any_task(qlora, beaten):
    low, expected, high = qlora
    lora = Figures(
        evidence_pb2.Interval(low=96, expected=99, high=105 if expected == 93 else 102), around(20), around(100)
    )
    lean = Figures(evidence_pb2.Interval(low=low, expected=expected, high=high), around(10), around(104))
    assert dominators({LORA: lora, QLORA: lean}, ORDER) == ({LORA: QLORA} if beaten else {})


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [((9, 10, 11), (10, 10.5, 12), True), ((9, 10, 11), (10.4, 10.5, 12), False), ((5, 5, 5), (5, 5, 5), True)],
)
def test_figures_are_equal_when_each_lies_in_the_others_interval(one, other, same):
    left, right = (evidence_pb2.Interval(low=low, expected=expected, high=high) for low, expected, high in (one, other))
    assert equal(left, right) is same
    assert equal(right, left) is same


def test_methods_never_dominate_each_other_in_a_circle():
    pick = random.Random(7)
    dominated = 0
    for _ in range(400):
        share = pick.choice((0.01, 0.1, 0.4))
        table = {
            m: figures(pick.uniform(70, 100), *(pick.uniform(1, 3) for _ in range(3)), share=share) for m in Method
        }
        found = dominators(table, ORDER)
        dominated += len(found)
        for method in found:
            path = [method]
            while path[-1] in found:
                path.append(found[path[-1]])
                assert len(set(path)) == len(path)
    assert dominated > 50
