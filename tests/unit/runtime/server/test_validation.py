# SPDX-License-Identifier: Apache-2.0
"""What a broken rule looks like, and that a huge message is refused without looking at all of it."""

import pytest
from finetree_api.estimator.v1 import estimate_pb2, estimator_pb2
from finetree_api.trainer.v1 import job_pb2, trainer_pb2
from finetree_api.types.v1 import method_pb2, model_pb2, run_spec_pb2, training_data_pb2, training_pb2
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
    return run_spec_pb2.RunSpec(model=model_pb2.ModelSource(name="m"), **fields)


def test_every_broken_rule_is_a_violation_with_path_and_reason():
    request = estimate_pb2.EstimateRunRequest(spec=spec(lora=method_pb2.Lora(rank=5000, dropout=2)))
    found = {violation.field_path: violation.reason for violation in violations_of(request)}
    assert found == {"spec.lora.rank": "INVALID_REQUEST", "spec.lora.dropout": "INVALID_REQUEST"}


def test_paths_name_list_elements_and_map_keys():
    job = job_pb2.JobTemplate(train=job_pb2.TrainTask(spec=spec()), labels={"team": "x" * 1000})
    job.train.spec.evaluation.metrics.extend([training_pb2.METRIC_LOSS, 99])
    paths = {violation.field_path for violation in violations_of(trainer_pb2.ValidateJobRequest(job=job))}
    assert paths == {'job.labels["team"]', "job.train.spec.evaluation.metrics[1]"}


def test_a_message_inside_a_request_is_named_by_its_path():
    (violation,) = violations_of(spec(lora=method_pb2.Lora(rank=5000)), path="rows[3].request.spec")
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
    profile = training_data_pb2.DatasetProfile(token_lengths=[training_data_pb2.TokenLengthBucket()] * MAX_ELEMENTS)
    request = estimate_pb2.EstimateRunRequest(dataset_profile=profile, fallbacks=[spec()])
    (violation,) = violations_of(request)
    assert "list elements" in violation.description


def test_elements_are_counted_over_all_lists():
    profile = training_data_pb2.DatasetProfile(
        token_lengths=[training_data_pb2.TokenLengthBucket(upper_bound=64, count=1)] * 3
    )
    request = estimate_pb2.EstimateRunRequest(spec=spec(), dataset_profile=profile, fallbacks=[spec()])
    request.spec.evaluation.metrics.append(training_pb2.METRIC_LOSS)
    assert validation._count_elements(request, MAX_ELEMENTS) == 5
