# SPDX-License-Identifier: Apache-2.0
"""Other hardware for a run: the smallest on which it fits, and offers of the price book, cheapest run first."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from finetree_api.types.v1 import hardware_pb2, run_spec_pb2
from finetree_runtime.errors import DomainError

from finetree_estimator import constants as c
from finetree_estimator import cost
from finetree_estimator.catalog.accelerators import AcceleratorEntry, accelerator, supported
from finetree_estimator.catalog.price_book import PriceBook, Quote
from finetree_estimator.estimate import estimate, fit_of
from finetree_estimator.evidence.calibration import EMPTY, Calibration, correction_for
from finetree_estimator.evidence.corrections import Correction
from finetree_estimator.intervals import BeyondLimitError, Interval
from finetree_estimator.memory.fit import Verdict
from finetree_estimator.run import Run
from finetree_estimator.spec.parse import ParsedRequest, parse_request, with_spec
from finetree_estimator.spec.resolve import Knowledge, read_device
from finetree_estimator.spec.settings import is_fp32
from finetree_estimator.whatif.fallbacks import Answer

COUNTS = (1, 2, 4, 8)
"""Devices that are tried: one machine's, in powers of two."""
NEAR = 0.95
"""Share of the upper end of the peak on another accelerator from which on one is tried: it depends little on it."""
CONTEXTS = 1.5 * (c.CUDA_CONTEXT - min(c.CUDA_CONTEXTS.values()))
"""Bytes by which the CUDA context makes that end lower elsewhere, at most."""
NEAR_OBSERVED = 0.5
"""NEAR where runs were observed, whose factors differ between accelerators."""
MAX_OFFERS = 8
"""Offers that an answer holds."""
MAX_ESTIMATES = 12
"""Accelerators that a run is estimated on for offers: those whose price of a FLOP is lowest."""


@dataclass(frozen=True, slots=True)
class Option:
    """Hardware on which a run fits; sizes in bytes, of one device."""

    accelerator: str
    """Catalogue name."""
    count: int
    peak: Interval
    usable_bytes: int
    verdict: Verdict

    @property
    def sharding(self) -> hardware_pb2.Sharding.ValueType:
        """What the devices share: everything, where there are several."""
        return sharding_of(self.count)


@dataclass(frozen=True, slots=True)
class Offer:
    """A quote, and the run on it: hours, and the cost in the quote's currency."""

    quote: Quote
    devices: int
    hours: Interval
    amount: Interval
    verdict: Verdict


def sharding_of(count: int) -> hardware_pb2.Sharding.ValueType:
    """What so many devices share in an option."""
    return hardware_pb2.SHARDING_FULL if count > 1 else hardware_pb2.SHARDING_REPLICATED


def smallest(parsed: ParsedRequest, knowledge: Knowledge, calibration: Calibration = EMPTY) -> list[Option]:
    """For each number of devices the smallest memory class that fits, if no fewer devices of its size do.

    Of a class the accelerator with the lowest price for its speed is named. None for a run on a CPU.
    """
    if parsed.run.device.is_cpu:
        return []
    options: list[Option] = []
    ascending = _ascending(knowledge.prices)
    for count in COUNTS:
        try:
            there = parse_request(with_spec(parsed.request, _on(parsed.spec, ascending[-1], count)), knowledge)
        except DomainError:
            continue  # the spec cannot be run on so many devices
        smaller = (entry for entry in ascending if not options or entry.marketed_gb < _class_of(options[-1]))
        option = _smallest(there, smaller, knowledge, calibration)
        if option is not None:
            options.append(option)
    return options


def _smallest(
    there: ParsedRequest, entries: Iterator[AcceleratorEntry], knowledge: Knowledge, calibration: Calibration
) -> Option | None:
    """The first accelerator of which as many as a run has do."""
    share = NEAR_OBSERVED if calibration.points else NEAR
    correction = correction_for(there.spec, calibration)
    near = share * (fit_of(there.run, correction)[1].peak.high - CONTEXTS)
    for entry in entries:
        if entry.usable_bytes < near:
            continue
        run = moved(there, entry, knowledge)
        peaks, fit = fit_of(run, correction_on(there, entry, calibration))
        if fit.verdict is Verdict.FITS:
            return Option(entry.name, run.devices, peaks.device, run.device.usable_bytes, fit.verdict)
    return None


