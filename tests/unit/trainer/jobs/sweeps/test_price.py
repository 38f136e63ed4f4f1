# SPDX-License-Identifier: Apache-2.0
import pytest
from finetree_api.trainer.v1 import sweep_pb2
from finetree_api.types.v1 import estimate_summary_pb2, evidence_pb2
from finetree_runtime.errors import DomainError
from finetree_runtime.money import to_money
from finetree_trainer.jobs.sweeps.price import estimate_of, require_affordable, require_limit_that_holds

HALVING = sweep_pb2.SuccessiveHalving(reduction_factor=3, min_steps=10)


def interval(low, expected, high):
    return evidence_pb2.Interval(low=low, expected=expected, high=high, coverage=0.9)


def trial(cost=2.0, steps=90):
    summary = estimate_summary_pb2.EstimateSummary(total_seconds=interval(50, 100, 200), optimizer_steps=steps)
    if cost:
        summary.cost.amount.CopyFrom(interval(cost / 2, cost, 2 * cost))
        summary.cost.currency_code = "USD"
    return summary


def test_trials_are_added_up_and_halving_lowers_what_is_expected_but_not_the_worst():
    total = estimate_of(sweep_pb2.SweepTemplate(metric="eval_loss"), [trial()] * 9)
    assert (total.cost.amount.low, total.cost.amount.expected, total.cost.amount.high) == (9, 18, 36)
    assert total.total_seconds.expected == 900
    halved = estimate_of(sweep_pb2.SweepTemplate(metric="eval_loss", halving=HALVING), [trial()] * 9)
    assert halved.cost.amount.expected == pytest.approx(18 * 210 / 810)
    assert halved.cost.amount.high == 36


def test_a_sum_that_lacks_a_part_is_not_given():
    total = estimate_of(sweep_pb2.SweepTemplate(metric="loss"), [trial(), None, trial(cost=0)])
    assert not total.HasField("cost")
    assert total.estimated_trials == 2


def sweep(limit, currency="USD", *, cost=2.0):
    template = sweep_pb2.SweepTemplate(metric="loss", max_cost=to_money(limit, currency))
    return sweep_pb2.Sweep(
        template=template, trials=[sweep_pb2.Trial()] * 3, estimate=estimate_of(template, [trial(cost)] * 3)
    )


def test_a_limit_is_held_against_what_is_expected():
    require_limit_that_holds(sweep(6.0))
    require_affordable(sweep(6.0))
    with pytest.raises(DomainError) as refused:
        require_affordable(sweep(5.99))
    assert refused.value.reason == "SWEEP_TOO_EXPENSIVE"
    assert refused.value.metadata["expected_cost"] == "6"


@pytest.mark.parametrize(
    ("asked", "reason"),
    [(sweep(6.0, "EUR"), "CURRENCY_MISMATCH"), (sweep(6.0, cost=0), "INVALID_REQUEST")],
    ids=["another currency", "no price"],
)
def test_a_limit_that_cannot_be_kept_is_refused(asked, reason):
    with pytest.raises(DomainError) as refused:
        require_limit_that_holds(asked)
    assert refused.value.reason == reason
