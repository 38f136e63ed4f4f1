# SPDX-License-Identifier: Apache-2.0
"""Offers of the price book on which a run fits: the same run on other accelerators, the cheapest run first."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from finetree_runtime.errors import DomainError

from finetree_estimator import cost
from finetree_estimator import estimate as engine
from finetree_estimator.catalog.accelerators import AcceleratorEntry, accelerator
from finetree_estimator.catalog.price_book import PriceBook, Quote
from finetree_estimator.evidence.corrections import Correction
from finetree_estimator.intervals import BeyondLimitError, Interval
from finetree_estimator.memory.fit import Verdict
from finetree_estimator.run import Run

MOST = 8
"""Offers that an answer holds."""
MOST_ESTIMATES = 12
"""Accelerators that a run is estimated on: those whose price of a FLOP is lowest (an estimate takes about 0.3 ms)."""


Move = Callable[[AcceleratorEntry], tuple[Run, Correction]]


@dataclass(frozen=True, slots=True)
class Offer:
    """A quote, and the run on it: hours, and the cost in the quote's currency."""

    quote: Quote
    devices: int
    hours: Interval
    amount: Interval
    verdict: Verdict


def search(run: Run, estimate: engine.Estimate, book: PriceBook, move: Move) -> list[Offer]:
    """At most MOST quotes of the whole book on which the run fits as it is, by expected cost.

    Amounts of different currencies have no order, so all are in one: that of the run's own cost, or else US dollars.
    Empty where the time is unknown. `estimate` is the run's own, `move` gives the run on another accelerator, with what
    observed runs correct there; it raises DomainError where the run cannot be there.
    """
    if estimate.times is None:
        return []
    currency = (estimate.cost.currency if estimate.cost is not None else "") or "USD"
    found = [
        offer
        for entry in _candidates(run, estimate, book, currency)
        for offer in _on(move, entry, book.of(entry.name), currency)
    ]
    return sorted(found, key=lambda offer: (offer.amount.expected, offer.quote.price_id))[:MOST]


def _candidates(run: Run, estimate: engine.Estimate, book: PriceBook, currency: str) -> list[AcceleratorEntry]:
    """The most promising accelerators: what the run needs here it needs there, nearly, and a FLOP is cheap."""
    price: dict[str, float] = {}
    for quote in book.quotes:
        if quote.currency == currency:
            hourly = quote.hourly_of(run.devices)
            price[quote.accelerator] = min(price.get(quote.accelerator, hourly), hourly)
    needed = estimate.fit.peak.low
    entries = [accelerator(name) for name in price]
    large = [entry for entry in entries if not entry.unsupported and entry.usable_bytes >= needed]
    return sorted(large, key=lambda entry: (price[entry.name] / entry.training_flops, entry.name))[:MOST_ESTIMATES]


def _on(move: Move, entry: AcceleratorEntry, quotes: Iterable[Quote], currency: str) -> Iterator[Offer]:
    """The offers of one accelerator; none where the run cannot be, or does not surely fit."""
    try:
        run, correction = move(entry)
        estimate = engine.estimate(run, correction)
    except (BeyondLimitError, DomainError):
        return
    if estimate.fit.verdict is not Verdict.FITS or estimate.times is None:
        return
    hours = estimate.times.total.scaled(1 / 3600)
    for quote in quotes:
        if quote.currency == currency:
            amount = cost.rent(hours, quote.terms(), run.devices)
            yield Offer(quote, run.devices, hours, amount, estimate.fit.verdict)
