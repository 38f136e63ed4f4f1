# SPDX-License-Identifier: Apache-2.0
"""Whatever a body holds, it is a message or it is refused."""

import json

import pytest
from finetree_api.estimator.v1 import estimate_pb2
from finetree_api.trainer.v1 import trainer_pb2
from finetree_console.errors import HttpError
from finetree_console.rpc.body import message_of_json
from finetree_console.rpc.contract import methods
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

KEYS = sorted({field.name for method in methods() for field in method.request.DESCRIPTOR.fields} | {"model", "", "ä"})
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
    max_leaves=8,
)
REQUESTS = [method.request for method in methods()]


ANY = settings(derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@ANY
@given(st.binary(max_size=40))
def test_any_bytes(content):
    check(content, trainer_pb2.CreateJobRequest)


@ANY
@given(st.sampled_from(REQUESTS), st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4))
def test_any_json(cls, document):
    check(json.dumps(document).encode(), cls)


def check(content, cls):
    refused = None
    try:
        assert isinstance(message_of_json(content, cls), cls)
    except HttpError as error:
        refused = error
    assert refused is None or (refused.status, refused.reason in {"MALFORMED_REQUEST", "INVALID_REQUEST"}) == (
        400,
        True,
    )


@pytest.mark.parametrize(
    ("content", "path"),
    [
        ('{"job": {"train": {"spec": {}, "spec": {}}}}', "job.train.spec"),
        ('{"job": {"labels": {"a": "1", "a": "2"}}}', "job.labels.a"),
        ('{"spec": [{"x": 1}, {"x": 1, "x": 2}]}', "spec[1].x"),
    ],
)
def test_a_key_that_stands_twice_is_named_with_its_path(content, path):
    with pytest.raises(HttpError, match="stands twice") as caught:
        message_of_json(content.encode(), trainer_pb2.CreateJobRequest)
    assert caught.value.violations[0].field == path


@pytest.mark.parametrize("value", ["1e999", '"NaN"', '"Infinity"', "-Infinity"])
def test_a_number_that_is_not_finite_is_refused(value):
    content = f'{{"spec": {{"training": {{"learning_rate": {value}}}}}}}'
    with pytest.raises(HttpError):
        message_of_json(content.encode(), estimate_pb2.EstimateRunRequest)


def test_a_number_of_thousands_of_digits_is_refused():
    with pytest.raises(HttpError, match="too long"):
        message_of_json(b'{"page_size": ' + b"9" * 5000 + b"}", trainer_pb2.ListJobsRequest)
