# SPDX-License-Identifier: Apache-2.0
"""Prices per device and hour, price books, and their CSV format."""

import csv
import hashlib
import io
import math
import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from enum import Enum
from functools import cache
from pathlib import Path

from finetree_estimator.catalog.accelerators import accelerator
from finetree_estimator.catalog.names import UnknownNameError, is_currency, nearest_names, raw


class Term(Enum):
    """Commitment of a price; the names are those of the contract's PriceTerm."""

    ON_DEMAND = "on-demand"
    SPOT = "spot"
    RESERVED = "reserved"


@dataclass(frozen=True, slots=True)
class Owned:
    """Owned hardware: electricity at `tariff` per kilowatt-hour; `watts` 0 means the device's power."""

    tariff: float
    currency: str
    watts: float = 0.0


@dataclass(frozen=True, slots=True)
class Quote:
    """A price of the book: currency units for one device and hour, paid for whole instances."""

    price_id: str
    accelerator: str
    """Catalog name."""
    provider: str
    hourly: float
    currency: str
    date: str
    """Day, month or year in ISO 8601."""
    source: str
    region: str = ""
    term: Term = Term.ON_DEMAND
    min_count: int = 1
    """Devices of an instance: whole multiples of it are paid."""

    def hourly_of(self, devices: int) -> float:
        """Price per hour of the instances that `devices` devices need."""
        return self.hourly * billed(devices, self.min_count)


