# SPDX-License-Identifier: Apache-2.0
"""Other hardware for a run: the smallest on which it fits, and the cheapest offers of the price book."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from finetree_api.types.v1 import hardware_pb2, run_spec_pb2
from finetree_runtime.errors import DomainError

from finetree_estimator import constants as c
from finetree_estimator import cost
from finetree_estimator.catalog.accelerators import AcceleratorEntry, accelerator, supported
from finetree_estimator.catalog.devices import known
from finetree_estimator.catalog.price_book import PriceBook, Quote
from finetree_estimator.estimate import estimate, fit_of
from finetree_estimator.evidence.calibration import EMPTY, Calibration, correction_for
from finetree_estimator.evidence.corrections import Correction
from finetree_estimator.intervals import BeyondLimitError, Interval
from finetree_estimator.memory.fit import Verdict
from finetree_estimator.run import Run
from finetree_estimator.spec.parse import ParsedRequest, parse_request, with_spec
from finetree_estimator.spec.resolve import Knowledge
from finetree_estimator.spec.settings import is_fp32
from finetree_estimator.whatif.fallbacks import Answer

COUNTS = (1, 2, 4, 8)
"""Numbers of devices that are tried: up to one machine's."""
NEAR = 0.95
"""Least memory of an accelerator that is tried, as a share of the peak's upper end elsewhere (they differ little)."""
CONTEXTS = 1.5 * (c.CUDA_CONTEXT - min(c.CUDA_CONTEXTS.values()))
"""Most bytes by which that end is lower elsewhere for a smaller CUDA context."""
NEAR_OBSERVED = 0.5
"""NEAR with a calibration, whose factors differ between accelerators."""
MAX_OFFERS = 8
"""Most offers in an answer."""
MAX_ESTIMATES = 12
"""Most accelerators that a run is estimated on for offers: those with the lowest price per FLOP."""


@dataclass(frozen=True, slots=True)
class Option:
    """Hardware on which a run fits; sizes in bytes per device."""

    accelerator: str
    """Catalog name."""
    count: int
    peak: Interval
    usable_bytes: int
    verdict: Verdict

    @property
    def sharding(self) -> hardware_pb2.Sharding.ValueType:
        """Full sharding where there are several devices."""
        return sharding_of(self.count)


@dataclass(frozen=True, slots=True)
class Offer:
    """A quote, with the hours of the run and its cost in the quote's currency."""

    quote: Quote
    devices: int
    hours: Interval
    amount: Interval
    verdict: Verdict


def sharding_of(count: int) -> hardware_pb2.Sharding.ValueType:
    """Sharding of an option with `count` devices."""
    return hardware_pb2.SHARDING_FULL if count > 1 else hardware_pb2.SHARDING_REPLICATED


def smallest(parsed: ParsedRequest, knowledge: Knowledge, calibration: Calibration = EMPTY) -> list[Option]:
    """Find the smallest memory size that fits, for each number of devices; omitted where fewer devices suffice.

    Of a memory size the accelerator with the lowest price per FLOP is named. Empty for a run on a CPU.
    """
    if parsed.run.device.is_cpu:
        return []
    options: list[Option] = []
    ascending = _ascending(knowledge.prices)
    for count in COUNTS:
        try:
            there = parse_request(with_spec(parsed.request, _on(parsed.spec, ascending[-1], count)), knowledge)
        except DomainError:
            continue  # the spec does not allow this number of devices
        smaller = (entry for entry in ascending if not options or entry.marketed_gb < _class_of(options[-1]))
        option = _smallest(there, smaller, knowledge, calibration=calibration)
        if option is not None:
            options.append(option)
    return options


def _smallest(
    there: ParsedRequest, entries: Iterator[AcceleratorEntry], knowledge: Knowledge, *, calibration: Calibration
) -> Option | None:
    """Find the first accelerator on which a run fits, with the run's number of devices."""
    share = NEAR_OBSERVED if calibration.points else NEAR
    correction = correction_for(there.spec, calibration)
    near = share * (fit_of(there.run, correction)[1].peak.high - CONTEXTS)
    for entry in entries:
        if entry.usable_bytes < near:
            continue
        run = moved(there, entry, knowledge)
        peaks, fit = fit_of(run, correction_on(there, entry, calibration))
        if fit.verdict is Verdict.FITS:
            return Option(
                accelerator=entry.name,
                count=run.devices,
                peak=peaks.device,
                usable_bytes=run.device.usable_bytes,
                verdict=fit.verdict,
            )
    return None


