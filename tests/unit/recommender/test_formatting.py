# SPDX-License-Identifier: Apache-2.0
"""Intervals, times and amounts of money in text."""

import pytest
from finetree_api.types.v1 import evidence_pb2
from finetree_recommender.formatting import gpu, money, time


@pytest.mark.parametrize(
    ("write", "ends", "words"),
    [
        (time, (60, 70, 89), "70.0 (60.0 to 89.0) seconds"),
        (time, (5400, 5400, 5400), "1.5 hours"),
        (time, (86400, 172800, 259200), "2.0 (1.0 to 3.0) days"),
        (time, (1e9, 2e9, 4e9), "63.4 (31.7 to 126.8) years"),
        (money, (0.001, 0.002, 0.004), "less than 0.01"),
        (money, (0.001, 0.004, 0.02), "less than 0.02"),
        (money, (1000, 2000, 4000), "2,000.00 (1,000.00 to 4,000.00)"),
    ],
)
def test_times_and_costs_are_written_in_a_unit_that_suits_them(write, ends, words):
    assert write(evidence_pb2.Interval(low=ends[0], expected=ends[1], high=ends[2])) == words


@pytest.mark.parametrize(("gb", "words"), [(8, "an 8 GB GPU"), (16, "a 16 GB GPU"), (80, "an 80 GB GPU")])
def test_a_gpu_is_named_by_its_memory_with_its_article(gb, words):
    assert gpu(gb) == words
