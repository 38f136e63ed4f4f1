# SPDX-License-Identifier: Apache-2.0
import pytest
from finetree_api.estimator.v1 import check_plan_pb2
from finetree_estimator.intervals import Interval
from finetree_estimator.whatif.policy import Level, Limit, Metric, Severity, Undecided, read_policy, with_base
from finetree_runtime.errors import InvalidArgument
from google.protobuf import json_format


def request(policy: dict[str, object], **parts: object) -> check_plan_pb2.CheckPlanRequest:
    return json_format.ParseDict({"policy": policy} | parts, check_plan_pb2.CheckPlanRequest())


def test_a_policy_is_read_in_its_order_with_the_place_of_each_limit():
    limits = [
        {"metric": "POLICY_METRIC_COST", "max_money": {"units": 2, "nanos": 500_000_000, "currency_code": "EUR"}},
        {"metric": "POLICY_METRIC_FIT", "severity": "SEVERITY_WARNING"},
        {"metric": "POLICY_METRIC_CONFIDENCE", "min_confidence": "CONFIDENCE_LEVEL_HIGH"},
        {"metric": "POLICY_METRIC_DEVICE_BYTES", "max": 1024, "severity": "SEVERITY_INFO"},
        {"metric": "POLICY_METRIC_METHOD", "names": {"allowed": ["lora"], "denied": ["full"]}, "rule_id": "how"},
        {"metric": "POLICY_METRIC_TOKENS", "max_increase": 0.5},
    ]
    found = read_policy(request({"limits": limits}))

    error, advisory = (Severity.ERROR, Level.HARD), (Severity.WARNING, Level.ADVISORY)
    assert found.limits == (
        Limit(Metric.COST, 2.5, "EUR", error[0], "policy.limits[0]", error[1]),
        Limit(Metric.FIT, 0.0, "", advisory[0], "policy.limits[1]", advisory[1]),
        Limit(Metric.CONFIDENCE, 3.0, "", error[0], "policy.limits[2]", error[1]),
        Limit(Metric.DEVICE_BYTES, 1024.0, "", Severity.INFO, "policy.limits[3]", Level.ADVISORY),
        Limit(Metric.METHOD, None, path="policy.limits[4]", own_id="how", allowed=("lora",), denied=("full",)),
        Limit(Metric.TOKENS, None, path="policy.limits[5]", increase=0.5),
    )
    assert found.undecided is Undecided.FAIL
    assert [limit.rule_id for limit in found.limits[3:]] == ["device_bytes", "how", "tokens_increase"]


@pytest.mark.parametrize(
    ("given", "severity", "level"),
    [
        ({}, Severity.ERROR, Level.HARD),
        ({"level": "LIMIT_LEVEL_ADVISORY"}, Severity.WARNING, Level.ADVISORY),
        ({"level": "LIMIT_LEVEL_ADVISORY", "severity": "SEVERITY_INFO"}, Severity.INFO, Level.ADVISORY),
        ({"level": "LIMIT_LEVEL_OVERRIDABLE"}, Severity.ERROR, Level.OVERRIDABLE),
        ({"level": "LIMIT_LEVEL_OVERRIDABLE", "severity": "SEVERITY_WARNING"}, Severity.WARNING, Level.OVERRIDABLE),
        ({"severity": "SEVERITY_WARNING"}, Severity.WARNING, Level.ADVISORY),
    ],
)
def test_what_is_unset_of_severity_and_level_follows_from_the_other(given, severity, level):
    (limit,) = read_policy(request({"limits": [{"metric": "POLICY_METRIC_FIT"} | given]})).limits
    assert (limit.severity, limit.level, limit.stops) == (severity, level, severity is Severity.ERROR)


def test_each_metric_level_and_treatment_of_the_contract_is_known():
    metrics = {name.removeprefix("POLICY_METRIC_") for name, value in check_plan_pb2.PolicyMetric.items() if value}

    assert {metric.name for metric in Metric} == metrics
    assert [metric.value for metric in Metric] == [metric.name.lower() for metric in Metric]
    for name in list(check_plan_pb2.UndecidedPolicy.keys())[1:]:
        found = read_policy(request({"limits": [], "undecided": name}))
        assert found.undecided is Undecided[name.removeprefix("UNDECIDED_POLICY_")]


FIT = {"metric": "POLICY_METRIC_FIT"}
WAIVER = {"rule_id": "fit", "owner": "a", "reason": "b", "until": "2026-12-31"}
OVERRIDE = {"rule_id": "fit", "by": "a", "reason": "b"}


@pytest.mark.parametrize(
    ("policy", "parts", "field", "text"),
    [
        ({"limits": [FIT], "waivers": [WAIVER]}, {"evaluation_date": ""}, "evaluation_date", "is required"),
        (
            {"limits": [FIT | {"level": "LIMIT_LEVEL_ADVISORY", "severity": "SEVERITY_ERROR"}]},
            {},
            "policy.limits[0].level",
            "cannot have severity ERROR",
        ),
        ({"limits": [FIT], "waivers": [WAIVER | {"rule_id": "cost"}]}, {}, "policy.waivers[0].rule_id", "'cost'"),
        ({"limits": [FIT], "waivers": [WAIVER, WAIVER]}, {}, "policy.waivers[1].rule_id", "named twice"),
        ({"limits": [FIT], "waivers": [WAIVER | {"until": "2026-02-30"}]}, {}, "policy.waivers[0].until", "calendar"),
        ({"limits": [FIT]}, {"evaluation_date": "2026-02-30"}, "evaluation_date", "calendar"),
        ({"limits": [FIT]}, {"overrides": [OVERRIDE | {"rule_id": "x"}]}, "overrides[0].rule_id", "the policy has fit"),
        ({"limits": [FIT]}, {"overrides": [OVERRIDE, OVERRIDE]}, "overrides[1].rule_id", "named twice"),
        (
            {"limits": [FIT, {"metric": "POLICY_METRIC_COST", "rule_id": "fit"}]},
            {},
            "policy.limits[1].rule_id",
            "of another limit",
        ),
    ],
)
def test_a_policy_that_contradicts_itself_is_refused(policy, parts, field, text):
    with pytest.raises(InvalidArgument) as caught:
        read_policy(request(policy, **({"evaluation_date": "2026-12-01"} | parts)))
    assert [item.field_path for item in caught.value.violations] == [field]
    assert text in caught.value.message


def test_a_base_in_another_currency_is_no_base_of_an_absolute_limit():
    limit, base = Limit(Metric.COST, 5.0, "USD"), Interval(1, 2, 3)
    assert with_base(limit, base, currency="USD").base == base
    assert with_base(limit, base, currency="EUR").base is None
    relative = with_base(Limit(Metric.COST, None, increase=0.5), base, currency="EUR")
    assert (relative.bound, relative.currency) == (3.0, "EUR")