def offers(answer: Answer, knowledge: Knowledge, calibration: Calibration = EMPTY) -> list[Offer]:
    """Find at most MAX_OFFERS quotes on which the run fits unchanged, sorted by expected cost.

    All are in one currency, since amounts of different currencies cannot be compared: that of the run's own cost, or
    else US dollars. Empty where the time is unknown.
    """
    if answer.estimate.times is None:
        return []
    own = answer.estimate.cost
    currency = (own.currency if own is not None else "") or "USD"
    found = [
        offer
        for entry in _candidates(answer, knowledge.prices, currency)
        for offer in _offers_of(answer.parsed, entry, knowledge, calibration=calibration)
        if offer.quote.currency == currency
    ]
    return sorted(found, key=lambda offer: (offer.amount.expected, offer.quote.price_id))[:MAX_OFFERS]


def _candidates(answer: Answer, book: PriceBook, currency: str) -> list[AcceleratorEntry]:
    """Select at most MAX_ESTIMATES accelerators with enough memory, by price per FLOP."""
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
    parsed: ParsedRequest, entry: AcceleratorEntry, knowledge: Knowledge, *, calibration: Calibration
) -> Iterator[Offer]:
    """Generate the offers of one accelerator in all currencies; none where the run is invalid or may not fit."""
    try:
        run = moved(parsed, entry, knowledge)
        found = estimate(run, correction_on(parsed, entry, calibration))
    except (BeyondLimitError, DomainError):
        return
    if found.fit.verdict is not Verdict.FITS or found.times is None:
        return
    hours = found.times.total.scaled(1 / 3600)
    for quote in knowledge.prices.of(entry.name):
        amount = cost.rent(hours, quote, run.devices)
        yield Offer(quote=quote, devices=run.devices, hours=hours, amount=amount, verdict=found.fit.verdict)


def moved(parsed: ParsedRequest, entry: AcceleratorEntry, knowledge: Knowledge) -> Run:
    """Move a run to another accelerator, with the same number of devices and without a price.

    A run on a CPU is parsed anew, since some defaults differ on a GPU. Raises DomainError where its settings conflict
    with that accelerator.
    """
    if parsed.run.device.is_cpu:
        spec = _on(parsed.request.spec, entry)
        return replace(parse_request(with_spec(parsed.request, spec), knowledge).run, payment=None)
    return replace(parsed.run, device=known(entry, fp32=is_fp32(parsed.spec)), payment=None)


def correction_on(parsed: ParsedRequest, entry: AcceleratorEntry, calibration: Calibration) -> Correction:
    """Look up the correction of the run on another accelerator."""
    spec = run_spec_pb2.RunSpec(
        model=parsed.spec.model,
        hardware=hardware_pb2.Hardware(accelerator=entry.name),
        program=parsed.spec.program,
    )
    return correction_for(spec, calibration)


def _on(spec: run_spec_pb2.RunSpec, entry: AcceleratorEntry, count: int = 0) -> run_spec_pb2.RunSpec:
    """Copy a spec with other hardware and without a price; `count` 0 means the default."""
    changed = run_spec_pb2.RunSpec()
    changed.CopyFrom(spec)
    changed.ClearField("ownership")
    hardware = hardware_pb2.Hardware(accelerator=entry.name)
    if count:
        hardware.count, hardware.sharding = count, sharding_of(count)
    changed.hardware.CopyFrom(hardware)
    return changed


def _ascending(prices: PriceBook) -> list[AcceleratorEntry]:
    """Supported accelerators by marketed memory, then by price per FLOP; those without a price last."""

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
    """Marketed memory of an option's accelerator, in GB."""
    return accelerator(option.accelerator).marketed_gb
