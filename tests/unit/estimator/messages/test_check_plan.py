# SPDX-License-Identifier: Apache-2.0
import pytest
from finetree_api.estimator.v1 import check_plan_pb2, estimate_pb2
from finetree_api.types.v1 import check_pb2, evidence_pb2
from finetree_estimator.catalog import price_book
from finetree_estimator.messages.check_plan import check_plan_response
from finetree_estimator.spec.resolve import Knowledge
from finetree_estimator.whatif.check_plan import check_plan
from google.protobuf import json_format

KNOWLEDGE = Knowledge(price_book.packaged())
SPEC = {"model": {"name": "llama-3.2-3b"}, "lora": {}, "hardware": {"accelerator": "rtx-4090"}}
LIMITS = {
    "POLICY_METRIC_COST": ({"max_money": {"units": 5, "currency_code": "USD"}}, check_pb2.CHECK_UNIT_MONEY),
    "POLICY_METRIC_MONTHLY_COST": ({"max_money": {"units": 5, "currency_code": "USD"}}, check_pb2.CHECK_UNIT_MONEY),
    "POLICY_METRIC_DURATION_SECONDS": ({"max": 3600}, check_pb2.CHECK_UNIT_SECONDS),
    "POLICY_METRIC_DEVICE_BYTES": ({"max": 8e9}, check_pb2.CHECK_UNIT_BYTES),
    "POLICY_METRIC_ENERGY_KWH": ({"max": 3}, check_pb2.CHECK_UNIT_KILOWATT_HOURS),
    "POLICY_METRIC_CARBON_KG": ({"max": 3}, check_pb2.CHECK_UNIT_KILOGRAMS_CO2),
    "POLICY_METRIC_FIT": ({}, check_pb2.CHECK_UNIT_BYTES),
    "POLICY_METRIC_EXAMPLES": ({"max": 5000}, check_pb2.CHECK_UNIT_UNSPECIFIED),
    "POLICY_METRIC_TOKENS": ({"max": 1e9}, check_pb2.CHECK_UNIT_TOKENS),
    "POLICY_METRIC_CONFIDENCE": ({"min_confidence": "CONFIDENCE_LEVEL_LOW"}, check_pb2.CHECK_UNIT_CONFIDENCE_LEVEL),
}
NAMES = {
    "POLICY_METRIC_METHOD": "lora",
    "POLICY_METRIC_MODEL": "llama-3.2-3b",
    "POLICY_METRIC_MODEL_LICENSE": "llama3.2",
    "POLICY_METRIC_PROVIDER": "lium",
}
LEVELS = {
    "LIMIT_LEVEL_ADVISORY": check_pb2.SEVERITY_WARNING,
    "LIMIT_LEVEL_OVERRIDABLE": check_pb2.SEVERITY_ERROR,
    "LIMIT_LEVEL_HARD": check_pb2.SEVERITY_ERROR,
}


def checked(limit: dict[str, object], **parts: object) -> check_pb2.Check:
    profile = {"examples": 1000, "total_tokens": 200_000}
    run = json_format.ParseDict({"spec": SPEC, "dataset_profile": profile}, estimate_pb2.EstimateRunRequest())
    request = json_format.ParseDict({"policy": {"limits": [limit]}} | parts, check_plan_pb2.CheckPlanRequest())
    request.run.CopyFrom(run)
    (check,) = check_plan_response(check_plan(request, KNOWLEDGE), evidence_pb2.Revision()).checks
    return check


def test_every_metric_is_covered():
    assert {*LIMITS, *NAMES, "POLICY_METRIC_UNSPECIFIED"} == set(check_plan_pb2.PolicyMetric.keys())


@pytest.mark.parametrize("metric", LIMITS)
def test_a_check_has_the_unit_of_its_metric_and_the_number_that_was_compared(metric):
    bound, unit = LIMITS[metric]
    check = checked({"metric": metric} | bound)

    assert check.unit == unit
    assert check.currency_code == ("USD" if unit == check_pb2.CHECK_UNIT_MONEY else "")
    assert check.measured.low <= check.measured.expected <= check.measured.high
    assert check.limit > 0
    assert check.message


@pytest.mark.parametrize("metric", NAMES)
def test_a_check_of_a_name_has_the_name_and_both_lists(metric):
    check = checked({"metric": metric, "names": {"allowed": ["a", "*"], "denied": ["none-such"]}})
    assert (check.verdict, check.measured_name) == (check_pb2.CHECK_VERDICT_PASS, NAMES[metric])
    assert (list(check.allowed), list(check.denied)) == (["a", "*"], ["none-such"])
    assert not check.HasField("measured")
    assert not check.HasField("limit")


@pytest.mark.parametrize("level", LEVELS)
def test_a_check_has_the_level_of_its_limit_and_who_lifted_it(level):
    limit = {"metric": "POLICY_METRIC_DEVICE_BYTES", "max": 1, "level": level}
    override = {"rule_id": "device_bytes", "by": "ada", "reason": "once"}
    check = checked(limit, overrides=[override])
    lifted = level == "LIMIT_LEVEL_OVERRIDABLE"
    assert check_pb2.LimitLevel.Name(check.level) == level
    assert check.severity == LEVELS[level]
    assert check.verdict == (check_pb2.CHECK_VERDICT_WAIVED if lifted else check_pb2.CHECK_VERDICT_FAIL)
    assert json_format.MessageToDict(check.override, preserving_proto_field_name=True) == override


def test_a_check_has_the_number_of_the_base_run():
    base = {"spec": SPEC, "dataset_profile": {"examples": 500, "total_tokens": 100_000}}
    check = checked({"metric": "POLICY_METRIC_EXAMPLES", "max_increase": 0.5}, base_run=base)
    assert (check.rule_id, check.verdict) == ("examples_increase", check_pb2.CHECK_VERDICT_FAIL)
    assert (check.base.expected, check.measured.expected, check.limit) == (500, 1000, 750)
