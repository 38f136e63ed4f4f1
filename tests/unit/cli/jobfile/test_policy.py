# SPDX-License-Identifier: Apache-2.0
"""Limits from options and policy files."""

import pytest
from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_cli.errors import BadInput
from finetree_cli.jobfile.policy import LimitFlags, read_policy


@pytest.fixture
def policy_file(tmp_path):
    def write(content: str) -> str:
        path = tmp_path / "policy.yaml"
        path.write_text(content, encoding="utf-8")
        return str(path)

    return write


def test_flags_become_limits_in_the_contracts_units():
    flags = LimitFlags(
        max_cost_usd=50.0,
        max_monthly_cost_usd=200.0,
        max_hours=8.0,
        max_memory_gib=24.0,
        fits=True,
        max_energy_kwh=3.0,
        max_carbon_kg=1.5,
        min_confidence="medium",
    )
    assert read_policy(None, flags).message == pb.PlanPolicy(
        max_cost=50,
        currency_code="USD",
        max_monthly_cost=200,
        max_seconds=28800,
        max_device_bytes=24 << 30,
        must_fit=True,
        max_energy_kwh=3,
        max_carbon_kg=1.5,
        min_confidence=pb.CONFIDENCE_LEVEL_MEDIUM,
    )


def test_flags_win_over_the_file(policy_file):
    file = policy_file("max_cost: 10\nmax_seconds: 60\nmust_fit: true\n")
    found = read_policy(file, LimitFlags(max_cost_usd=5.0)).message
    assert (found.max_cost, found.max_seconds, found.must_fit) == (5, 60, True)


def test_a_limit_of_nothing_is_a_limit():
    assert read_policy(None, LimitFlags(max_carbon_kg=0.0)).message.HasField("max_carbon_kg")


@pytest.mark.parametrize(
    ("content", "flags", "reason", "fact"),
    [
        (None, LimitFlags(), "POLICY_EMPTY", "--max-cost-usd"),
        ("currency_code: EUR\n", LimitFlags(), "POLICY_EMPTY", "--policy"),
        ("max_costs: 1\n", LimitFlags(), "POLICY_FILE_INVALID", "policy.yaml:1:1: max_costs: "),
        ("max_cost: [1]\n", LimitFlags(), "POLICY_FILE_INVALID", "policy.yaml:1:11: max_cost: "),
        ("max_cost: 1\nmax_cost: 2\n", LimitFlags(), "POLICY_FILE_INVALID", "policy.yaml:2:1: max_cost: "),
        ("max_cost: .nan\n", LimitFlags(), "POLICY_FILE_INVALID", "policy.yaml:1:11: max_cost: "),
        ("a: [\n", LimitFlags(), "POLICY_FILE_INVALID", "not YAML"),
        ("max_cost: 1\ncurrency_code: EUR\n", LimitFlags(max_cost_usd=1.0), "CURRENCY_UNKNOWN", "EUR"),
    ],
)
def test_an_invalid_policy_is_refused_with_its_position(policy_file, content, flags, reason, fact):
    with pytest.raises(BadInput) as caught:
        read_policy(None if content is None else policy_file(content), flags)
    error = caught.value
    assert error.reason == reason
    assert fact in " ".join([error.message, error.remedy, *map(str, error.problems)])


@pytest.mark.parametrize(
    ("content", "flags", "line"),
    [
        ("must_fit: true\nmax_cost: 5\ncurrency_code: EUR\n", LimitFlags(), 3),
        ("must_fit: true\nmax_cost: 5\n", LimitFlags(), 2),  # in US dollars, the default
        ("must_fit: true\n", LimitFlags(max_cost_usd=5.0), None),
        ("max_cost: 5\n", LimitFlags(max_cost_usd=6.0), None),
    ],
)
def test_a_currency_is_refused_where_it_is_stated(policy_file, content, flags, line):
    problem = read_policy(policy_file(content), flags).problem("policy.currency_code", "limits are in USD")
    assert (problem.position.line if problem is not None else None) == line


def test_a_file_without_an_end_is_no_policy():
    with pytest.raises(BadInput, match="policy file") as caught:
        read_policy("/dev/zero", LimitFlags())
    assert caught.value.reason == "POLICY_FILE_INVALID"


def test_a_policy_file_that_is_not_there_is_named():
    with pytest.raises(BadInput) as caught:
        read_policy("/nowhere/policy.yaml", LimitFlags())
    assert (caught.value.reason, caught.value.remedy) == ("POLICY_FILE_UNREADABLE", "")
