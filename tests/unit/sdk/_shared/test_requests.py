# SPDX-License-Identifier: Apache-2.0
"""What a caller writes becomes the messages of the contract."""

import finetree
import pytest
from finetree._shared.requests import enum_number, plan_policy
from finetree._shared.trainer_requests import full_name, job_template, model_source, train_task
from finetree_api.estimator.v1 import check_plan_pb2
from finetree_api.recommender.v1 import recommendation_pb2
from finetree_api.trainer.v1 import job_pb2, trainer_pb2
from finetree_api.types.v1 import check_pb2, evidence_pb2, run_spec_pb2
from google.protobuf import json_format

METRICS = check_plan_pb2.PolicyMetric


@pytest.mark.parametrize("value", ["running", "RUNNING", "job_state_running", 3])
def test_enums_by_short_name_full_name_and_number(value):
    assert enum_number(job_pb2.JobState, value, "states") == job_pb2.JOB_STATE_RUNNING


def test_an_unknown_enum_value_is_refused_with_all_that_are_known():
    with pytest.raises(finetree.InvalidArgument, match="known are now, checkpoint") as caught:
        enum_number(trainer_pb2.CancelMode, "later", "mode")
    assert caught.value.violations[0].field == "mode"


def test_a_policy_is_bounds_by_metric():
    policy = plan_policy(
        {"cost": "50 USD", "monthly_cost": {"currency_code": "EUR", "units": 9}, "device_bytes": 8e9, "fit": True}
        | {"confidence": "medium", "method": ["lora", "qlora"], "model": {"denied": ["org/*"]}}
    )
    assert [json_format.MessageToDict(limit, preserving_proto_field_name=True) for limit in policy.limits] == [
        {"metric": "POLICY_METRIC_COST", "max_money": {"currency_code": "USD", "units": "50"}},
        {"metric": "POLICY_METRIC_MONTHLY_COST", "max_money": {"currency_code": "EUR", "units": "9"}},
        {"metric": "POLICY_METRIC_DEVICE_BYTES", "max": 8e9},
        {"metric": "POLICY_METRIC_FIT"},
        {"metric": "POLICY_METRIC_CONFIDENCE", "min_confidence": "CONFIDENCE_LEVEL_MEDIUM"},
        {"metric": "POLICY_METRIC_METHOD", "names": {"allowed": ["lora", "qlora"]}},
        {"metric": "POLICY_METRIC_MODEL", "names": {"denied": ["org/*"]}},
    ]
    assert plan_policy({"limits": [{"metric": "POLICY_METRIC_FIT"}]}).limits[0].metric == METRICS.POLICY_METRIC_FIT


@pytest.mark.parametrize(
    ("policy", "path", "text"),
    [
        ({"price": 1}, "policy.price", "known are cost, monthly_cost"),
        ({"cost": 50}, "policy.cost", "such as '50 USD', got 50"),
        ({"cost": "50"}, "policy.cost", "such as '50 USD'"),
        ({"fit": 3}, "policy.fit", "expected true, got 3"),
        ({"device_bytes": "8 GB"}, "policy.device_bytes", "expected a number"),
        ({"device_bytes": True}, "policy.device_bytes", "expected a number"),
        ({"confidence": "sure"}, "policy.confidence", "known are low, medium, high"),
        ({"method": "lora"}, "policy.method", "expected a list of allowed names"),
        ({"model": {"allow": ["x"]}}, "policy.model.allow", "did you mean allowed"),
        ({"limits": [{"metrik": 1}]}, "policy.limits[0].metrik", "did you mean metric"),
    ],
)
def test_a_wrong_policy_is_named(policy, path, text):
    with pytest.raises(finetree.InvalidArgument) as caught:
        plan_policy(policy)
    assert caught.value.violations[0].field == path
    assert text in str(caught.value)


def test_a_model_is_a_name_a_hub_id_or_a_source():
    assert model_source("smollm2-135m").name == "smollm2-135m"
    assert (model_source("org/name").hub.id, model_source("org/name").hub.revision) == ("org/name", "")
    assert model_source("org/name@main").hub.revision == "main"
    assert model_source({"path": "folder"}).path == "folder"


def test_short_ids_belong_to_the_clients_project():
    assert full_name("team", "jobs", "1") == "projects/team/jobs/1"
    assert full_name("team", "jobs", "projects/p/jobs/1") == "projects/p/jobs/1"


def test_what_is_not_given_stays_unset_in_a_template():
    template = job_template({"model": {"name": "x"}})
    assert {field.name for field, _ in template.ListFields()} <= {"train", "trace_context"}
    assert job_template({"model": {"name": "x"}}, suspended=True).suspended


def test_an_approved_plan_may_be_proto_json():
    plan = run_spec_pb2.Plan(
        spec=run_spec_pb2.RunSpec(model={"name": "x"}),
        revision=evidence_pb2.Revision(engine={"id": "engine-1"}),
        digest="sha256:" + "0" * 64,
    )
    assert train_task(plan.spec, approved_plan=finetree.to_json(plan)).approved_plan == plan


def test_a_value_that_was_changed_after_the_recommendation_is_the_callers_own():
    answer = recommendation_pb2.RecommendResponse(
        spec=run_spec_pb2.RunSpec(
            model={"name": "x"},
            lora={"rank": 8},
            training={"learning_rate": 1e-4, "epochs": 3},
            checkpoints={"every_steps": 100},
        ),
        setting_sources=[
            check_pb2.SettingSource(field_path=path, rule_id=f"recipe.{path}")
            for path in ("lora.rank", "training.learning_rate", "training.epochs", "checkpoints.every_steps")
        ],
    )
    changed = run_spec_pb2.RunSpec()
    changed.CopyFrom(answer.spec)
    assert list(train_task(changed, recommendation=answer).setting_sources) == list(answer.setting_sources)
    changed.checkpoints.every_steps = 2
    changed.training.ClearField("epochs")
    kept = train_task(changed, recommendation=answer).setting_sources
    assert [each.field_path for each in kept] == ["lora.rank", "training.learning_rate"]
    changed.full.SetInParent()
    assert [each.field_path for each in train_task(changed, recommendation=answer).setting_sources] == [
        "training.learning_rate"
    ]
    as_dict = finetree.to_json(answer.spec) | {"checkpoints": {"every_steps": 2}}
    assert len(train_task(as_dict, recommendation=answer).setting_sources) == 3
