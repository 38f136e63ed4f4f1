# SPDX-License-Identifier: Apache-2.0
"""Durations as texts."""

import pytest
from finetree.durations import parse_duration, to_duration
from finetree.errors import InvalidSpec
from finetree.spec import message_from_dict
from finetree_api.recommender.v1 import recommendation_pb2


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("30 min", 1800), ("8h", 28800), ("2d", 172800), ("1h30m", 5400), ("1.5 h", 5400)],
)
def test_a_duration_is_a_number_with_its_unit(text, seconds):
    assert parse_duration(text) == to_duration(seconds)


def test_proto_json_is_read_too_to_the_nanosecond():
    found = parse_duration("3600.000000001s")
    assert (found.seconds, found.nanos) == (3600, 1)


@pytest.mark.parametrize(
    ("text", "problem"), [("8", "write 8h for hours"), ("soon", "such as"), ("999999d", "100 yea")]
)
def test_what_is_none_is_refused_with_what_is_expected(text, problem):
    with pytest.raises(ValueError, match=problem):
        parse_duration(text)


def test_a_field_takes_the_text():
    request = message_from_dict(recommendation_pb2.RecommendRequest, {"max_duration": "8h"})
    assert request.max_duration.seconds == 28800
    with pytest.raises(InvalidSpec, match="max_duration: 8 has no unit") as caught:
        message_from_dict(recommendation_pb2.RecommendRequest, {"max_duration": "8"})
    assert caught.value.path == "max_duration"
    with pytest.raises(InvalidSpec, match="max_duration: expected a duration, such as '8h'"):
        message_from_dict(recommendation_pb2.RecommendRequest, {"max_duration": 8})
