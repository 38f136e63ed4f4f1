# SPDX-License-Identifier: Apache-2.0
"""Limits, overrides and the treatment of undecided limits from options."""

import pytest
from finetree_api.estimator.v1 import check_plan_pb2 as pb
from finetree_api.types.v1 import evidence_pb2
from finetree_cli.errors import BadInput
from finetree_cli.gate.policy.bounds import KINDS
from finetree_cli.gate.policy.flags import FLAGS, LimitFlags, limits_of, metric_name, overrides_of, undecided_of
from google.type import money_pb2

FIVE_DOLLARS = money_pb2.Money(currency_code="USD", units=5)


def test_options_become_limits_in_the_contracts_units():
    flags = LimitFlags(
        max_cost=FIVE_DOLLARS,
        max_monthly_cost=money_pb2.Money(currency_code="EUR", units=200),
        max_hours=8.0,
        max_memory_gib=24.0,
        fits=True,
        max_energy_kwh=3.0,
        max_carbon_kg=0.0,
        min_confidence="medium",
    )
    found = {metric_name(limit.metric): limit for limit in limits_of(flags)}
    assert found["COST"].max_money == FIVE_DOLLARS
    assert found["MONTHLY_COST"].max_money.currency_code == "EUR"
    assert found["DURATION_SECONDS"].max == 28800
    assert found["DEVICE_BYTES"].max == 24 << 30
    assert found["ENERGY_KWH"].max == 3
    assert found["CARBON_KG"].WhichOneof("bound") == "max", "a limit of 0 is a limit"
    assert found["FIT"].WhichOneof("bound") is None
    assert found["CONFIDENCE"].min_confidence == evidence_pb2.CONFIDENCE_LEVEL_MEDIUM


def test_a_metric_that_is_newer_than_this_command_has_its_number():
    assert metric_name(99) == "UNKNOWN_(99)"


def test_every_metric_is_a_policy_files_and_those_of_a_prediction_have_an_option():
    metrics = {name.removeprefix("POLICY_METRIC_") for name, number in pb.PolicyMetric.items() if number}
    assert {name.upper() for name in KINDS} == metrics
    assert metrics - set(FLAGS) == {"EXAMPLES", "TOKENS", "METHOD", "MODEL", "MODEL_LICENSE", "PROVIDER"}


def test_undecided_limits_are_left_to_the_policy_unless_an_option_says_otherwise():
    assert [undecided_of(each) for each in (None, "fail", "undecided")] == [
        0,
        pb.UNDECIDED_POLICY_WARN,
        pb.UNDECIDED_POLICY_FAIL,
    ]


def test_an_override_has_a_limit_a_reason_and_a_name():
    (found,) = overrides_of(["cost = release = today"], "ada")
    assert (found.rule_id, found.by, found.reason) == ("cost", "ada", "release = today")
    assert overrides_of([], None) == []
    for texts, by in ((["cost"], "ada"), (["=x"], "ada"), (["cost="], "ada"), (["cost=x"], None)):
        with pytest.raises(BadInput, match="--override"):
            overrides_of(texts, by)
