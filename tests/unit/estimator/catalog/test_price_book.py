# SPDX-License-Identifier: Apache-2.0
import pytest
from finetree_estimator.catalog import prices
from finetree_estimator.catalog.names import UnknownNameError
from finetree_estimator.catalog.price_book import PriceBook, Quote, Term, billed


def quote(price_id: str, hourly: float, **parts: object) -> Quote:
    return Quote(price_id, "h100", "x", hourly, **({"currency": "USD", "date": "2026", "source": "y"} | parts))


def book(*quotes: Quote) -> PriceBook:
    return PriceBook(quotes, "test", "0")


def test_a_price_is_found_by_its_id():
    assert prices.packaged().find("runpod/rtx-4090/2026-07-15").hourly == 0.69
    with pytest.raises(UnknownNameError) as caught:
        prices.packaged().find("runpod/rtx-4090/2026-07-51")
    assert "runpod/rtx-4090/2026-07-15" in caught.value.nearest


def test_on_demand_goes_before_a_cheaper_spot_price():
    spot = quote("spot", 1.0, term=Term.SPOT)

    assert book(spot, quote("plain", 2.0)).cheapest("h100").price_id == "plain"
    assert book(spot).cheapest("h100").price_id == "spot"
    assert book(spot).cheapest("a100-80gb") is None


def test_whole_instances_are_what_is_compared():
    eight = quote("eight", 1.0, min_count=8)
    found = book(eight, quote("one", 2.0))

    assert found.cheapest("h100", 1).price_id == "one"
    assert found.cheapest("h100", 8).price_id == "eight"
    assert [billed(count, 8) for count in (1, 8, 9)] == [8, 8, 16]


def test_dollars_go_before_other_currencies_which_cannot_be_compared():
    yen, dollars = quote("yen", 1.0, currency="JPY"), quote("dollars", 2.0)

    assert book(yen, dollars).cheapest("h100").price_id == "dollars"
    assert book(yen).cheapest("h100").price_id == "yen"


def test_the_typical_price_is_the_median_on_demand_in_dollars():
    found = book(
        *(quote(str(price), price) for price in (1.0, 3.0, 9.0)),
        quote("spot", 0.1, term=Term.SPOT),
        quote("yen", 300.0, currency="JPY"),
    )

    assert found.typical("h100") == 3.0
    assert found.typical("t4") is None


def test_a_book_that_extends_ours_keeps_our_quotes_but_for_those_it_replaces():
    ours = prices.packaged()
    header = ",".join(prices.COLUMNS).encode()
    mine = prices.read(
        header + b"\nrunpod/rtx-4090/2026-07-15,rtx-4090,me,9,USD,2026,x\nnew,t4,me,1,USD,2026,x\n", "mine"
    )
    both = ours.extended(mine)

    assert len(both.quotes) == len(ours.quotes) + 1
    assert (both.find("runpod/rtx-4090/2026-07-15").hourly, both.find("new").hourly) == (9, 1)
    assert both.book_id == f"{ours.book_id}+mine"
    assert both.sha256 not in {ours.sha256, mine.sha256}
