# SPDX-License-Identifier: Apache-2.0
import pytest
from finetree_estimator.intervals import Interval, around, exact, probability_below
from hypothesis import given, settings
from hypothesis import strategies as st

SIZES = st.floats(1.0, 1e15)
SHARES = st.floats(0.0, 0.99)


def test_the_ends_of_an_interval_are_as_probable_as_its_coverage_says():
    peak = Interval(8.0, 10.0, 15.0, coverage=0.9)

    assert probability_below(peak, 8.0) == pytest.approx(0.05)
    assert probability_below(peak, 10.0) == pytest.approx(0.5)
    assert probability_below(peak, 15.0) == pytest.approx(0.95)


def test_a_number_without_doubt_fits_or_does_not():
    assert [probability_below(exact(5.0), limit) for limit in (4.9, 5.0, 5.1)] == [0.0, 1.0, 1.0]


@settings(max_examples=200, derandomize=True)
@given(SIZES, SHARES, SHARES, st.lists(st.floats(0.0, 1e16), min_size=2, max_size=8))
def test_a_larger_device_is_never_less_probable(expected, below, above, limits):
    peak = around(expected, below=below, above=above)
    found = [probability_below(peak, limit) for limit in sorted(limits)]

    assert all(0.0 <= probability <= 1.0 for probability in found)
    assert found == sorted(found)


def test_an_interval_down_to_nothing_is_answered():
    peak = Interval(0.0, 10.0, 20.0)
    found = [probability_below(peak, limit) for limit in (0.0, 1.0, 5.0, 10.0, 20.0)]

    assert found == sorted(found)
    assert found[0] == 0.0
    assert found[3] == 0.5
