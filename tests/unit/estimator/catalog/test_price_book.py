# SPDX-License-Identifier: Apache-2.0
import re

import pytest
from finetree_estimator.catalog import price_book
from finetree_estimator.catalog.names import UnknownNameError
from finetree_estimator.catalog.price_book import PriceBook, PriceBookError, Quote, Term, billed


def quote(price_id: str, hourly: float, **parts: object) -> Quote:
    return Quote(price_id, "h100", "x", hourly, **({"currency": "USD", "date": "2026", "source": "y"} | parts))


def book(*quotes: Quote) -> PriceBook:
    return PriceBook(quotes, "test", "0")


def test_a_price_is_found_by_its_id():
    assert price_book.packaged().find("runpod/rtx-4090/2026-07-15").hourly == 0.69
    with pytest.raises(UnknownNameError) as caught:
        price_book.packaged().find("runpod/rtx-4090/2026-07-51")
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
    ours = price_book.packaged()
    header = ",".join(price_book.COLUMNS).encode()
    mine = price_book.read(
        header + b"\nrunpod/rtx-4090/2026-07-15,rtx-4090,me,9,USD,2026,x\nnew,t4,me,1,USD,2026,x\n", "mine"
    )
    both = ours.extended(mine)

    assert len(both.quotes) == len(ours.quotes) + 1
    assert (both.find("runpod/rtx-4090/2026-07-15").hourly, both.find("new").hourly) == (9, 1)
    assert both.book_id == f"{ours.book_id}+mine"
    assert both.sha256 not in {ours.sha256, mine.sha256}


HEADER = b"price_id,accelerator,provider,hourly_price,currency,date,source\n"
LONG = b"price_id,accelerator,provider,hourly_price,currency,date,source,region,term,min_count\n"


def test_every_quote_of_the_built_in_book_has_a_source_a_date_and_an_id_that_says_who_what_and_when():
    for entry in price_book.packaged().quotes:
        assert len(entry.source) > 5, entry
        assert re.fullmatch(r"20\d\d(-\d\d){0,2}", entry.date), entry
        assert entry.price_id.startswith(f"{entry.provider}/{entry.accelerator}/"), entry
        assert entry.price_id.endswith(f"/{entry.date}"), entry
        assert 0.1 <= entry.hourly <= 20, entry


def test_the_built_in_book_tells_spot_reserved_and_whole_instances():
    quotes = price_book.packaged().quotes

    assert {entry.term for entry in quotes} == set(Term)
    assert any(entry.min_count == 8 for entry in quotes)
    assert len({entry.accelerator for entry in quotes}) >= 20


def test_a_users_book_may_name_an_accelerator_as_it_likes_and_leave_columns_out():
    found = price_book.read(HEADER + b"mine,NVIDIA A100-SXM4-80GB,me,1.5,chf,2026-11,contract\n", "mine")

    assert found.quotes == (Quote("mine", "a100-80gb", "me", 1.5, "CHF", "2026-11", "contract"),)


def test_a_users_book_may_give_region_term_and_instance_size():
    found = price_book.read(LONG + b"mine,h100,me,1.5,USD,2026,contract,here,Reserved,8\n", "mine").quotes[0]

    assert (found.region, found.term, found.min_count) == ("here", Term.RESERVED, 8)


ROW = b"a,t4,x,1,USD,2026,y\n"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "line 1: the column 'price_id' is missing"),
        (b"price_id,accelerator\n", "line 1: the column 'provider' is missing"),
        (HEADER.replace(b"source", b"source,color"), "line 1: unknown column 'color'"),
        (HEADER.replace(b"source", b"source,term,term"), "line 1: the column 'term' occurs twice"),
        (HEADER + b"a,t4,x,cheap,USD,2026,y\n", "line 2: hourly_price: 'cheap'"),
        (HEADER + ROW + b"b,t4,x,-1,USD,2026,y\n", "line 3: hourly_price: '-1'"),
        (HEADER + b"a,t4,x,nan,USD,2026,y\n", "line 2: hourly_price: 'nan'"),
        (HEADER + b"a,t4,x,inf,USD,2026,y\n", "line 2: hourly_price: 'inf'"),
        (HEADER + b"a,t4,x,1e6,USD,2026,y\n", "line 2: hourly_price"),
        (HEADER + b"a,t4,x\n", "line 2: source: is empty"),
        (HEADER + b",t4,x,1,USD,2026,y\n", "line 2: price_id: is empty"),
        (HEADER + b"a,t4,,1,USD,2026,y\n", "line 2: provider: is empty"),
        (HEADER + b"a,t4,x,1,USD,2026,y,z\n", "line 2: row: has more cells"),
        (
            HEADER + b"a,rtx-4091,x,1,USD,2026,y\n",
            "line 2: accelerator: no 'rtx-4091' in the catalog; did you mean rtx-4090",
        ),
        (HEADER + b"a,t4,x,1,dollars,2026,y\n", "line 2: currency: 'dollars'"),
        (HEADER + b"a,t4,x,1,$$$,2026,y\n", "line 2: currency"),
        (HEADER + b"a,t4,x,1,USD,15.07.2026,y\n", "line 2: date: '15.07.2026' is not an ISO 8601 date"),
        (HEADER + b"a,t4,x,1,USD,2026-13,y\n", "line 2: date"),
        (HEADER + b"a,t4,x,1,USD,2026-02-30,y\n", "line 2: date: '2026-02-30' is not an ISO 8601 date"),
        (HEADER + b"a,t4,x,1,USD,0000,y\n", "line 2: date"),
        (HEADER + ROW + ROW, "line 3: price_id: 'a' is already the id of line 2"),
        (HEADER + b"a" * 129 + b",t4,x,1,USD,2026,y\n", "line 2: price_id: is longer than 128"),
        (HEADER + b'a,t4,x,1,USD,2026,"two\nlines"\n', "line 3: source: contains a character"),
        (HEADER + b'a,t4,x,1,"U\nD",2026,y\nb,t4,x,1,USD,2026,y\n', "line 3: currency"),
        (HEADER + b"a\x1b[31m,t4,x,1,USD,2026,y\n", "line 2: price_id: contains a character"),
        (HEADER + b"a,t4,x,1_0,USD,2026,y\n", "line 2: hourly_price: '1_0'"),
        (HEADER + b"a,t4,\xff,1,USD,2026,y\n", "line 2: not UTF-8"),
        (HEADER + b'a,t4,"x"z,1,USD,2026,y\n', "line 2: not CSV"),
        (
            LONG + b"a,t4,x,1,USD,2026,y,,sometimes,1\n",
            "line 2: term: 'sometimes' is not one of on-demand, spot, reserved",
        ),
        (LONG + b"a,t4,x,1,USD,2026,y,,,0\n", "line 2: min_count"),
        (LONG + b"a,t4,x,1,USD,2026,y,,,many\n", "line 2: min_count: 'many'"),
    ],
)
def test_a_bad_price_book_is_refused_with_line_and_column(content, complaint):
    with pytest.raises(PriceBookError, match=re.escape(complaint)):
        price_book.read(content, "mine")


def test_a_file_that_never_ends_is_no_price_book(monkeypatch, tmp_path):
    monkeypatch.setattr(price_book, "MOST_BYTES", 1 << 20)
    file = tmp_path / "prices.csv"
    file.write_bytes(HEADER + ROW * (1 << 16))
    with pytest.raises(PriceBookError, match="is larger than 1 MiB"):
        price_book.from_file(file)
