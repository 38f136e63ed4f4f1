# SPDX-License-Identifier: Apache-2.0
"""The calls of the estimator over the wire."""

import finetree
import pytest
from finetree.testing.catalog import MODELS
from finetree_api.estimator.v1 import check_plan_pb2, estimate_pb2, estimator_pb2
from finetree_api.recommender.v1 import recommendation_pb2
from finetree_api.types.v1 import check_pb2, run_spec_pb2


def test_a_recommendation_can_be_priced_as_it_is(do, spec):
    client = do.client()
    answer = do(client.recommend({"model": spec["model"], "hardware": {"accelerator": "rtx-4090"}}))
    assert isinstance(answer, recommendation_pb2.RecommendResponse)
    assert len(answer.methods) == 5
    estimate = do(client.estimate(answer.spec, view="FULL", dataset_profile={"examples": 5}))
    assert isinstance(estimate, estimate_pb2.Estimate)
    parts = sum(part.bytes.expected for part in estimate.memory.components)
    assert parts == estimate.memory.device_bytes.expected > 0


def test_a_row_that_fails_spoils_no_other(do, spec):
    rows = {
        "good": spec,
        "unknown": spec | {"model": {"name": "nothing"}},
        "request": estimate_pb2.EstimateRunRequest(
            spec=run_spec_pb2.RunSpec(model={"name": "large"}, lora={}, hardware={"accelerator": "rtx-4090"})
        ),
    }
    results = do(do.client().estimate_batch(rows))
    assert list(results) == ["good", "unknown", "request"]
    assert isinstance(results["unknown"], finetree.NotFound)
    assert results["unknown"].reason == "MODEL_NOT_FOUND"
    assert results["request"].total_parameters == 7_000_000_000
    assert results["good"].total_parameters == 1_000_000
    whole = estimator_pb2.BatchEstimateRunsRequest(
        rows=[estimator_pb2.BatchEstimateRow(key="request", request=rows["request"])]
    )
    assert do(do.client().estimate_batch(whole)) == {"request": results["request"]}


@pytest.mark.parametrize("page_size", [0, 1, 4, 11])
def test_pages_are_fetched_as_they_are_needed(do, suite, page_size):
    models = do.client().list_models(page_size=page_size)
    assert suite.faults.calls("ListModels") == []
    assert do.all(models, 1)[0].name == "large"
    assert len(suite.faults.calls("ListModels")) == 1
    names = sorted(MODELS)
    assert [model.name for model in do.all(models)] == names
    size = page_size or 50
    sizes = [len(names[start : start + size]) for start in range(0, len(names), size)]
    assert [len(page) for page in do.all(models.pages())] == sizes


def test_prefixes(do):
    client = do.client()
    assert [model.name for model in do.all(client.list_models("t"))] == ["tiny"]
    assert [each.name for each in do.all(client.list_accelerators("rtx-4"))] == ["rtx-4090"]
    assert do.all(client.list_accelerators("zzz")) == []


def test_a_plan_is_held_against_limits(do, spec):
    client = do.client()
    spec |= {"dataset": {"profile": {"examples": 100}}}
    peak = do(client.estimate(spec)).memory.device_bytes
    passed = do(client.check_plan(spec, {"device_bytes": round(peak.high) + 1, "fit": True}))
    limit = check_plan_pb2.PolicyLimit(metric="POLICY_METRIC_DEVICE_BYTES", max=peak.expected)
    straddled = do(client.check_plan(spec, check_plan_pb2.PlanPolicy(limits=[limit])))
    failed = do(client.check_plan(spec, {"device_bytes": 1, "duration_seconds": 1e9}))
    verdicts = [check_pb2.CheckVerdict.Name(answer.verdict) for answer in (passed, straddled, failed)]
    assert verdicts == ["CHECK_VERDICT_PASS", "CHECK_VERDICT_UNDECIDED", "CHECK_VERDICT_FAIL"]
    assert {check.rule_id for check in failed.checks} == {"duration_seconds", "device_bytes"}
    overridable = check_plan_pb2.PolicyLimit(metric=limit.metric, max=1, level=check_pb2.LIMIT_LEVEL_OVERRIDABLE)
    waived = do(
        client.check_plan(
            spec,
            check_plan_pb2.PlanPolicy(limits=[overridable]),
            overrides=[{"rule_id": "device_bytes", "by": "ada", "reason": "once"}],
            evaluation_date="2026-12-31",
            base_run=spec,
        )
    )
    assert waived.verdict == check_pb2.CHECK_VERDICT_WAIVED
    with pytest.raises(finetree.InvalidArgument) as caught:
        do(client.check_plan(spec, {"cost": "5 EUR"}))
    assert caught.value.reason == "CURRENCY_MISMATCH"


def test_prices_by_accelerator_provider_and_term(do):
    client = do.client()
    assert [price.hourly_price.nanos for price in do.all(client.list_prices("rtx-4090", page_size=1))] == [
        250_000_000,
        500_000_000,
    ]
    assert [price.price_id for price in do.all(client.list_prices("rtx-4090", term="spot"))] == ["fake/rtx-4090/spot"]
    assert do.all(client.list_prices(provider="nobody")) == []
    with pytest.raises(finetree.InvalidArgument, match="known are on_demand, spot, reserved"):
        client.list_prices(term="stolen")


def test_an_observation_counts_once_and_can_be_forgotten(do, spec):
    client = do.client()
    measured = {"step_seconds": 0.5, "steps": 20}
    observation = {"job": "projects/default/jobs/a", "attempt": 1, "run": {"spec": spec}, **measured}
    assert [do(client.report_observation(observation)).accepted for _ in range(2)] == [True, False]
    (point,) = do(client.get_calibration(points=10)).points
    assert (point.job, point.attempt, point.measured_step_seconds) == ("projects/default/jobs/a", 1, 0.5)
    assert do(client.reset_calibration()) == 1
    assert not do(client.get_calibration()).points
