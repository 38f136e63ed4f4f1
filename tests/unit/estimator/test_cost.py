# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest
from finetree_estimator import cost
from finetree_estimator.catalog.price_book import Owned, Quote, Term
from finetree_estimator.intervals import around

HOUR = around(3600.0, below=0.5, above=1.0)
QUOTE = Quote(
    price_id="runpod/a100-80gb/2026-07-15",
    accelerator="a100-80gb",
    provider="runpod",
    hourly=1.49,
    currency="USD",
    date="2026-07-15",
    source="price table",
)


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


def test_whole_instances_are_paid(make_run):
    quote = replace(QUOTE, min_count=8)
    one, nine = (cost.estimate(make_run(payment=quote, devices=count), HOUR).amount.expected for count in (1, 9))

    assert (one, nine) == pytest.approx((8 * 1.49, 16 * 1.49))


def test_term_and_region_of_the_price_are_told(make_run):
    found = cost.estimate(make_run(payment=replace(QUOTE, region="eu-north1", term=Term.SPOT)), HOUR)

    assert (found.region, found.term) == ("eu-north1", Term.SPOT)
    assert cost.estimate(make_run(payment=Owned(0.3, "EUR")), HOUR).term is None


@pytest.mark.parametrize("payment", [QUOTE, Owned(0.3, "EUR")])
def test_runs_per_month_make_a_monthly_amount(make_run, payment):
    once = cost.estimate(make_run(payment=payment), HOUR)
    often = cost.estimate(make_run(payment=payment, runs_per_month=30.0), HOUR)

    assert once.monthly is None
    assert often.amount == once.amount
    assert often.monthly.expected == pytest.approx(30 * once.amount.expected)


def test_carbon_follows_the_energy_and_the_grid(make_run):
    found = cost.estimate(make_run(carbon_kg_per_kwh=0.2), HOUR)

    ends = [getattr(found.energy_kwh, end) for end in ("low", "expected", "high")]
    assert [found.carbon_kg.low, found.carbon_kg.expected, found.carbon_kg.high] == pytest.approx(
        [0.2 * e for e in ends]
    )


def test_carbon_of_an_unknown_grid_is_the_worlds_average_within_what_grids_have(make_run):
    found = cost.estimate(make_run(), HOUR)

    assert found.carbon_kg.expected == pytest.approx(0.481 * found.energy_kwh.expected)
    assert found.carbon_kg.low < 0.1 * found.carbon_kg.expected
    assert found.carbon_kg.high > 1.4 * 0.481 * found.energy_kwh.high
    assert any("Ember" in source.name for source in found.carbon_kg.sources)


def test_without_power_there_is_neither_energy_nor_carbon(make_run, gpu):
    found = cost.estimate(make_run(device=replace(gpu, watts=0.0), payment=QUOTE), HOUR)

    assert (found.energy_kwh, found.carbon_kg) == (None, None)
    assert found.amount is not None
