# SPDX-License-Identifier: Apache-2.0
"""Axes of charts."""

import pytest
from finetree_recommender.pictures.axis import axis


@pytest.mark.parametrize(
    ("values", "from_zero", "ticks", "logarithmic"),
    [
        ([3.0, 19.0], True, [0, 10, 20], False),
        ([0.1, 90.0], True, [0.1, 0.5, 2, 10, 50], True),
        ([80.0, 100.0], False, [80, 90, 100], False),
        ([5.0, 5.0], False, [4, 4.5, 5, 5.5, 6], False),
        ([0.0, 0.0], True, [0, 0.5, 1], False),
    ],
)
def test_an_axis_holds_its_values_and_has_round_ticks(values, from_zero, ticks, logarithmic):
    scale = axis(values, 0, 100, from_zero=from_zero)
    assert scale.ticks() == pytest.approx(ticks)
    assert scale.logarithmic is logarithmic
    assert all(0 <= scale.at(value) <= 100 for value in values)
    assert scale.at(values[0]) <= scale.at(values[-1])
