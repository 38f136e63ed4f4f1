# SPDX-License-Identifier: Apache-2.0
"""Limits from options and policy files."""

import pytest
from finetree_api.estimator.v1 import check_plan_pb2 as pb
from finetree_api.types.v1 import check_pb2, evidence_pb2
from finetree_cli.errors import BadInput
from finetree_cli.jobfile.policy import FLAGS, LimitFlags, read_policy
from google.type import money_pb2

FIVE_DOLLARS = money_pb2.Money(currency_code="USD", units=5)


@pytest.fixture
def policy_file(tmp_path):
    def write(content: str) -> str:
        path = tmp_path / "policy.yaml"
        path.write_text(content, encoding="utf-8")
        return str(path)

    return write


def limits(policy: pb.PlanPolicy) -> dict[str, pb.PolicyLimit]:
    return {pb.PolicyMetric.Name(limit.metric).removeprefix("POLICY_METRIC_"): limit for limit in policy.limits}


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
    found = limits(read_policy(None, flags).message)
    assert found["COST"].max_money == FIVE_DOLLARS
    assert found["MONTHLY_COST"].max_money.currency_code == "EUR"
    assert found["DURATION_SECONDS"].max == 28800
    assert found["DEVICE_BYTES"].max == 24 << 30
    assert found["ENERGY_KWH"].max == 3
    assert found["CARBON_KG"].WhichOneof("bound") == "max", "a limit of 0 is a limit"
    assert found["FIT"].WhichOneof("bound") is None
    assert found["CONFIDENCE"].min_confidence == evidence_pb2.CONFIDENCE_LEVEL_MEDIUM


def test_every_metric_of_a_prediction_has_an_option():
    named = {"EXAMPLES", "TOKENS", "METHOD", "MODEL", "MODEL_LICENSE", "PROVIDER"}
    metrics = {name.removeprefix("POLICY_METRIC_") for name, number in pb.PolicyMetric.items() if number}
    assert set(FLAGS) == metrics - named


def test_a_file_has_the_limits_with_enums_and_money_as_text(policy_file):
    file = policy_file(
        "limits:\n"
        "  - {metric: cost, max_money: 0.30 EUR}\n"
        "  - {metric: POLICY_METRIC_FIT, severity: warning}\n"
        "  - {metric: confidence, min_confidence: high}\n"
    )
    cost, fit, confidence = read_policy(file, LimitFlags()).message.limits
    assert cost.max_money == money_pb2.Money(currency_code="EUR", nanos=300_000_000)
    assert (fit.metric, fit.severity) == (pb.POLICY_METRIC_FIT, check_pb2.SEVERITY_WARNING)
    assert confidence.min_confidence == evidence_pb2.CONFIDENCE_LEVEL_HIGH


def test_options_replace_the_files_limit_of_the_same_metric(policy_file):
    file = policy_file(
        "limits:\n  - {metric: cost, max_money: 10 USD}\n  - {metric: duration_seconds, max: 60}\n  - {metric: fit}\n"
    )
    found = read_policy(file, LimitFlags(max_cost=FIVE_DOLLARS, max_energy_kwh=1)).message
    assert [limit.metric for limit in found.limits] == [
        pb.POLICY_METRIC_COST,
        pb.POLICY_METRIC_DURATION_SECONDS,
        pb.POLICY_METRIC_FIT,
        pb.POLICY_METRIC_ENERGY_KWH,
    ]
    assert found.limits[0].max_money == FIVE_DOLLARS
    assert found.limits[1].max == 60


@pytest.mark.parametrize(
    ("content", "reason", "fact"),
    [
        (None, "POLICY_EMPTY", "--max-cost"),
        ("limits: []\n", "POLICY_EMPTY", "--policy"),
        ("limit: []\n", "POLICY_FILE_INVALID", "policy.yaml:1:1: limit: "),
        ("limits:\n  - {metric: cost, max: [1]}\n", "POLICY_FILE_INVALID", "policy.yaml:2:25: limits[0].max: "),
        ("limits:\n  - {metric: price}\n", "POLICY_FILE_INVALID", "policy.yaml:2:14: limits[0].metric: "),
        ("limits:\n  - {metric: cost, max_money: 5}\n", "POLICY_FILE_INVALID", "limits[0].max_money: "),
        ("limits:\n  - {metric: cost, max: 5, max_money: 5 USD}\n", "POLICY_FILE_INVALID", "limits[0].max_money: "),
        ("limits:\n  - {metric: carbon_kg, max: .nan}\n", "POLICY_FILE_INVALID", "limits[0].max: "),
        ("a: [\n", "POLICY_FILE_INVALID", "not YAML"),
    ],
)
def test_an_invalid_policy_is_refused_with_its_position(policy_file, content, reason, fact):
    with pytest.raises(BadInput) as caught:
        read_policy(None if content is None else policy_file(content), LimitFlags())
    error = caught.value
    assert error.reason == reason
    assert fact in " ".join([error.message, error.remedy, *map(str, error.problems)])


def test_a_violation_names_the_line_or_the_option(policy_file):
    file = policy_file("limits:\n  - {metric: fit}\n  - {metric: cost, max_money: 1 EUR}\n")
    policy = read_policy(file, LimitFlags(max_hours=0.0))
    for path in ("policy.limits[1].max_money.currency_code", "policy.limits[1]", "policy.limits[1].max"):
        problem = policy.problem(path, "in another currency")
        assert problem is not None
        assert problem.position.line == 3
    assert policy.problem("policy.limits[2].max", "must be positive") is None
    assert policy.flag("policy.limits[2].max") == "--max-hours"
    replaced = read_policy(file, LimitFlags(max_cost=FIVE_DOLLARS))
    assert replaced.problem("policy.limits[1].max_money", "in another currency") is None
    assert replaced.flag("policy.limits[1].max_money") == "--max-cost"


def test_a_file_without_an_end_is_no_policy():
    with pytest.raises(BadInput, match="policy file") as caught:
        read_policy("/dev/zero", LimitFlags())
    assert caught.value.reason == "POLICY_FILE_INVALID"


def test_a_policy_file_that_is_not_there_is_named():
    with pytest.raises(BadInput) as caught:
        read_policy("/nowhere/policy.yaml", LimitFlags())
    assert (caught.value.reason, caught.value.remedy) == ("POLICY_FILE_UNREADABLE", "")
