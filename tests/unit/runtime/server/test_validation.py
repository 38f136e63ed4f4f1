# SPDX-License-Identifier: Apache-2.0
"""What a broken rule looks like, and that a huge message is refused without looking at all of it."""

import pytest
from finetree_api.estimator.v1 import estimator_pb2
from finetree_api.trainer.v1 import trainer_pb2
from finetree_api.types.v1 import run_spec_pb2
from finetree_runtime.errors import InvalidArgument
from finetree_runtime.server import validation
from finetree_runtime.server.validation import MAX_DETAILED_ELEMENTS, MAX_ELEMENTS, validate
from google.protobuf import wrappers_pb2


def violations_of(message, **options: str):
    with pytest.raises(InvalidArgument) as caught:
        validate(message, **options)
    assert caught.value.reason == "INVALID_REQUEST"
    return caught.value.violations


def spec(**fields: object):
    return run_spec_pb2.RunSpec(model=run_spec_pb2.ModelSource(name="m"), **fields)


def test_every_broken_rule_is_a_violation_with_path_and_reason():
    request = estimator_pb2.EstimateRunRequest(spec=spec(lora=run_spec_pb2.Lora(rank=5000, dropout=2)))
    found = {violation.field_path: violation.reason for violation in violations_of(request)}
    assert found == {"spec.lora.rank": "INT64_GTE_LTE", "spec.lora.dropout": "DOUBLE_GTE_LT"}


def test_paths_name_list_elements_and_map_keys():
    job = trainer_pb2.JobRequest(spec=spec(), labels={"team": "x" * 1000})
    job.spec.evaluation.metrics.extend([run_spec_pb2.METRIC_LOSS, 99])
    paths = {violation.field_path for violation in violations_of(trainer_pb2.ValidateJobRequest(job=job))}
    assert {'job.labels["team"]', "job.spec.evaluation.metrics[1]"} <= paths


def test_a_message_inside_a_request_is_named_by_its_path():
    (violation,) = violations_of(spec(lora=run_spec_pb2.Lora(rank=5000)), path="rows[3].request.spec")
    assert violation.field_path == "rows[3].request.spec.lora.rank"


def test_messages_of_other_packages_have_no_rules():
    validate(wrappers_pb2.Int64Value(value=1))


@pytest.mark.parametrize("elements", [MAX_DETAILED_ELEMENTS, MAX_DETAILED_ELEMENTS + 1])
def test_a_message_with_many_elements_reports_only_its_first_violation(elements):
    rows = [estimator_pb2.BatchEstimateRow()] * elements
    found = violations_of(estimator_pb2.BatchEstimateRunsRequest(rows=rows))
    assert len(found) == (elements if elements == MAX_DETAILED_ELEMENTS else 1)


def test_too_many_elements_are_refused_before_the_rules_are_looked_at(monkeypatch):
    monkeypatch.setattr(validation, "_validator", lambda: pytest.fail("a message of this size was walked"))
    profile = run_spec_pb2.DatasetProfile(token_lengths=[run_spec_pb2.TokenLengthBucket()] * MAX_ELEMENTS)
    (violation,) = violations_of(estimator_pb2.EstimateRunRequest(dataset_profile=profile, fallbacks=[spec()]))
    assert violation.reason == "TOO_MANY_ELEMENTS"


def test_elements_are_counted_over_all_lists():
    profile = run_spec_pb2.DatasetProfile(token_lengths=[run_spec_pb2.TokenLengthBucket(upper_bound=64, count=1)] * 3)
    request = estimator_pb2.EstimateRunRequest(spec=spec(), dataset_profile=profile, fallbacks=[spec()])
    request.spec.evaluation.metrics.append(run_spec_pb2.METRIC_LOSS)
    assert validation._count_elements(request, MAX_ELEMENTS) == 5
