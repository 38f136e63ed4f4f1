# SPDX-License-Identifier: Apache-2.0
"""Times and sizes in text."""

import pytest
from finetree_recommender.formatting import duration, gpu


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (60, "60 s"),
        (5000, "83 min"),
        (86400, "24 h"),
        (100_000, "27.8 h"),
        (172_800, "2 days"),
        (500_000, "5.8 days"),
        (1e6, "12 days"),
        (2e9, "63 years"),
    ],
)
def test_a_time_is_written_in_a_unit_that_suits_it(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize(("gb", "words"), [(8, "an 8 GB GPU"), (16, "a 16 GB GPU"), (80, "an 80 GB GPU")])
def test_a_gpu_is_named_by_its_memory_with_its_article(gb, words):
    assert gpu(gb) == words
