# SPDX-License-Identifier: Apache-2.0
import pytest
from finetree_estimator import cost
from finetree_estimator.fit import Verdict, judge
from finetree_estimator.intervals import Interval, around
from finetree_estimator.run import Owned, Rented

HOUR = around(3600.0, below=0.5, above=1.0)
QUOTE = Rented("runpod/a100-80gb/2026-07-15", "runpod", 1.49, "USD", "2026-07-15", "price table")


def test_rented_devices_cost_their_price_by_the_hour(make_run):
    found = cost.estimate(make_run(payment=QUOTE, devices=2), HOUR)

    assert (found.amount.low, found.amount.expected, found.amount.high) == pytest.approx((1.49, 2.98, 5.96))
    assert (found.currency, found.price_date, found.hourly) == ("USD", "2026-07-15", 1.49)
    assert any(source.date == "2026-07-15" and source.name == "price-book" for source in found.amount.sources)


def test_owned_hardware_costs_its_electricity(make_run):
    found = cost.estimate(make_run(payment=Owned(0.30, "EUR", watts=500.0)), HOUR)

    assert found.energy_kwh.expected == pytest.approx(0.5)
    assert found.amount.expected == pytest.approx(0.15)
    assert (found.currency, found.price_id) == ("EUR", "")


def test_without_watts_the_device_and_its_machine_count(make_run, cpu):
    assert cost.watts(make_run(payment=Owned(0.30, "EUR"), devices=2)) == 2 * 400 + 100
    assert cost.watts(make_run(device=cpu)) == 54.0


def test_without_terms_only_energy_is_known(make_run):
    found = cost.estimate(make_run(), HOUR)

    assert found.amount is None
    assert found.energy_kwh.expected == pytest.approx(0.5)


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
