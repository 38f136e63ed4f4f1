# SPDX-License-Identifier: Apache-2.0
"""The price book: dated quotes of one device for an hour, from the package or from a file of the user's."""

import csv
import hashlib
import io
import statistics
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from finetree_estimator.names import UnknownNameError, nearest_names, raw

COLUMNS = ("price_id", "accelerator", "provider", "hourly_price", "currency", "date", "source")
"""Columns of a price book file (CSV with a header)."""


class PriceBookError(ValueError):
    """A price book that cannot be used; the text names the line and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Quote:
    """Currency units for one device and hour."""

    price_id: str
    accelerator: str
    provider: str
    hourly: float
    currency: str
    date: str
    source: str


@dataclass(frozen=True, slots=True)
class PriceBook:
    """Quotes with what identifies them."""

    quotes: tuple[Quote, ...]
    book_id: str
    sha256: str

    @property
    def date(self) -> str:
        """Date of the newest quote."""
        return max((quote.date for quote in self.quotes), default="")

    def find(self, price_id: str) -> Quote:
        """The quote with this id. Raises UnknownNameError."""
        for quote in self.quotes:
            if quote.price_id == price_id:
                return quote
        raise UnknownNameError(price_id, nearest_names(price_id, (quote.price_id for quote in self.quotes)))

    def cheapest(self, accelerator: str) -> Quote | None:
        """The lowest quote for an accelerator by its catalogue name, if there is one."""
        quotes = [quote for quote in self.quotes if quote.accelerator == accelerator]
        return min(quotes, key=lambda quote: (quote.hourly, quote.price_id)) if quotes else None

    def typical(self, accelerator: str) -> float:
        """Median of an accelerator's quotes in USD per hour; 0 when there is none."""
        quotes = [quote.hourly for quote in self.quotes if quote.accelerator == accelerator and quote.currency == "USD"]
        return statistics.median(quotes) if quotes else 0.0


@cache
def packaged() -> PriceBook:
    """The price book that comes with the program."""
    return read(raw("prices.csv"), "prices-2026-07")


def from_file(path: Path) -> PriceBook:
    """A user's price book. Raises PriceBookError with the line, OSError when the file cannot be read."""
    return read(path.read_bytes(), path.stem)


def read(content: bytes, book_id: str) -> PriceBook:
    """A price book from CSV with the columns above. Raises PriceBookError."""
    rows = csv.DictReader(io.StringIO(content.decode("utf-8-sig")))
    missing = [column for column in COLUMNS if column not in (rows.fieldnames or ())]
    if missing:
        raise PriceBookError(f"line 1: the column {missing[0]!r} is missing; needed are {', '.join(COLUMNS)}")
    quotes = tuple(_quote(line, row) for line, row in enumerate(rows, start=2))
    return PriceBook(quotes, book_id, hashlib.sha256(content).hexdigest())


def _quote(line: int, row: dict[str, str]) -> Quote:
    try:
        hourly = float(row["hourly_price"])
    except (TypeError, ValueError):
        hourly = -1.0
    if not 0 <= hourly < 1e6:
        raise PriceBookError(f"line {line}: hourly_price must be a number from 0 to 1,000,000")
    others = {column: (row[column] or "").strip() for column in COLUMNS if column != "hourly_price"}
    if not others["price_id"] or not others["accelerator"] or len(others["currency"]) != 3:
        raise PriceBookError(f"line {line}: price_id, accelerator and a three-letter currency are required")
    return Quote(hourly=hourly, **others)