def offers(answer: Answer, knowledge: Knowledge, calibration: Calibration = EMPTY) -> list[Offer]:
    """At most MAX_OFFERS quotes of the whole price book on which the run fits as it is, by expected cost.

    Amounts of different currencies have no order, so all are in one: that of the run's own cost, or else US dollars.
    Empty where the time is unknown.
    """
    if answer.estimate.times is None:
        return []
    own = answer.estimate.cost
    currency = (own.currency if own is not None else "") or "USD"
    found = [
        offer
        for entry in _candidates(answer, knowledge.prices, currency)
        for offer in _offers_of(answer.parsed, entry, knowledge, calibration)
        if offer.quote.currency == currency
    ]
    return sorted(found, key=lambda offer: (offer.amount.expected, offer.quote.price_id))[:MAX_OFFERS]


def _candidates(answer: Answer, book: PriceBook, currency: str) -> list[AcceleratorEntry]:
    """The most promising accelerators: what the run needs here it needs there, nearly, and a FLOP is cheap."""
    price: dict[str, float] = {}
    for quote in book.quotes:
        if quote.currency == currency:
            hourly = quote.hourly_of(answer.parsed.run.devices)
            price[quote.accelerator] = min(price.get(quote.accelerator, hourly), hourly)
    needed = answer.estimate.fit.peak.low
    entries = [accelerator(name) for name in price]
    large = [entry for entry in entries if not entry.unsupported and entry.usable_bytes >= needed]
    return sorted(large, key=lambda entry: (price[entry.name] / entry.training_flops, entry.name))[:MAX_ESTIMATES]


def _offers_of(
    parsed: ParsedRequest, entry: AcceleratorEntry, knowledge: Knowledge, calibration: Calibration
) -> Iterator[Offer]:
    """The offers of one accelerator in any currency; none where the run cannot be, or does not surely fit."""
    try:
        run = moved(parsed, entry, knowledge)
        found = estimate(run, correction_on(parsed, entry, calibration))
    except (BeyondLimitError, DomainError):
        return
    if found.fit.verdict is not Verdict.FITS or found.times is None:
        return
    hours = found.times.total.scaled(1 / 3600)
    for quote in knowledge.prices.of(entry.name):
        amount = cost.rent(hours, quote.terms(), run.devices)
        yield Offer(quote, run.devices, hours, amount, found.fit.verdict)


def moved(parsed: ParsedRequest, entry: AcceleratorEntry, knowledge: Knowledge) -> Run:
    """The run on as many accelerators of another kind, without terms of payment.

    Of a run on a CPU settings that were left open mean something else there. Raises DomainError where the settings that
    it gives do not go with that accelerator.
    """
    if parsed.run.device.is_cpu:
        spec = _on(parsed.request.spec, entry)
        return replace(parse_request(with_spec(parsed.request, spec), knowledge).run, payment=None)
    device = read_device(hardware_pb2.Hardware(accelerator=entry.name), fp32=is_fp32(parsed.spec))
    return replace(parsed.run, device=device, payment=None)


def correction_on(parsed: ParsedRequest, entry: AcceleratorEntry, calibration: Calibration) -> Correction:
    """What observed runs correct in an estimate of the run on another accelerator."""
    spec = run_spec_pb2.RunSpec(
        model=parsed.spec.model,
        hardware=hardware_pb2.Hardware(accelerator=entry.name),
        program=parsed.spec.program,
    )
    return correction_for(spec, calibration)


def _on(spec: run_spec_pb2.RunSpec, entry: AcceleratorEntry, count: int = 0) -> run_spec_pb2.RunSpec:
    """The spec for so many accelerators of one kind, at any price."""
    changed = run_spec_pb2.RunSpec()
    changed.CopyFrom(spec)
    changed.ClearField("ownership")
    hardware = hardware_pb2.Hardware(accelerator=entry.name)
    if count:
        hardware.count, hardware.sharding = count, sharding_of(count)
    changed.hardware.CopyFrom(hardware)
    return changed


def _ascending(prices: PriceBook) -> list[AcceleratorEntry]:
    """Accelerators that can be trained on, by memory as sold, then by price for speed; those without a price last."""

    def rank(entry: AcceleratorEntry) -> tuple[float, float, float, str]:
        price = prices.typical(entry.name)
        return (
            entry.marketed_gb,
            price / entry.training_flops if price else float("inf"),
            -entry.training_flops,
            entry.name,
        )

    return sorted(supported(), key=rank)


def _class_of(option: Option) -> float:
    """GB that its accelerator is sold as."""
    return accelerator(option.accelerator).marketed_gb
