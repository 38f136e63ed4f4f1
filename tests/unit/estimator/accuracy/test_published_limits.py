# SPDX-License-Identifier: Apache-2.0
"""The verdict of what fits, against published limits: wrong at the limit alone."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[4] / "benchmarks" / "estimator"))

from published_limits import answers


def test_verdicts_are_right_but_for_runs_at_the_limit():
    found = answers()
    wrong = [one for one in found if not one.right]

    assert len(found) >= 45
    assert {one.ran for one in found} == {True, False}
    assert len(wrong) <= 10
    assert all(0.4 < one.probability < 0.7 for one in wrong)
