# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest
from finetree_estimator import estimate as engine
from finetree_estimator.catalog.devices import known
from finetree_estimator.catalog.price_book import PriceBook, Quote, Rented, Term
from finetree_estimator.catalog.prices import packaged
from finetree_estimator.evidence.corrections import UNCORRECTED
from finetree_estimator.memory.fit import Verdict
from finetree_estimator.whatif import offers

GIB = 1024**3


def quote(price_id: str, accelerator: str, hourly: float, **parts: object) -> Quote:
    return Quote(price_id, accelerator, "x", hourly, **({"currency": "USD", "date": "2026", "source": "y"} | parts))


def search(run, *quotes: Quote) -> list[offers.Offer]:
    book = PriceBook(quotes, "test", "0") if quotes else packaged()
    return offers.search(run, engine.estimate(run), book, mover(run))


def mover(run):
    return lambda entry: (replace(run, device=known(entry, fp32=run.compute_bytes == 4), payment=None), UNCORRECTED)


def test_the_cheapest_run_comes_first_not_the_cheapest_hour(make_run):
    found = search(make_run(), quote("slow", "t4", 0.5), quote("fast", "h100", 1.0), quote("dear", "h100", 9.0))

    assert [offer.quote.price_id for offer in found][-1] == "dear"
    assert found[0].quote.price_id == "fast"
    assert found[0].amount.expected == pytest.approx(found[0].hours.expected * 1.0)


def test_only_where_the_run_fits(make_run, gpu):
    large = make_run(micro_batch=64, batch=64, sequence_length=4096)
    found = search(large, quote("small", "t4", 0.01), quote("large", "b300", 7.0))

    assert [offer.quote.price_id for offer in found] == ["large"]
    assert found[0].verdict is Verdict.FITS


def test_what_is_not_supported_is_not_offered(make_run):
    assert [
        offer.quote.price_id for offer in search(make_run(), quote("amd", "mi300x", 0.01), quote("b", "h100", 1))
    ] == ["b"]


def test_whole_instances_are_paid(make_run):
    one, eight = search(make_run(), quote("one", "h100", 2.0), quote("eight", "h100", 1.0, min_count=8))

    assert (one.quote.price_id, eight.quote.price_id) == ("one", "eight")
    assert eight.amount.expected == pytest.approx(4 * one.amount.expected)


def test_spot_is_offered_and_marked(make_run):
    (found,) = search(make_run(), quote("spot", "h100", 1.0, term=Term.SPOT))

    assert found.quote.term is Term.SPOT


def test_currencies_are_never_mixed(make_run):
    quotes = (quote("dollars", "h100", 3.0), quote("yen", "h100", 400.0, currency="JPY"))
    yen = make_run(payment=Rented(price_id="z", provider="z", hourly=1.0, currency="JPY", date="2026", source="y"))

    assert [offer.quote.price_id for offer in search(make_run(), *quotes)] == ["dollars"]
    assert [offer.quote.price_id for offer in search(yen, *quotes)] == ["yen"]


def test_without_time_there_is_no_cost_to_compare(make_run):
    assert search(make_run(rows=None, steps=0)) == []


def test_the_search_is_bounded_and_the_same_each_time(make_run, monkeypatch):
    run = make_run()
    estimate = engine.estimate(run)
    seen = []
    real = engine.estimate
    monkeypatch.setattr(offers.engine, "estimate", lambda moved, known: seen.append(moved) or real(moved, known))
    first, second = (offers.search(run, estimate, packaged(), mover(run)) for _ in range(2))

    assert first == second
    assert len(first) == offers.MOST
    assert len(seen) == 2 * offers.MOST_ESTIMATES


def test_a_float32_run_stays_one(make_run, gpu):
    single = make_run(weight_bytes=4, compute_bytes=4)
    half, full = search(make_run(), quote("a", "h100", 1.0))[0], search(single, quote("a", "h100", 1.0))[0]

    assert full.hours.expected > 2 * half.hours.expected
    assert search(replace(single, device=replace(gpu, usable_bytes=GIB)), quote("a", "h100", 1.0))
