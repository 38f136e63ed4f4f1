# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest
from finetree_api.types.v1 import training_data_pb2
from finetree_estimator.run import LengthRange
from finetree_estimator.spec.row_lengths import rows_of, token_range


def test_buckets_are_cut_at_the_sequence_length():
    profile = training_data_pb2.DatasetProfile(examples=30, target_fraction=0.25)
    profile.token_lengths.add(upper_bound=100, count=10)
    profile.token_lengths.add(upper_bound=300, count=20)
    found = rows_of(profile, sequence_length=150, learns_all=False)

    assert found.longest == 150
    assert found.mean == pytest.approx((10 * 50.5 + 20 * 150) / 30)
    assert found.target_fraction == 0.25
    assert found.truncated == pytest.approx(20 * 50.5 / (10 * 50.5 + 20 * 200.5))


def test_how_lengths_are_spread():
    """Evenly within a bucket, around the mean that the total of tokens gives it; what is cut lies at the limit."""
    profile = training_data_pb2.DatasetProfile(examples=40)
    for upper, count in ((100, 10), (300, 20), (500, 10)):
        profile.token_lengths.add(upper_bound=upper, count=count)
    full = training_data_pb2.DatasetProfile(examples=10, total_tokens=1000)
    full.token_lengths.add(upper_bound=100, count=10)

    def spread_of(profile: training_data_pb2.DatasetProfile) -> tuple[LengthRange, ...]:
        return rows_of(profile, sequence_length=200, learns_all=True).length_ranges

    spread = spread_of(profile)

    beyond = 0.5 * 100 / 199 + 0.25
    assert [tuple(each) for each in spread] == [
        (1, 100, 0.25),
        (101, 200, pytest.approx(0.75 - beyond)),
        (200, 200, pytest.approx(beyond)),
    ]
    assert spread_of(full) == ((100, 100, 1.0),)
    assert spread_of(training_data_pb2.DatasetProfile(examples=10)) == ()


def test_the_total_of_tokens_corrects_the_buckets():
    profile = training_data_pb2.DatasetProfile(examples=10, total_tokens=800)
    profile.token_lengths.add(upper_bound=100, count=10)

    assert rows_of(profile, sequence_length=512, learns_all=True).mean == pytest.approx(80)


def test_without_buckets_the_mean_or_the_limit_counts():
    mean = rows_of(
        training_data_pb2.DatasetProfile(examples=10, total_tokens=800), sequence_length=512, learns_all=True
    )
    limit = rows_of(training_data_pb2.DatasetProfile(examples=10), sequence_length=512, learns_all=True)

    assert (mean.mean, mean.longest, mean.longest_known, mean.mean_known) == (80, 512, False, True)
    assert mean.truncated == limit.truncated == 0
    long = training_data_pb2.DatasetProfile(examples=10, total_tokens=640_000)
    assert rows_of(long, sequence_length=16_000, learns_all=True).truncated == 0.75
    assert (limit.mean, limit.longest_known, limit.mean_known) == (512, False, False)


def test_rows_that_are_estimated_may_be_shorter_and_longer():
    profile = training_data_pb2.DatasetProfile(examples=10, total_tokens=800, target_fraction=0.5)
    profile.token_lengths.add(upper_bound=100, count=10)
    plain = rows_of(profile, sequence_length=120, learns_all=False)
    profile.total_tokens_range.CopyFrom(training_data_pb2.TokenCountRange(low=400, high=1200))

    found = rows_of(profile, sequence_length=120, learns_all=False)

    assert found.ends is not None
    fewest, most = found.ends
    assert replace(found, ends=None) == plain
    assert (fewest.mean, found.mean, most.mean) == pytest.approx((40, 80, 120))
    assert (fewest.longest, found.longest, most.longest) == (50, 100, 120)
    assert fewest.count == most.count == 10
    assert fewest.ends is most.ends is None


def test_without_buckets_the_mean_is_estimated():
    profile = training_data_pb2.DatasetProfile(examples=10, total_tokens=800)
    profile.total_tokens_range.CopyFrom(training_data_pb2.TokenCountRange(low=400, high=1200))
    ends = rows_of(profile, sequence_length=512, learns_all=True).ends
    assert ends is not None
    assert [(rows.mean, rows.longest) for rows in ends] == [(40, 512), (120, 512)]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, None),
        ({"total_tokens_range": {"low": 1, "high": 9}}, None),
        ({"total_tokens": 5, "total_tokens_range": {"low": 1, "high": 9}}, (1, 9)),
        ({"total_tokens": 5, "total_tokens_range": {"low": 5, "high": 5}}, None),
        ({"total_tokens": 5, "total_tokens_range": {"low": 7, "high": 9}}, (5, 9)),
        ({"total_tokens": 5, "total_tokens_range": {"low": 1, "high": 2}}, (1, 5)),
    ],
)
def test_an_end_that_the_total_is_beyond_is_the_total(given, expected):
    assert token_range(training_data_pb2.DatasetProfile(examples=5, **given)) == expected