@dataclass(frozen=True, slots=True)
class PriceBook:
    """Quotes with an identifier and a hash."""

    quotes: tuple[Quote, ...]
    book_id: str
    sha256: str
    _groups: Mapping[str, tuple[Quote, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        groups: dict[str, list[Quote]] = {}
        for quote in self.quotes:
            groups.setdefault(quote.accelerator, []).append(quote)
        # Set once: the dataclass is frozen, and lookups by accelerator are frequent.
        object.__setattr__(self, "_groups", {name: tuple(group) for name, group in groups.items()})

    @property
    def date(self) -> str:
        """Date of the newest quote."""
        return max((quote.date for quote in self.quotes), default="")

    def find(self, price_id: str) -> Quote:
        """Look up a quote by its id. Raises UnknownNameError."""
        for quote in self.quotes:
            if quote.price_id == price_id:
                return quote
        raise UnknownNameError(price_id, nearest_names(price_id, (quote.price_id for quote in self.quotes)))

    def cheapest(self, accelerator: str, devices: int = 1) -> Quote | None:
        """Lowest price of `devices` accelerators of a catalog name; None where there is no quote.

        Prefers on-demand terms, which are open to everyone, to spot and reserved ones, and US dollars to other
        currencies, since amounts of different currencies cannot be compared.
        """
        return min(self.of(accelerator), key=lambda quote: _preference(quote, devices), default=None)

    def of(self, accelerator: str) -> tuple[Quote, ...]:
        """Quotes of an accelerator by its catalog name."""
        return self._groups.get(accelerator, ())

    def typical(self, accelerator: str) -> float | None:
        """Median of an accelerator's on-demand quotes in USD per hour; None where there is none."""
        quotes = [
            quote.hourly for quote in self.of(accelerator) if quote.currency == "USD" and quote.term is Term.ON_DEMAND
        ]
        return statistics.median(quotes) if quotes else None

    def only(self, accepts: Callable[[Quote], bool]) -> "PriceBook":
        """Keep the quotes that are accepted, under the same id and hash: to search in, not to answer from."""
        return PriceBook(tuple(filter(accepts, self.quotes)), self.book_id, self.sha256)

    def extended(self, other: "PriceBook") -> "PriceBook":
        """Add the quotes of another book; of equal ids, the other book's quote is kept."""
        theirs = {quote.price_id for quote in other.quotes}
        kept = tuple(quote for quote in self.quotes if quote.price_id not in theirs)
        digest = hashlib.sha256((self.sha256 + other.sha256).encode()).hexdigest()
        return PriceBook(kept + other.quotes, f"{self.book_id}+{other.book_id}", digest)


def billed(devices: int, min_count: int) -> int:
    """Devices that are paid where only whole instances of `min_count` are sold."""
    return math.ceil(devices / min_count) * min_count


def _preference(quote: Quote, devices: int) -> tuple[bool, bool, str, float, str]:
    rank = quote.hourly_of(devices)
    return quote.term is not Term.ON_DEMAND, quote.currency != "USD", quote.currency, rank, quote.price_id


COLUMNS = ("price_id", "accelerator", "provider", "hourly_price", "currency", "date", "source")
"""Required columns of a price book file (CSV with a header)."""
OPTIONAL_COLUMNS = ("region", "term", "min_count")
"""Optional columns; their defaults are no region, on-demand and 1."""
MOST_DEVICES = 4096
"""Largest `min_count`, equal to the most devices of a run."""
MOST_BYTES = 16 << 20
"""Largest price book file, in bytes."""

_DATE = re.compile(r"\d{4}(-(0[1-9]|1[0-2])(-(0[1-9]|[12]\d|3[01]))?)?")
_LONGEST = {"price_id": 128, "provider": 128, "region": 128, "source": 512}


class PriceBookError(ValueError):
    """An invalid price book; the text names the line, the column and the problem."""


@cache
def packaged() -> PriceBook:
    """Read the built-in price book."""
    return read(raw("prices.csv"), "prices-2026-07")


def from_file(path: Path) -> PriceBook:
    """Read a price book file. Raises PriceBookError with the line, OSError where the file cannot be read."""
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise PriceBookError(f"is larger than {MOST_BYTES >> 20} MiB")
    return read(content, path.stem)


def read(content: bytes, book_id: str) -> PriceBook:
    """Read a price book from CSV with the columns above. Raises PriceBookError."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise PriceBookError(f"line {line}: not UTF-8") from error
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        _check_columns(rows.fieldnames or ())
        quotes = tuple(_quotes(rows))
    except csv.Error as error:
        raise PriceBookError(f"line {rows.line_num + 1}: not CSV: {error}") from error
    return PriceBook(quotes, book_id, hashlib.sha256(content).hexdigest())


def _check_columns(names: Iterable[str]) -> None:
    found = list(names)
    for column in COLUMNS:
        if column not in found:
            raise PriceBookError(f"line 1: the column {column!r} is missing; required are {', '.join(COLUMNS)}")
    for column in found:
        if column not in COLUMNS + OPTIONAL_COLUMNS:
            raise PriceBookError(f"line 1: unknown column {column!r}; optional are {', '.join(OPTIONAL_COLUMNS)}")
        if found.count(column) > 1:
            raise PriceBookError(f"line 1: the column {column!r} occurs twice")


def _quotes(rows: "csv.DictReader[str]") -> Iterator[Quote]:
    lines: dict[str, int] = {}
    for row in rows:
        line = rows.line_num
        try:
            quote = _quote(row)
        except _ColumnError as error:
            raise PriceBookError(f"line {line}: {error}") from error
        first = lines.setdefault(quote.price_id, line)
        if first != line:
            raise PriceBookError(f"line {line}: price_id: {quote.price_id!r} is already the id of line {first}")
        yield quote


class _ColumnError(ValueError):
    """An invalid cell of a row."""

    def __init__(self, column: str, text: str) -> None:
        super().__init__(f"{column}: {text}")


def _quote(row: Mapping[str | None, str | None]) -> Quote:
    if None in row:
        raise _ColumnError("row", "has more cells than the header")
    cells = {name: (text or "").strip() for name, text in row.items() if name is not None}
    for column in ("price_id", "provider", "source"):
        if not cells[column]:
            raise _ColumnError(column, "is empty")
    for column, most in _LONGEST.items():
        if len(cells.get(column, "")) > most:
            raise _ColumnError(column, f"is longer than {most} characters")
        if not cells.get(column, "").isprintable():
            raise _ColumnError(column, "contains a character that is not printable")
    if not _is_date(cells["date"]):
        raise _ColumnError("date", f"{cells['date']!r} is not an ISO 8601 date such as 2026-07-15, 2026-07 or 2026")
    return Quote(
        price_id=cells["price_id"],
        accelerator=_accelerator(cells["accelerator"]),
        provider=cells["provider"],
        hourly=_hourly(cells["hourly_price"]),
        currency=_currency(cells["currency"]),
        date=cells["date"],
        source=cells["source"],
        region=cells.get("region", ""),
        term=_term(cells.get("term", "")),
        min_count=_min_count(cells.get("min_count", "")),
    )


def _is_date(text: str) -> bool:
    """Whether a text is an existing year, month or day in ISO 8601."""
    if not _DATE.fullmatch(text):
        return False
    try:
        date.fromisoformat(text + "0000-01-01"[len(text) :])
    except ValueError:
        return False
    return True


def _accelerator(text: str) -> str:
    try:
        return accelerator(text).name
    except UnknownNameError as error:
        nearest = f"; did you mean {', '.join(error.nearest)}?" if error.nearest else ""
        raise _ColumnError("accelerator", f"no {text[:80]!r} in the catalog{nearest}") from error


def _hourly(text: str) -> float:
    try:
        # float() would also accept "1_0" and digits of other scripts.
        hourly = float(text) if re.fullmatch(r"[\d.eE+-]+", text, re.ASCII) else math.nan
    except ValueError:
        hourly = math.nan
    if not 0 <= hourly < 1e6:
        raise _ColumnError("hourly_price", f"{text[:40]!r} is not a number from 0 to 1,000,000")
    return hourly


def _currency(text: str) -> str:
    if not is_currency(text):
        raise _ColumnError("currency", f"{text[:40]!r} is not a three-letter code such as USD")
    return text.upper()


def _term(text: str) -> Term:
    try:
        return Term(text.lower() or Term.ON_DEMAND.value)
    except ValueError as error:
        raise _ColumnError("term", f"{text[:40]!r} is not one of {', '.join(term.value for term in Term)}") from error


def _min_count(text: str) -> int:
    if not re.fullmatch(r"\d{0,5}", text, re.ASCII) or not 1 <= int(text or 1) <= MOST_DEVICES:
        raise _ColumnError("min_count", f"{text[:40]!r} is not a whole number from 1 to {MOST_DEVICES}")
    return int(text or 1)
