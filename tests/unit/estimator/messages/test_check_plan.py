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
    "POLICY_METRIC_CONFIDENCE": ({"min_confidence": "CONFIDENCE_LEVEL_LOW"}, check_pb2.CHECK_UNIT_CONFIDENCE_LEVEL),
}


def test_every_metric_is_covered():
    assert {*LIMITS, "POLICY_METRIC_UNSPECIFIED"} == set(check_plan_pb2.PolicyMetric.keys())


@pytest.mark.parametrize("metric", LIMITS)
def test_a_check_has_the_unit_of_its_metric_and_the_number_that_was_compared(metric):
    bound, unit = LIMITS[metric]
    run = json_format.ParseDict(
        {"spec": SPEC, "dataset_profile": {"examples": 1000}}, estimate_pb2.EstimateRunRequest()
    )
    policy = json_format.ParseDict({"limits": [{"metric": metric} | bound]}, check_plan_pb2.PlanPolicy())
    request = check_plan_pb2.CheckPlanRequest(run=run, policy=policy)

    (check,) = check_plan_response(check_plan(request, KNOWLEDGE), evidence_pb2.Revision()).checks

    assert check.unit == unit
    assert check.currency_code == ("USD" if unit == check_pb2.CHECK_UNIT_MONEY else "")
    assert check.measured.low <= check.measured.expected <= check.measured.high
    assert check.limit > 0
    assert check.message
