# SPDX-License-Identifier: Apache-2.0
"""Query parameters become the message that the same JSON body would."""

import pytest
from finetree_api.estimator.v1 import estimate_pb2
from finetree_api.recommender.v1 import recommendation_pb2
from finetree_api.trainer.v1 import capacity_pb2, event_log_pb2, job_pb2, trainer_pb2
from finetree_console.errors import HttpError
from finetree_console.rpc.query import message_of_query


def read(cls, query: str):
    return message_of_query([tuple(pair.split("=", 1)) for pair in query.split("&") if pair], cls)


def test_values_lists_maps_and_fields_below():
    listed = read(
        trainer_pb2.ListJobsRequest, "page_size=3&states=JOB_STATE_RUNNING&states=JOB_STATE_QUEUED&labels.a.b=c=d"
    )
    assert listed == trainer_pb2.ListJobsRequest(
        page_size=3, states=[job_pb2.JOB_STATE_RUNNING, job_pb2.JOB_STATE_QUEUED], labels={"a.b": "c=d"}
    )
    estimate = read(
        estimate_pb2.EstimateRunRequest, "spec.model.name=tiny&spec.lora.rank=8&spec.hardware.accelerator=t4"
    )
    assert estimate.spec.model.name == "tiny"
    assert estimate.spec.lora.rank == 8
    asked = read(recommendation_pb2.RecommendRequest, "can_rent=false&max_duration=90m&budget_per_run=5 USD")
    assert asked.HasField("can_rent")
    assert (asked.max_duration.seconds, asked.budget_per_run.currency_code) == (5400, "USD")
    assert read(capacity_pb2.GetCapacityRequest, "") == capacity_pb2.GetCapacityRequest()
    assert read(event_log_pb2.WatchJobRequest, "name=a&now=").WhichOneof("start") == "now"


@pytest.mark.parametrize(
    ("query", "path", "text"),
    [
        ("pagesize=x", "pagesize", "did you mean page_size"),
        ("page_size=1&page_size=2", "page_size", "is given twice"),
        ("labels.a=1&labels.a=2", "labels.a", "is given twice"),
        ("labels=1", "labels", "cannot be a query parameter"),
        ("page_size.x=1", "page_size.x", "cannot be a query parameter"),
        ("page_size=1.5", "page_size", "whole number"),
        ("states=RUNNING", "states[0]", "expected one of"),
        ("page_token.=1", "page_token.", "cannot be a query parameter"),
    ],
)
def test_a_parameter_that_is_wrong(query, path, text):
    with pytest.raises(HttpError, match=text) as caught:
        read(trainer_pb2.ListJobsRequest, query)
    assert [each.field for each in caught.value.violations] == [path]


def test_a_bool_is_true_or_false():
    with pytest.raises(HttpError, match="true or false"):
        read(recommendation_pb2.RecommendRequest, "can_rent=yes")
