# SPDX-License-Identifier: Apache-2.0

import pytest
from finetree_estimator.intervals import Interval, around, exact
from finetree_estimator.memory.fit import Verdict, judge

GIB = 1024**3


@pytest.mark.parametrize(
    ("usable", "verdict", "says"),
    [
        (16, Verdict.FITS, "fits: needs about 10.0 GiB (up to 12.0 GiB) of 16.0 GiB, 6.0 GiB (38%) to spare"),
        (12, Verdict.FITS, "2.0 GiB (17%) to spare"),
        (11, Verdict.TIGHT, "tight: needs about 10.0 GiB (up to 12.0 GiB) of 11.0 GiB, 1.0 GiB (9%) to spare"),
        (8, Verdict.DOES_NOT_FIT, "of 8.0 GiB, 2.0 GiB (25%) too much"),
    ],
)
def test_the_verdict_states_its_margin_in_gib_and_percent(usable, verdict, says):
    fit = judge(around(10 * GIB, below=0.1, above=0.2), usable * GIB)

    assert fit.verdict is verdict
    assert says in fit.summary
    assert fit.headroom_bytes == (usable - 10) * GIB


def test_of_an_unknown_device_nothing_is_claimed():
    fit = judge(exact(GIB), 0)

    assert (fit.verdict, fit.headroom_bytes, fit.probability) == (Verdict.UNSPECIFIED, 0, 0.0)


def test_a_run_that_fits_is_as_probable_as_the_interval_promises():
    assert judge(around(10 * GIB, below=0.1, above=0.2), 12 * GIB).probability == pytest.approx(0.95)


@pytest.mark.parametrize(
    ("usable", "verdict", "headroom"),
    [
        (120, Verdict.FITS, 20),
        (110, Verdict.FITS, 10),
        (105, Verdict.TIGHT, 5),
        (99, Verdict.DOES_NOT_FIT, -1),
        (0, Verdict.UNSPECIFIED, 0),
    ],
)
def test_the_fit_follows_the_interval(usable, verdict, headroom):
    fit = judge(Interval(90.0, 100.0, 110.0), usable)

    assert (fit.verdict, fit.headroom_bytes) == (verdict, headroom)
