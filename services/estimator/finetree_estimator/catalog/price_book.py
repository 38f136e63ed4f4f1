# SPDX-License-Identifier: Apache-2.0
"""Prices of one device for an hour, and the book that they stand in."""

import hashlib
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from finetree_estimator.catalog.names import UnknownNameError, nearest_names


class Term(Enum):
    """How a price is committed to; the names are those of the contract's PriceTerm."""

    # Enum's own hashes the name, in Python; members are single, so their identity will do.
    __hash__ = object.__hash__

    ON_DEMAND = "on-demand"
    SPOT = "spot"
    RESERVED = "reserved"


@dataclass(frozen=True, slots=True)
class Owned:
    """Own hardware: electricity at `tariff` per kilowatt-hour; `watts` 0 means the device's figure."""

    tariff: float
    currency: str
    watts: float = 0.0


@dataclass(frozen=True, slots=True)
class Rented:
    """A price of the price book: currency units per device and hour."""

    price_id: str
    provider: str
    hourly: float
    """Of one device."""
    currency: str
    date: str
    source: str
    region: str = ""
    term: Term = Term.ON_DEMAND
    min_count: int = 1
    """Devices that it is sold in: whole multiples of it are paid."""


@dataclass(frozen=True, slots=True)
class Quote:
    """Currency units for one device and hour."""

    price_id: str
    accelerator: str
    """By its catalogue name."""
    provider: str
    hourly: float
    currency: str
    date: str
    """ISO 8601, of a day, a month or a year."""
    source: str
    region: str = ""
    term: Term = Term.ON_DEMAND
    min_count: int = 1
    """Devices of the smallest instance; larger ones are multiples of it."""

    def hourly_of(self, devices: int) -> float:
        """Price of an hour of the instances that hold so many devices."""
        return self.hourly * billed(devices, self.min_count)

    def terms(self) -> Rented:
        """The quote as terms of payment."""
        return Rented(
            self.price_id,
            self.provider,
            self.hourly,
            self.currency,
            self.date,
            self.source,
            self.region,
            self.term,
            self.min_count,
        )


@dataclass(frozen=True, slots=True)
class PriceBook:
    """Quotes with what identifies them."""

    quotes: tuple[Quote, ...]
    book_id: str
    sha256: str
    _groups: Mapping[str, tuple[Quote, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        groups: dict[str, list[Quote]] = {}
        for quote in self.quotes:
            groups.setdefault(quote.accelerator, []).append(quote)
        # The dataclass is frozen; what is derived from its fields is set once, here.
        object.__setattr__(self, "_groups", {name: tuple(group) for name, group in groups.items()})

    def __hash__(self) -> int:
        # The digest stands for the quotes, which take a hundred times as long to hash.
        return hash(self.sha256)

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

    def cheapest(self, accelerator: str, devices: int = 1) -> Quote | None:
        """The lowest price of so many accelerators, by their catalogue name; None when there is no quote.

        On demand before spot and reserved, which not everybody can have; in US dollars before any other currency, since
        amounts of different currencies have no order.
        """
        return min(self.of(accelerator), key=lambda quote: _preference(quote, devices), default=None)

    def of(self, accelerator: str) -> tuple[Quote, ...]:
        """The quotes of an accelerator by its catalogue name."""
        return self._groups.get(accelerator, ())

    def typical(self, accelerator: str) -> float | None:
        """Median of an accelerator's quotes on demand in USD per hour; None where there is no such quote."""
        quotes = [
            quote.hourly for quote in self.of(accelerator) if quote.currency == "USD" and quote.term is Term.ON_DEMAND
        ]
        return statistics.median(quotes) if quotes else None

    def extended(self, other: "PriceBook") -> "PriceBook":
        """This book with the quotes of another; where both have an id, the other's counts."""
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
